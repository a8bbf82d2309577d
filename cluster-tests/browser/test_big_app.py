"""An app of very many instances opens as quickly as any other, and can be searched."""

from __future__ import annotations

import os

from selenium.webdriver.common.keys import Keys

from browser import Browser
from cluster import Cluster, to, wait_until

INSTANCES = int(os.environ.get("BIG_APP_INSTANCES", "100000"))

# What a page of a hundred lines may have in elements, however many instances there are.
ELEMENTS_MAX = 5_000


def test_a_big_app_opens_with_few_elements_and_is_searched(cluster: Cluster, browser: Browser) -> None:
    cluster.register_all([
        {
            "app": "big", "id": f"big-{number:06}", "ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "port": 8080, "zone": f"z{number % 5}", "metadata": {"rack": f"r{number // 40}"},
        }
        for number in range(INSTANCES)
    ])  # fmt: skip
    browser.open(cluster.base("1"), "apps", "big")
    assert browser.figures()["up"] == f"{INSTANCES:,}"
    assert len(browser.rows("Instances of big")) == 100
    assert browser.elements() < ELEMENTS_MAX
    search = browser.find("main input[type=search]")
    last = f"big-{INSTANCES - 1:06}"
    search.send_keys(last)
    browser.until("the last one is found", lambda: [row[0] for row in browser.rows("Instances of big")] == [last])
    search.send_keys(Keys.CONTROL + "a")
    search.send_keys(Keys.NULL, f'zone == "z1" && metadata.rack == "r{INSTANCES // 80}"')
    rack = range(INSTANCES // 80 * 40, INSTANCES // 80 * 40 + 40)
    expected = [f"big-{number:06}" for number in rack if number % 5 == 1]
    browser.until("its rack is found", lambda: [row[0] for row in browser.rows("Instances of big")] == expected)
    search.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    browser.until("all are there again", lambda: len(browser.rows("Instances of big")) == 100)
    browser.run("[...document.querySelectorAll('button')].find(button => button.textContent === 'Next').click()")
    browser.until("the page is turned", lambda: browser.rows("Instances of big")[0][0] == "big-000100")
    assert browser.elements() < ELEMENTS_MAX
    assert browser.was_never_reloaded()


def test_counts_of_a_big_app_have_their_separators_also_in_the_nodes_own_sentences(cluster: Cluster, browser: Browser) -> None:
    cluster.register("workers", "worker-1")
    scaling = {"shards_per_worker": 1_000, "min": 1, "max": 10_000, "cooldown": "1s"}
    cluster.call("PUT", to("shard-sets", "all"), {"workers": "workers", "apps": ["big"], "scaling": scaling})
    wait_until("all shards are held", lambda: cluster.get(to("shard-sets", "all"))["counts"]["assigned"] == INSTANCES)
    many = f"{INSTANCES:,}"
    browser.open(cluster.base("1"), "scaling")
    browser.until("all are counted", lambda: many in (browser.row("Scaling", "all") or [""])[-1])
    browser.open(cluster.base("1"), "scaling", "all")
    browser.until("all are counted", lambda: browser.figures()["Shards"] == many)
    pages = (("scaling",), ("scaling", "all"), ("shards",), ("shards", "all"), ("apps",), ("apps", "big"), ())
    for page in pages:
        browser.open(cluster.base("1"), *page)
        assert many in browser.text()
        assert str(INSTANCES) not in browser.text(), f"{page} has a count without separators"
