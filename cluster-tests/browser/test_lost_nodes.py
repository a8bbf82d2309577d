"""Nodes are killed while a page is open."""

from __future__ import annotations

import re

from browser import Browser
from cluster import NODES, Cluster, to


def told(browser: Browser, instance: str) -> bool:
    """Whether the events tell of its registration. That page is live by its watch alone, others also read again."""
    return any(row[3] == "instance" and row[4] == f"pay/{instance}" for row in browser.rows("Events"))


def test_the_page_goes_on_live_when_the_leader_is_killed(cluster: Cluster, browser: Browser) -> None:
    cluster.register("pay", "before")
    leader = cluster.leader()
    mine = next(node for node in NODES if node != leader)
    browser.open(cluster.base(mine), "events")
    browser.until("the cluster is healthy", lambda: browser.text("#health a") == "Healthy")
    cluster.kill(leader)
    cluster.register("pay", "during")
    browser.until("what registered meanwhile is shown", lambda: told(browser, "during"))
    browser.until("the lost node is told of", lambda: browser.text("#health a") == "Degraded")
    assert leader in browser.run("return document.querySelector('#health a').title")
    assert not browser.find("#banner").is_displayed()
    cluster.start_node(leader)
    cluster.wait_until_ready(leader)
    browser.until("the cluster is healthy again", lambda: browser.text("#health a") == "Healthy")
    assert browser.was_never_reloaded()


def test_the_banner_shows_while_the_pages_own_node_is_gone_and_the_page_catches_up(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"net::ERR_")
    cluster.register("pay", "kept")
    browser.open(cluster.base("1"), "events")
    cluster.kill("1")
    browser.until("the banner shows", lambda: browser.find("#banner").is_displayed())
    assert "Connection lost" in browser.text("#banner")
    assert browser.text("#health a") == "Unreachable"
    browser.until("the other nodes are offered", lambda: browser.run(
        "return [...document.querySelectorAll('#banner a')].map(link => link.href)") == [
            f"{cluster.base(node)}/ui/#/events" for node in ("2", "3")])
    # What was known stays to be seen.
    assert told(browser, "kept")
    cluster.register("pay", "missed")
    cluster.start_node("1")
    cluster.wait_until_ready("1")
    browser.until("the banner goes", lambda: not browser.find("#banner").is_displayed())
    browser.until("what was missed is shown", lambda: told(browser, "missed"))
    cluster.register("pay", "after")
    browser.until("the page is live again", lambda: told(browser, "after"))
    assert browser.was_never_reloaded()


def test_without_a_majority_no_page_names_a_leader_and_each_says_what_that_means(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"status of 50[34]")
    cluster.register("pay", "old")
    cluster.call("PUT", to("apps", "pay", "ring"), {"seed": 1, "replicas": 1})
    leader = cluster.leader()
    others = [node for node in NODES if node != leader]
    # The one that led: it may go on naming itself for a while.
    browser.open(cluster.base(leader))
    browser.until("the cluster is healthy", lambda: browser.text("#health a") == "Healthy")
    applied = cluster.get("/v1/node", node=leader)["applied"]
    for node in others:
        cluster.kill(node)
    browser.until("the page says so", lambda: browser.text("#health a") == "No leader")
    assert "health-bad" in browser.find("#health a").get_attribute("class")
    assert f"leader is node {leader}" not in browser.text("#health")
    assert browser.figures()["Leader"] == "none"
    assert "leader" not in browser.run("return [...document.querySelectorAll('.role')].map(role => role.textContent)")
    told = browser.text("#banner")
    assert browser.find("#banner").is_displayed()
    assert "nothing can be written" in told
    assert f"as of revision {applied:,}" in told
    assert f"nodes {', '.join(others)} not reached" in told
    browser.open(cluster.base(leader), "cluster")
    browser.until("the nodes are shown", lambda: len(browser.rows("Nodes")) == 3)
    assert [row[1] for row in browser.rows("Nodes") if row[0] in others] == ["not reached", "not reached"]
    assert "No alarm." not in browser.text()
    # What is known stays to be seen, also what is worked out of it.
    browser.open(cluster.base(leader), "ring", "pay")
    browser.until("the ring is shown", lambda: browser.rows("Owners of the ring of pay"))
    browser.open(cluster.base(leader), "apps", "pay")
    assert browser.row("Instances of pay", "old")
    for node in others:
        cluster.start_node(node)
    browser.until("the banner goes", lambda: not browser.find("#banner").is_displayed())
    cluster.register("pay", "new")
    browser.until("the page is live again", lambda: browser.row("Instances of pay", "new"))
    browser.until("the cluster is healthy again", lambda: browser.text("#health a") == "Healthy")
    assert browser.was_never_reloaded()


def test_a_frozen_node_is_said_not_to_answer_and_then_to_be_unreachable(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"))
    browser.until("the cluster is healthy", lambda: browser.text("#health a") == "Healthy")
    with cluster.frozen("1"):
        browser.until("the silence is told", lambda: browser.text("#health a") == "No answer")
        assert browser.text(".big") == "No answer"
        browser.until("it is counted", lambda: re.fullmatch(r"for \d+ s", browser.text("#health .since")))
        assert not browser.find("#banner").is_displayed()
        browser.until("the node is given up", lambda: browser.text("#health a") == "Unreachable")
        assert browser.find("#banner").is_displayed()
    browser.until("the cluster is healthy again", lambda: browser.text("#health a") == "Healthy")
    browser.until("the banner goes", lambda: not browser.find("#banner").is_displayed())
    assert browser.was_never_reloaded()
