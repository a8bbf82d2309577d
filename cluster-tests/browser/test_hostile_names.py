"""Names that somebody chose to do harm are shown as text, on every page, and run nothing."""

from __future__ import annotations

import pytest

from browser import Browser
from cluster import Cluster, to, wait_until

SCRIPT = "<script>window.ran = 'script'</script>"
IMAGE = "\"><img src=x onerror=\"window.ran = 'image'\">"
BACKWARDS = "pay\u202efdp.exe\u2066\u200b"
LONG_NAME = "long-" + "é" * 125  # 255 bytes
ADDRESS = "javascript:window.ran='address'"
TEMPLATE = "${window.ran = 'template'}/../%2e%2e/..\\&amp;"
NAMES = [SCRIPT, IMAGE, BACKWARDS, LONG_NAME, ADDRESS, TEMPLATE]

# How what cannot be seen is written.
SHOWN = {BACKWARDS: "payU+202Efdp.exeU+2066U+200B"}


@pytest.fixture(scope="module", autouse=True)
def hostile_names(cluster: Cluster) -> None:
    """Each is an app, its instance, everything that the instance says of itself, an operator's reason, a
    document, a lock, a ring and a shard set."""
    for name in NAMES:
        said = name[:60]
        cluster.register(name, name, hostname=said, version=said, zone=said, metadata={said: name, "plain": name})
        cluster.call("PUT", to("apps", name, "ring"), {"seed": 1, "replicas": 1})
        cluster.call("PUT", to("apps", name, "instances", name, "override"), {"state": "draining", "reason": name})
        cluster.call("DELETE", to("apps", name, "instances", name, "override"))
        cluster.call("PUT", to("shard-sets", name), {"workers": name, "apps": [each for each in NAMES if each != name][:3]})
    session = cluster.call("POST", "/v1/sessions", {"ttl": "1h", "name": SCRIPT})["session"]
    cluster.call("POST", to("locks", IMAGE, "acquire"), {"session": session, "owner": SCRIPT, "mode": "exclusive"})
    wait_until("the shards are held", lambda: cluster.get(to("shard-sets", SCRIPT))["counts"]["assigned"] == 3)


def assert_only_text(browser: Browser) -> None:
    assert browser.run("return window.ran ?? null") is None
    made = browser.run("return [...document.querySelectorAll('main script, main img, main iframe, dialog img, dialog script')].length")
    assert made == 0, "a name became markup"
    strange = browser.run(
        "return [...document.querySelectorAll('a')].map(link => link.href).filter(href => !href.startsWith('http'))")
    assert strange == [], "a name became an address"


def shown(name: str) -> str:
    return SHOWN.get(name, name)


def test_the_lists_show_hostile_names_as_text(cluster: Cluster, browser: Browser) -> None:
    for page, table in (("apps", "Apps"), ("ring", "Rings"), ("shards", "Shard sets")):
        browser.open(cluster.base("1"), page)
        assert {row[0] for row in browser.rows(table)} == {shown(name) for name in NAMES}
        assert_only_text(browser)


@pytest.mark.parametrize("name", NAMES, ids=["script", "image", "backwards", "long", "address", "template"])
def test_the_pages_of_a_hostile_name_show_it_as_text(cluster: Cluster, browser: Browser, name: str) -> None:
    browser.open(cluster.base("1"), "apps", name)
    assert browser.row(f"Instances of {name}", shown(name))
    assert_only_text(browser)
    browser.open(cluster.base("1"), "apps", name, name)
    assert shown(name) in browser.text("h1")
    assert shown(name) in browser.text(".pairs")
    assert any("draining" in row[-1] for row in browser.rows(f"Life of {name}"))
    assert_only_text(browser)
    browser.open(cluster.base("1"), "ring", name)
    assert shown(name) in browser.text("main table")
    assert_only_text(browser)
    browser.open(cluster.base("1"), "shards", name)
    assert shown(name) in browser.text("main table")
    assert browser.run("return document.querySelectorAll('.cell').length") == 3
    assert_only_text(browser)


def test_events_and_dialogs_show_hostile_names_as_text(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "events")
    told = browser.text("main table")
    for name in NAMES:
        assert shown(name) in told
    assert_only_text(browser)
    browser.open(cluster.base("1"))
    assert_only_text(browser)
    browser.open(cluster.base("1"), "apps", IMAGE)
    browser.find("td.last button").click()
    browser.until("the dialog is open", lambda: "Ring" in browser.text("dialog .preview"))
    assert IMAGE in browser.text("dialog .subject")
    assert_only_text(browser)


def test_a_long_or_backwards_name_does_not_widen_the_page(cluster: Cluster, browser: Browser) -> None:
    for page in (("apps",), ("apps", LONG_NAME, LONG_NAME), ("apps", BACKWARDS), ("events",)):
        browser.open(cluster.base("1"), *page)
        too_wide = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert too_wide <= 0, f"{page} is {too_wide} pixels too wide"
