"""Nodes are killed while a page is open."""

from __future__ import annotations

from browser import Browser
from cluster import NODES, Cluster


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


def test_without_a_majority_the_page_says_that_it_may_be_old(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"status of 50[34]")
    cluster.register("pay", "old")
    browser.open(cluster.base("1"), "apps", "pay")
    cluster.kill("2")
    cluster.kill("3")
    browser.until("the page says so", lambda: "may be old" in browser.text("#banner"))
    assert browser.row("Instances of pay", "old")
    cluster.start_node("2")
    cluster.start_node("3")
    browser.until("the banner goes", lambda: not browser.find("#banner").is_displayed())
    cluster.register("pay", "new")
    browser.until("the page is live again", lambda: browser.row("Instances of pay", "new"))
    assert browser.was_never_reloaded()
