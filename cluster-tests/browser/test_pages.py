"""Each page shows what the API says."""

from __future__ import annotations

import pytest

from browser import Browser
from cluster import LONG, NODES, Cluster, to, wait_until


@pytest.fixture(scope="module", autouse=True)
def company(cluster: Cluster) -> None:
    """Twelve payers on a ring, twenty shards among three workers."""
    for number in range(12):
        cluster.register(
            "pay", f"pay-{number:02}", ip=f"10.1.0.{number + 1}", zone=f"z{number % 3}", version="2.1.0",
            weight=1 + number % 2, metadata={"build": str(4700 + number)},
        )  # fmt: skip
    for number in range(20):
        cluster.register("cart", f"cart-{number:02}", ip=f"10.2.0.{number + 1}")
    for number in range(3):
        cluster.register("fetchers", f"fetcher-{number}", ip=f"10.3.0.{number + 1}")
    cluster.call("PUT", to("apps", "pay", "ring"), {"seed": 7, "replicas": 2})
    scaling = {"shards_per_worker": 5, "min": 1, "max": 10, "cooldown": "1m"}
    cluster.call("PUT", to("shard-sets", "poll"), {"workers": "fetchers", "apps": ["cart"], "copies": 1, "scaling": scaling})
    maintenance = {"state": "maintenance", "reason": "a new disk"}
    cluster.call("PUT", to("apps", "pay", "instances", "pay-03", "override"), maintenance)
    wait_until("all shards are held", lambda: counts(cluster)["assigned"] == 20 and counts(cluster)["pending"] == 0)


def counts(cluster: Cluster) -> dict[str, int]:
    return cluster.get(to("shard-sets", "poll"))["counts"]


def test_the_overview_shows_health_nodes_counts_and_the_last_events(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"))
    told = cluster.get("/v1/cluster")
    browser.until("the cluster is healthy", lambda: browser.text("#health a") == "Healthy")
    figures = browser.figures()
    assert figures["Leader"] == f"node {told['leader']}"
    assert figures["Held"] == "20"
    assert figures["Workers"] == "3"
    for node in NODES:
        assert f"Node {node}" in browser.text(".nodes")
    bar = browser.run("return document.querySelector('.bar').getAttribute('aria-label')")
    assert bar == ", ".join(f"{told['counts'][state]} {state}" for state in ("up", "suspect", "draining", "maintenance"))
    shown = browser.rows("Last events")
    kinds = "instance,app,ring,latch,alarm,document"
    history = cluster.get(f"/v1/events?kind={kinds}&limit=15")["events"]
    assert [row[1:4] for row in shown] == [[str(each["revision"]), each["event"], each["kind"]] for each in history]
    word = next(row for row in shown if row[4] == "pay/pay-03")
    assert word[5].startswith("operator maintenance, was up")


def test_the_apps_page_lists_each_app_with_its_counts(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("2"), "apps")
    expected = [
        [app["app"], str(sum(app["counts"].values())), *(str(app["counts"][state]) for state in app["counts"])]
        for app in cluster.get("/v1/apps")["apps"]
    ]
    assert [row[:6] for row in browser.rows("Apps")] == expected
    assert [row[0] for row in expected] == ["cart", "fetchers", "pay"]


def test_an_apps_page_lists_its_instances_and_filters_them(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("3"), "apps", "pay")
    instances = cluster.get(to("apps", "pay", "instances"))["instances"]
    expected = [[each["id"], f"{each['ip']}:{each['port']}", each["state"]] for each in instances]
    assert [row[:3] for row in browser.rows("Instances of pay")] == expected
    assert browser.figures()["maintenance"] == "1"
    browser.find("main input[type=search]").send_keys('zone == "z1" && weight == 2')
    matching = [each["id"] for each in instances if each["zone"] == "z1" and each["weight"] == 2]
    browser.until("the filter is applied", lambda: [row[0] for row in browser.rows("Instances of pay")] == matching)


def test_a_wrong_filter_is_explained(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"/v1/apps/pay/instances\?.* status of 400")
    browser.open(cluster.base("1"), "apps", "pay")
    browser.find("main input[type=search]").send_keys("zone ==")
    browser.until("the page says what is wrong", lambda: browser.find("main .problem").is_displayed())
    assert "filter" in browser.text("main .problem")


def test_an_instances_page_shows_its_record_and_its_life(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "apps", "pay", "pay-03")
    record = cluster.get(to("apps", "pay", "instances", "pay-03"))
    figures = browser.figures()
    assert figures["Address"] == "10.1.0.4:8080"
    assert figures["Zone"] == record["zone"]
    assert figures["TTL"] == record["ttl"]
    assert figures["Incarnation"] == str(record["incarnation"])
    assert "maintenance by an operator: a new disk" in browser.text(".warning")
    assert "build" in browser.text(".pairs") and "4703" in browser.text(".pairs")
    life = browser.rows("Life of pay-03")
    assert any("registered" in row[-1] for row in life), life
    browser.open(cluster.base("1"), "apps", "fetchers", "fetcher-1")
    held = cluster.get(to("shard-sets", "poll", "workers", "fetcher-1"))["shards"]
    assert f"holds {len(held)} shards" in browser.text()


def test_the_ring_page_shows_owners_and_who_owns_a_key(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "ring")
    ring = cluster.get(to("apps", "pay", "ring"))
    assert browser.row("Rings", "pay") == ["pay", str(len(ring["workers"])), str(len(ring["slots"])), "2", str(ring["epoch"])]
    browser.open(cluster.base("1"), "ring", "pay")
    owners = browser.rows("Owners of the ring of pay")
    assert {row[0].split(" ")[1]: row[1] for row in owners} == {id: str(weight) for id, weight in ring["workers"]}
    browser.find("main input[type=search]").send_keys("some-key")
    first, second = cluster.get(to("apps", "pay", "ring", "owners") + "?key=some-key")["owners"]
    told = f"Owned by {first['id']}, copies on {second['id']} under epoch {ring['epoch']}"
    browser.until("the owner is shown", lambda: browser.text(".found") == told)


def test_the_page_of_an_app_without_a_ring_says_that_and_shows_one_that_is_switched_on(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"/v1/apps/cart/ring .* status of 404")
    browser.open(cluster.base("1"), "ring", "cart")
    told = browser.find("main").text
    assert "This app has no ring." in told
    assert "roster ring create cart" in told
    assert "nobody owns a key" not in told
    # The search of the page is not there, so the key goes to the one at the top.
    browser.press("/")
    assert browser.focused() == "search"
    cluster.call("PUT", to("apps", "cart", "ring"), {"seed": 1, "replicas": 1})
    browser.until("the ring is shown", lambda: len(browser.rows("Owners of the ring of cart")) == 20)
    assert "This app has no ring." not in browser.find("main").text
    cluster.call("DELETE", to("apps", "cart", "ring"))
    browser.until("it is said to be gone", lambda: "This app has no ring." in browser.find("main").text)
    assert browser.was_never_reloaded()


def test_the_ring_page_of_an_app_that_is_not_there_advises_no_ring(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"/v1/apps/nobody/ring .* status of 404")
    browser.open(cluster.base("1"), "ring", "nobody")
    browser.until("it is said", lambda: "nobody" in browser.text("main .problem"))
    assert "ring create" not in browser.text()


def test_the_shards_page_shows_who_holds_what(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("2"), "shards")
    row = browser.row("Shard sets", "poll")
    assert row is not None and row[1:6] == ["fetchers", "cart", "20", "20", "0"]
    browser.open(cluster.base("2"), "shards", "poll")
    titles = browser.run("return [...document.querySelectorAll('.cell')].map(cell => cell.title)")
    shards = cluster.get(to("shard-sets", "poll", "shards"))["shards"]
    assert titles == [f"{each['shard']}: held by {each['holder']}" for each in shards]


def test_the_scaling_page_shows_how_many_workers_are_wanted(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("3"), "scaling")
    told = cluster.get(to("shard-sets", "poll", "scaling"))
    row = browser.row("Scaling", "poll")
    assert row == ["poll", *(str(told[key]) for key in ("desired", "current", "min", "max")), told["reason"]]
    browser.open(cluster.base("3"), "scaling", "poll")
    figures = browser.figures()
    assert figures["Desired"] == str(told["desired"])
    assert figures["Current"].startswith(str(told["current"]))
    assert told["reason"] in browser.text()


def test_the_axis_of_scaling_goes_as_far_as_what_it_shows(cluster: Cluster, browser: Browser) -> None:
    scaling = {"shards_per_worker": 4, "min": 1, "max": 10, "cooldown": "1s"}
    cluster.call("PUT", to("shard-sets", "five"), {"workers": "fetchers", "apps": ["cart"], "copies": 1, "scaling": scaling})
    try:
        wait_until("five are wanted", lambda: cluster.get(to("shard-sets", "five", "scaling"))["desired"] == 5)
        browser.open(cluster.base("3"), "scaling", "five")
        told = browser.run("return [...document.querySelectorAll('.axis[text-anchor=end]')].map(label => label.textContent)")
        assert max(int(label) for label in told if label.isdecimal()) >= 5, told
    finally:
        cluster.call("DELETE", to("shard-sets", "five"))


def test_the_events_page_shows_the_history_newest_first(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"), "events", query="?app=pay&kind=instance")
    history = cluster.get("/v1/events?app=pay&kind=instance&limit=100")["events"]
    shown = [[row[1].replace(",", ""), row[2], row[4]] for row in browser.rows("Events")]
    assert shown == [[str(each["revision"]), each["event"], f"pay/{each['id']}"] for each in history]


def test_the_cluster_page_shows_the_nodes_of_which_one_leads(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("2"), "cluster")
    browser.until("the nodes are shown", lambda: len(browser.rows("Nodes")) == 3)
    leader = cluster.leader()
    for row, node in zip(browser.rows("Nodes"), NODES):
        assert row[0] == (f"{node} this one" if node == "2" else node)
        assert row[1] == ("leader" if node == leader else "follower")
        assert row[2] == f"127.0.0.1:{cluster.api[node]}"
    assert browser.figures()["Cluster id"] == cluster.get("/v1/cluster")["cluster_id"]
    assert "No alarm." in browser.text()
    browser.until("the states were compared", lambda: browser.figures()["State hashes"].startswith("agree"))


def test_a_search_at_the_top_finds_instances_of_all_apps(cluster: Cluster, browser: Browser) -> None:
    browser.open(cluster.base("1"))
    browser.press("/")
    assert browser.focused() == "search"
    browser.press("10.2.0.7", "\ue007")
    browser.until("it is found", lambda: [row[1] for row in browser.rows("Instances found")] == ["cart-06"])
    assert browser.was_never_reloaded()


def test_the_page_of_what_is_not_there_opens_when_it_comes(cluster: Cluster, browser: Browser) -> None:
    browser.allow(r"/v1/apps/late.* status of 404")
    browser.open(cluster.base("1"), "apps", "late")
    assert "opens by itself" in browser.text()
    cluster.register("late", "late-1", ttl=LONG)
    browser.until("the app is shown", lambda: browser.row("Instances of late", "late-1"))
    assert browser.was_never_reloaded()


def test_the_life_of_an_instance_says_that_it_drains_from_its_start(cluster: Cluster, browser: Browser) -> None:
    cluster.register("left", "left-1")
    cluster.call("PUT", to("apps", "left", "instances", "left-1", "override"), {"state": "draining", "reason": "an old disk"})
    cluster.call("DELETE", to("apps", "left", "instances", "left-1"))
    again = cluster.register("left", "left-1")
    browser.open(cluster.base("1"), "apps", "left", "left-1")
    life = {row[1].replace(",", ""): row[-1] for row in browser.rows("Life of left-1") if row[3] == "instance"}
    begun = life[str(again["revision"])]
    assert begun.startswith("registered") and "draining" in begun, life
