"""Takes a picture of each page, of a cluster in which a made-up company runs."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from browser import Browser, running_browser
from cluster import Cluster, Json, running_cluster, to, wait_until

# The same company each time.
CHANCE = random.Random(7)

ZONES = ("eu-1a", "eu-1b", "eu-1c")
TTL = "15s"

# Apps with how many instances they have, and which versions run.
APPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "accounts": (12, ("5.2.0",)),
    "assets": (8, ("1.9.3",)),
    "cache": (8, ("7.2.4",)),
    "cart": (14, ("2.8.1", "2.9.0")),
    "checkout": (16, ("3.14.2", "3.15.0")),
    "fetchers": (6, ("0.9.0",)),
    "gateway": (10, ("4.0.7",)),
    "inventory": (14, ("2.3.0", "2.3.1")),
    "notifications": (9, ("1.4.0",)),
    "payments": (20, ("6.1.0", "6.1.1")),
    "pricing": (12, ("2.0.5",)),
    "recommendations": (9, ("0.31.0", "0.32.0")),
    "search": (14, ("8.6.0",)),
}

# Those whose instances are the shards that the fetchers share: 60.
SHARDS_OF = ["checkout", "payments", "pricing", "recommendations"]
MISSING_SHARDS = 60 - sum(APPS[app][0] for app in SHARDS_OF)

# The colours of a picture, those that it has most of: what is flat keeps its own, and the files stay small.
COLOURS = 160


def company() -> list[Json]:
    items = []
    for network, (app, (count, versions)) in enumerate(APPS.items(), start=10):
        count += MISSING_SHARDS if app == "pricing" else 0
        for number in range(count):
            zone = ZONES[number % len(ZONES)]
            version = versions[0 if number < 0.7 * count else -1]
            items.append({
                "app": app, "id": f"{app}-{number + 1:02}", "ip": f"10.20.{network}.{number + 11}", "port": 8080,
                "hostname": f"{app}-{number + 1:02}.{zone}.example.net", "zone": zone, "version": version, "ttl": TTL,
                "weight": 1 if app == "fetchers" else CHANCE.choice((1, 1, 1, 2)), "metadata": {"build": str(CHANCE.randint(4700, 4999))},
            })  # fmt: skip
    return items


@contextlib.contextmanager
def heartbeats(cluster: Cluster, items: list[Json]) -> Iterator[None]:
    """Beats for all, a part of them at a time, so that there is something to be seen."""
    over = threading.Event()

    def beat() -> None:
        turn = 0
        while not over.wait(0.1):
            part = [{"app": item["app"], "id": item["id"]} for item in items[turn % 20 :: 20]]
            cluster.call("POST", "/v1/heartbeats", {"instances": part})
            turn += 1

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def fill(cluster: Cluster, items: list[Json]) -> None:
    # The fetchers are there first, so that the shards are shared once.
    cluster.register_all([item for item in items if item["app"] == "fetchers"])
    scaling = {"shards_per_worker": 10, "min": 2, "max": 12, "cooldown": "1m"}
    cluster.call("PUT", to("shard-sets", "poll"), {"workers": "fetchers", "apps": SHARDS_OF, "copies": 1, "scaling": scaling})
    cluster.register_all(items)
    cluster.call("PUT", to("apps", "cache", "ring"), {"seed": 42, "replicas": 2})
    words = [
        ("payments", "payments-07", "draining", "rolling out 6.1.1"),
        ("payments", "payments-12", "draining", "rolling out 6.1.1"),
        ("search", "search-03", "maintenance", "a new disk, ticket 4711"),
        ("inventory", "inventory-09", "maintenance", "rack r9 gets new switches"),
        ("checkout", "checkout-02", "draining", "rolling out 3.15.0"),
    ]
    for app, instance, state, reason in words:
        cluster.call("PUT", to("apps", app, "instances", instance, "override"), {"state": state, "reason": reason})
    session = cluster.call("POST", "/v1/sessions", {"ttl": "1h", "name": "nightly"})["session"]
    cluster.call("POST", to("locks", "nightly-backup", "acquire"), {"session": session, "owner": "backup-1", "mode": "exclusive"})
    rules = [{"resource": "POST /pay", "count": 200}]
    cluster.call("PUT", to("apps", "payments", "documents", "flow-rules"), {"rules": rules})
    cluster.register("search", "search-15", ip="10.20.22.40", ttl="1s", zone="eu-1b", version="8.6.0")
    wait_until("one instance expired", lambda: cluster.get("/v1/events?app=search&kind=instance&limit=1")["events"][0]["event"] == "delete")
    cluster.call("PATCH", to("apps", "payments", "instances", "payments-05"), {"weight": 3})
    cluster.call("DELETE", to("apps", "notifications", "instances", "notifications-09"))
    wait_until("the shards are held", lambda: counts(cluster)["assigned"] == 60 and counts(cluster)["pending"] == 0)


def counts(cluster: Cluster) -> dict[str, int]:
    return cluster.get(to("shard-sets", "poll"))["counts"]


def take(browser: Browser, folder: Path, name: str) -> None:
    # What was just changed is no longer marked as fresh.
    browser.until("nothing moves", lambda: browser.run("return document.getAnimations().length === 0"))
    picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    counted = sorted(picture.getcolors(picture.width * picture.height), reverse=True)[:COLOURS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in counted for part in colour])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
    print(f"{name}.png: {(folder / f'{name}.png').stat().st_size // 1000} kB")


def main(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder.mkdir(parents=True, exist_ok=True)
    items = company()
    with running_cluster() as cluster, running_browser() as browser:
        fill(cluster, items)
        with heartbeats(cluster, [item for item in items if item["id"] != "notifications-09"]):
            browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False})
            base = cluster.base("1")
            browser.open(base)
            browser.run("localStorage.setItem('roster-theme', 'light'); document.documentElement.dataset.theme = 'light'")
            browser.until("there is a line to be seen", lambda: browser.run(
                "return (document.querySelector('.spark polyline')?.points.length ?? 0) >= 8"))
            take(browser, folder, "overview")
            # What is desired is drawn from the first look at it on.
            browser.open(base, "scaling", "poll")
            browser.open(base, "apps")
            take(browser, folder, "apps")
            browser.open(base, "apps", "payments")
            take(browser, folder, "app")
            browser.open(base, "apps", "payments", "payments-07")
            take(browser, folder, "instance")
            browser.open(base, "ring", "cache")
            browser.find("main input[type=search]").send_keys("customer-1207")
            browser.until("the owner is shown", lambda: "Owned by" in browser.text(".found"))
            take(browser, folder, "ring")
            browser.open(base, "shards", "poll")
            take(browser, folder, "shards")
            browser.open(base, "events")
            take(browser, folder, "events")
            browser.open(base, "cluster")
            browser.until("the states were compared", lambda: browser.figures()["State hashes"].startswith("agree"))
            take(browser, folder, "cluster")
            browser.open(base, "scaling", "poll")
            take(browser, folder, "scaling")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
