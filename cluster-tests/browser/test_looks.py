"""What is shown can be seen and read: in narrow windows, on long pages, in light and in dark."""

from __future__ import annotations

import pytest

from browser import Browser
from cluster import Cluster, to, wait_until

PAGES = ((), ("apps",), ("ring",), ("shards",), ("scaling",), ("events",), ("cluster",))
SUBJECTS = (("apps", "pay"), ("apps", "pay", "pay-03"), ("ring", "pay"), ("shards", "poll"), ("scaling", "poll"))

# The links of the navigation that are not whole within the window.
CUT = """
return [...document.querySelectorAll('#nav a')].filter(link => {
    const box = link.getBoundingClientRect();
    const nav = document.getElementById('nav').getBoundingClientRect();
    return box.left < nav.left || box.right > nav.right || box.right > innerWidth || box.top < 0 || box.bottom > innerHeight;
}).map(link => link.textContent)
"""
TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"

# Texts with less contrast to what is painted behind them than WCAG 2 wants at level AA, each with its ratio. Colours
# are painted to learn what they are: they may be written in any way.
PALE = """
const painted = colour => {
    const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
};
const over = ([r, g, b, alpha], ground) => [r, g, b].map((part, at) => part * alpha / 255 + ground[at] * (1 - alpha / 255));
const linear = part => part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const groundOf = element => {
    if (element.matches('.arc-label')) return painted(getComputedStyle(element.previousElementSibling).fill);
    const layers = [];
    for (let each = element; each; each = each.parentElement) layers.unshift(painted(getComputedStyle(each).backgroundColor));
    return layers.reduce((ground, layer) => over(layer, ground), [255, 255, 255]);
};
const pale = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('.unheard, :disabled, noscript')) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const text = over(painted(element instanceof SVGElement ? style.fill : style.color), ground);
    const [more, less] = [light(text), light(ground)].sort((one, other) => other - one);
    const ratio = (more + 0.05) / (less + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) pale.push(`${texts.currentNode.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return pale;
"""


@pytest.fixture(scope="module", autouse=True)
def company(cluster: Cluster) -> None:
    """Enough of everything that each page has all of its colours."""
    for number in range(30):
        cluster.register("pay", f"pay-{number:02}", zone=f"z{number % 3}", version="2.1.0", metadata={"build": str(number)})
    for number in range(60):
        cluster.register("cart", f"cart-{number:02}")
    for number in range(20):
        cluster.register("fetchers", f"fetcher-{number:02}")
    cluster.call("PUT", to("apps", "pay", "ring"), {"seed": 7, "replicas": 2})
    scaling = {"shards_per_worker": 5, "min": 1, "max": 10, "cooldown": "1m"}
    cluster.call("PUT", to("shard-sets", "poll"), {"workers": "fetchers", "apps": ["cart"], "copies": 1, "scaling": scaling})
    counts = to("shard-sets", "poll")
    wait_until("all shards are held", lambda: cluster.get(counts)["counts"]["assigned"] == 60)
    for number, state in ((3, "maintenance"), (4, "draining")):
        path = to("apps", "pay", "instances", f"pay-{number:02}", "override")
        cluster.call("PUT", path, {"state": state, "reason": "a new disk"})
    cluster.call("PUT", to("apps", "fetchers", "instances", "fetcher-07", "override"), {"state": "draining", "reason": "old"})
    # Nobody lets go here, so these stay on their way.
    wait_until("some are to move", lambda: cluster.get(counts)["counts"]["pending"] > 0)


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_all_pages_can_be_reached_in_a_window_of_any_width(cluster: Cluster, browser: Browser, width: int) -> None:
    with browser.of_width(width):
        for page in PAGES + SUBJECTS:
            browser.open(cluster.base("1"), *page)
            assert browser.run(CUT) == [], f"{page} cuts its navigation"
            assert browser.run(TOO_WIDE) <= 0, f"{page} is too wide"


def test_the_navigation_stays_in_sight_beside_a_long_page(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "shards", "poll")
    browser.run("scrollTo(0, document.documentElement.scrollHeight)")
    assert browser.run("return scrollY") > 0
    assert browser.run(CUT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(cluster: Cluster, browser: Browser, scheme: str) -> None:
    with browser.of_colours(scheme):
        for page in PAGES + SUBJECTS:
            browser.open(cluster.base("1"), *page)
            assert browser.run(PALE) == [], f"{page} has texts that are hard to read"


def test_the_letter_of_a_shard_that_moves_stands_on_a_plain_ground(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "shards", "poll")
    plates = browser.run("""
        return [...document.querySelectorAll('.cell-moving')].map(cell => [
            getComputedStyle(cell, '::before').backgroundColor === getComputedStyle(cell).backgroundColor,
            getComputedStyle(cell, '::before').content !== 'none'])
    """)
    assert plates and all(all(plate) for plate in plates)
