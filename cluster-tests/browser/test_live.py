"""What happens is seen while it happens, and what an operator does here is done."""

from __future__ import annotations

from selenium.webdriver.common.keys import Keys

from browser import Browser
from cluster import Cluster, Refused, to

# How often one may have to press the tabulator to come to what stands in the first row.
TABS_MAX = 60


def press_tab_until(browser: Browser, name: str) -> None:
    passed = []
    while browser.focused() != name:
        assert len(passed) < TABS_MAX, f"{name} is not reached by the tabulator, only {passed}"
        browser.press(Keys.TAB)
        passed.append(browser.focused())


def test_an_instance_that_registers_appears_and_one_that_expires_goes(cluster: Cluster, browser: Browser) -> None:
    cluster.register("pay", "pay-1")
    browser.open(cluster.base("1"), "apps", "pay")
    assert [row[0] for row in browser.rows("Instances of pay")] == ["pay-1"]
    cluster.register("pay", "pay-2", ttl="2s")
    browser.until("the new one is shown", lambda: browser.row("Instances of pay", "pay-2"))
    browser.until("it is gone without heartbeats", lambda: browser.row("Instances of pay", "pay-2") is None)
    assert [row[0] for row in browser.rows("Instances of pay")] == ["pay-1"]
    assert browser.figures()["up"] == "1"
    assert browser.was_never_reloaded()


def test_the_overview_tells_of_an_expiry_with_its_reason(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("2"))
    cluster.register("short", "short-1", ttl="1s")
    browser.until("the expiry is told", lambda: any(
        row[2] == "delete" and row[4] == "short/short-1" and row[5].startswith("expired") for row in browser.rows("Last events")))
    assert browser.was_never_reloaded()


def test_an_app_that_comes_is_listed_and_counted(cluster: Cluster, browser: Browser) -> None:
    cluster.register("apple", "apple-1")
    browser.open(cluster.base("3"), "apps")
    cluster.register("banana", "banana-1")
    cluster.register("apple", "apple-2")
    browser.until("the new app is shown", lambda: browser.row("Apps", "banana"))
    browser.until("the other one is counted", lambda: (browser.row("Apps", "apple") or [])[1:2] == ["2"])
    assert browser.was_never_reloaded()


def test_an_operator_drains_an_instance_by_keyboard_with_a_reason(cluster: Cluster, browser: Browser) -> None:
    # It is on no ring: the dialog asks and is told so.
    browser.allow(r"/v1/apps/drained/ring/simulate .* status of 404")
    cluster.register("drained", "drained-1")
    browser.open(cluster.base("1"), "apps", "drained")
    press_tab_until(browser, "Drain drained-1")
    browser.press(Keys.ENTER)
    browser.until("what would move is worked out", lambda: "nothing else moves" in browser.text("dialog .preview"))
    assert browser.focused() == "field-reason"
    # Without a reason nothing is done.
    browser.press(Keys.ENTER)
    assert browser.text("dialog h2") == "Drain this instance"
    browser.press("power work in rack 7", Keys.ENTER)
    browser.until("the page says draining", lambda: (browser.row("Instances of drained", "drained-1") or [])[2:3] == ["draining"])
    assert cluster.get(to("apps", "drained", "instances", "drained-1"), node="3")["state"] == "draining"
    word = cluster.get(to("apps", "drained", "instances", "drained-1", "override"))
    assert (word["state"], word["reason"]) == ("draining", "power work in rack 7")
    press_tab_until(browser, "Put drained-1 back into service")
    browser.press(Keys.ENTER)
    browser.until("the dialog is open", lambda: browser.text("dialog h2"))
    press_tab_until(browser, "Resume")
    browser.press(Keys.ENTER)
    browser.until("the page says up", lambda: (browser.row("Instances of drained", "drained-1") or [])[2:3] == ["up"])
    assert cluster.get(to("apps", "drained", "instances", "drained-1"))["state"] == "up"


def test_escape_leaves_an_instance_where_it_is_and_remove_takes_it_out(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"/v1/apps/removed/ring/simulate .* status of 404")
    cluster.register("removed", "removed-1")
    browser.open(cluster.base("2"), "apps", "removed")
    press_tab_until(browser, "Remove removed-1")
    browser.press(Keys.ENTER)
    browser.until("the dialog is open", lambda: "Only the instance" in browser.text("dialog .preview"))
    browser.press(Keys.ESCAPE)
    browser.until("the dialog is closed", lambda: not browser.text("dialog"))
    assert browser.focused() == "Remove removed-1"
    assert cluster.get(to("apps", "removed", "instances", "removed-1"))["state"] == "up"
    browser.press(Keys.ENTER)
    browser.until("the dialog is open again", lambda: "Only the instance" in browser.text("dialog .preview"))
    browser.press("sold", Keys.ENTER)
    browser.until("it is gone", lambda: not browser.rows("Instances of removed"))
    try:
        cluster.get(to("apps", "removed", "instances", "removed-1"))
        raise AssertionError("it is still registered")
    except Refused as refused:
        assert refused.code == "unknown-instance"
    removal = cluster.get("/v1/events?app=removed&kind=instance&limit=1")["events"][0]
    assert (removal["event"], removal["reason"]) == ("delete", "operator")
    assert "sold" in removal["detail"]
