"""Against a real cluster, named by the environment variable ROSTER_ENDPOINT ("host:port,host:port").

Every name is made anew, so that the tests can be run again on the same cluster."""

from __future__ import annotations

import os
import threading
import uuid
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from roster_client import (
    Client,
    Conflict,
    Ended,
    Event,
    InvalidRequest,
    KeepAlive,
    LockHeld,
    NotFound,
    PreconditionFailed,
    Registration,
    RingWatcher,
    ShardWorker,
    StaleToken,
)

from .scripted_server import closed_endpoint, wait_until

ENDPOINT = os.environ.get("ROSTER_ENDPOINT", "")

pytestmark = pytest.mark.skipif(
    not ENDPOINT, reason="ROSTER_ENDPOINT is not set: no cluster to test against"
)


@pytest.fixture
def client() -> Iterator[Client]:
    # A node that is not there must not matter.
    with Client(f"{closed_endpoint()},{ENDPOINT}") as client:
        yield client


@pytest.fixture
def app() -> str:
    return f"app/{uuid.uuid4().hex} %"


def at(port: int, ttl: float = 30) -> Registration:
    return Registration(ip="10.0.0.1", port=port, metadata={"built": "now"}, payload=b"\0", ttl=ttl)


def test_an_instance_is_registered_renewed_read_and_removed(client: Client, app: str) -> None:
    registered = client.register(app, "a:1", at(1))
    assert (registered.app, registered.id, registered.ttl) == (app, "a:1", 30.0)
    renewed = client.heartbeat(app, "a:1", incarnation=registered.incarnation)
    assert (renewed.ttl, renewed.heartbeat_every) == (30.0, 10.0)
    assert client.instance(app, "a:1")["metadata"] == {"built": "now"}
    assert [instance["id"] for instance in client.instances(app)] == ["a:1"]
    assert client.instances(app, filter="port == 2") == []
    assert client.instances(app, heartbeats=True)[0]["last_heartbeat"].endswith("Z")
    client.deregister(app, "a:1", incarnation=registered.incarnation)
    with pytest.raises(NotFound) as raised:
        client.heartbeat(app, "a:1")
    assert raised.value.code == "unknown-instance"


def test_refusals_say_why(client: Client, app: str) -> None:
    first = client.register(app, "a", at(1))
    with pytest.raises(PreconditionFailed) as exists:
        client.register(app, "a", at(1), if_absent=True)
    assert exists.value.code == "instance-exists"
    second = client.register(app, "a", at(1), takeover=True)
    with pytest.raises(Conflict) as stale:
        client.heartbeat(app, "a", incarnation=first.incarnation)
    assert (stale.value.code, stale.value.incarnation) == ("stale-incarnation", second.incarnation)
    with pytest.raises(InvalidRequest):
        client.register(app, "a", Registration(ip="10.0.0.1", port=70_000))
    with pytest.raises(NotFound) as unknown:
        client.register(f"{app}-no", "a", at(1), create_app=False)
    assert unknown.value.code == "unknown-app"


def test_what_hangs_off_a_session_goes_with_it(client: Client, app: str) -> None:
    session = client.open_session(ttl=20, name="worker").session
    client.register(app, "a", Registration(ip="10.0.0.1", port=1, session=session))
    assert client.session(session)["instances"][0]["id"] == "a"
    renewed = client.session_heartbeat(session, {app: 0})
    assert renewed.ttl == 20.0
    client.close_session(session)
    assert client.instances(app) == []
    with pytest.raises(NotFound) as raised:
        client.session_heartbeat(session)
    assert raised.value.code == "unknown-session"


def test_a_kept_instance_outlives_its_ttl_and_its_own_removal(client: Client, app: str) -> None:
    keep = client.keep_alive(app, "a", at(1, ttl=1))
    first = keep.registered.incarnation
    watch = client.watch(apps=[app], kinds=["instance"])
    seen: List[Event] = []
    threading.Timer(1.5, client.deregister, [app, "a"]).start()
    for event in watch:
        seen.append(event)
        if event.event == "put" and event.incarnation != first:
            break
    watch.close()
    # It lived for longer than its TTL, and came back as another life.
    assert [event.reason for event in seen if event.event == "delete"] == ["deregistered"]
    wait_until(lambda: keep.safe_incarnation() == seen[-1].incarnation, "the next life")
    keep.leave()
    assert client.instances(app) == []


def test_who_was_replaced_ends_its_heartbeats(client: Client, app: str) -> None:
    keep = client.keep_alive(app, "a", at(1, ttl=1))
    successor = client.register(app, "a", at(2), takeover=True)
    assert keep.wait_ended(20) is Ended.REPLACED
    assert not keep.is_safe()
    keep.leave()
    assert client.instance(app, "a")["incarnation"] == successor.incarnation


def test_a_watch_tells_a_snapshot_and_then_each_change_once(client: Client, app: str) -> None:
    first = client.register(app, "a", at(1))
    watch = client.watch(apps=[app], kinds=["instance", "shard"])
    events = [next(watch) for _ in range(4)]
    assert [event.event for event in events] == ["snapshot-begin", "put", "put", "snapshot-end"]
    assert {event.kind for event in events[1:3]} == {"instance", "shard"}
    second = client.register(app, "b", at(2))
    client.deregister(app, "a")
    changed: List[Event] = []
    while len(changed) < 4:
        event = next(watch)
        if event.event in ("put", "delete"):
            changed.append(event)
    watch.close()
    assert [event.event for event in changed] == ["put", "put", "delete", "delete"]
    assert [event.more for event in changed] == [True, False, True, False]
    again = client.watch(apps=[app], kinds=["instance"], from_revision=first.revision)
    resumed = next(again)
    again.close()
    assert (resumed.id, resumed.revision) == ("b", second.revision)


def test_the_ring_that_is_computed_here_is_the_one_of_the_nodes(client: Client, app: str) -> None:
    for number in range(5):
        weighted = Registration(ip="10.0.0.1", port=number + 1, weight=number % 3 + 1, ttl=60)
        client.register(app, f"w{number}", weighted)
    with pytest.raises(NotFound) as raised:
        client.ring(app)
    assert raised.value.code == "no-ring"
    client.put_ring(app, seed=7, replicas=2)
    view = client.ring(app)
    assert (view.group, view.seed, view.replicas, len(view.workers)) == (app, 7, 2, 5)
    keys = [f"key-{number}" for number in range(500)] + ["", "键/资源", " \n"]
    many = client.ring_owners_of(app, keys, replicas=3)
    assert many.epoch == view.epoch
    assert [list(owners) for owners in many.owners] == [view.owners(key, 3) for key in keys]
    for key in ("plain", "a b+c&d/%", b"\xff\x00\xfe", b""):
        told = client.ring_owners(app, key)
        assert [owner.id for owner in told.owners] == view.owners(key)
    client.delete_ring(app)
    with pytest.raises(NotFound):
        client.ring(app)


def test_a_watched_ring_follows_who_comes_and_goes(client: Client, app: str) -> None:
    for number in range(4):
        client.register(app, f"w{number}", at(number + 1))
    client.put_ring(app)
    watcher = RingWatcher(client, app)
    before = watcher.wait_for(timeout=20)
    assert before is not None
    keys = [f"key-{number}" for number in range(300)]
    client.deregister(app, "w1")
    after = watcher.wait_for(before.epoch + 1, timeout=20)
    assert after is not None and after is watcher.view
    moved = [key for key in keys if before.owner(key) != after.owner(key)]
    assert moved == [key for key in keys if before.owns("w1", key)]
    client.register(app, "w1", at(9))
    again = watcher.wait_for(after.epoch + 1, timeout=20)
    watcher.stop()
    assert again is not None
    assert [again.owner(key) for key in keys] == [before.owner(key) for key in keys]


def test_an_epoch_is_settled_when_all_workers_have_adopted_it(client: Client, app: str) -> None:
    first = client.keep_alive(app, "w1", at(1, ttl=1))
    client.put_ring(app)
    second = client.keep_alive(app, "w2", at(2, ttl=1))
    epoch = client.ring(app).epoch
    told = client.session_heartbeat(second.registered.session, {app: epoch})
    assert told.settled.get(app, 0) < epoch, "the first has not adopted it"
    second.adopt(app, epoch)
    first.adopt(app, epoch)
    wait_until(lambda: second.settled.get(app) == epoch, "the settled epoch")
    first.leave()
    second.leave()


def test_an_adoption_is_settled_long_before_the_next_heartbeat_is_due(
    client: Client, app: str
) -> None:
    # Heartbeats are due each 20 minutes.
    first = client.keep_alive(app, "w1", at(1, ttl=3_600))
    client.put_ring(app)
    second = client.keep_alive(app, "w2", at(2, ttl=3_600))
    epoch = client.ring(app).epoch
    first.adopt(app, epoch)
    wait_until(lambda: first.settled.get(app) == epoch, "the second joined with this epoch")
    client.register(app, "w3", at(3, ttl=3_600))
    epoch = client.ring(app).epoch
    second.adopt(app, epoch)
    wait_until(lambda: app in second.settled, "an answer")
    assert second.settled[app] < epoch
    first.adopt(app, epoch)
    wait_until(lambda: first.settled.get(app) == epoch, "the settled epoch")
    wait_until(lambda: second.settled.get(app) == epoch, "the settled epoch, for who was earlier")
    first.leave()
    second.leave()


def test_of_two_instances_of_one_session_each_adopts_for_itself(client: Client, app: str) -> None:
    session = client.open_session(ttl=60).session
    hung = Registration(ip="10.0.0.1", port=1, session=session)
    first = client.keep_alive(app, "w1", hung)
    second = client.keep_alive(app, "w2", hung)
    client.put_ring(app)
    epoch = client.ring(app).epoch
    first.adopt(app, epoch)
    wait_until(lambda: app in first.settled, "an answer")
    alone = client.heartbeat(app, "w1", incarnation=first.registered.incarnation, adopted=epoch)
    assert first.settled[app] < epoch and alone.settled[app] < epoch, "the second works on"
    second.adopt(app, epoch)
    wait_until(lambda: second.settled.get(app) == epoch, "the settled epoch")
    # What the session says counts for both.
    client.register(app, "w3", at(3, ttl=600))
    epoch = client.ring(app).epoch
    assert client.session_heartbeat(session, {app: epoch}).settled == {app: epoch}
    client.close_session(session)


class Work:
    """Who works on what; two at once on one shard is a failure."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: Dict[str, str] = {}
        self.doubled: Set[Tuple[str, str, str]] = set()

    def begin(self, worker: str, shard: str) -> None:
        with self._lock:
            if shard in self._holders:
                self.doubled.add((shard, self._holders[shard], worker))
            self._holders[shard] = worker

    def end(self, worker: str, shard: str) -> None:
        with self._lock:
            if self._holders.get(shard) == worker:
                del self._holders[shard]

    def loads(self) -> Dict[str, int]:
        with self._lock:
            workers = list(self._holders.values())
        return {worker: workers.count(worker) for worker in workers}


class Member:
    """One worker of a shard set."""

    def __init__(self, client: Client, work: Work, workers: str, name: str, id: str) -> None:
        self.keep: KeepAlive = client.keep_alive(workers, id, at(1, ttl=2))
        self.shards = ShardWorker(
            client,
            name,
            id,
            start=lambda shard, grant: work.begin(id, shard),
            stop=lambda shard: work.end(id, shard),
            lease=self.keep,
        )

    def leave(self) -> None:
        self.shards.stop()
        self.keep.leave()

    def vanish(self) -> None:
        """As a process that is killed, but for the work, which its lease ends."""
        self.keep.stop()


def test_shards_are_shared_handed_over_and_taken_over_without_double_work(
    client: Client, app: str
) -> None:
    workers, name, work = f"{app}-workers", f"set-{uuid.uuid4().hex}", Work()
    transports = [f"t{number}" for number in range(12)]
    for transport in transports:
        client.register(app, transport, at(1, ttl=600))
    members = [Member(client, work, workers, name, "w1")]
    client.put_shard_set(name, workers=workers, apps=[app])
    wait_until(lambda: work.loads() == {"w1": 12}, "all shards on one worker")
    held = client.worker_view(name, "w1").shards
    assert all(shard.grant > 0 and not shard.release for shard in held)
    members += [Member(client, work, workers, name, id) for id in ("w2", "w3")]
    wait_until(lambda: work.loads() == {"w1": 4, "w2": 4, "w3": 4}, "equal shares")
    client.deregister(app, transports[0])
    wait_until(lambda: sum(work.loads().values()) == 11, "the end of a shard")
    members[0].leave()
    wait_until(lambda: sorted(work.loads().values()) == [5, 6], "the leaver's shards elsewhere")
    members[1].vanish()
    wait_until(lambda: work.loads() == {"w3": 11}, "the lost worker's shards elsewhere")
    assert not work.doubled
    [stale] = client.release(name, "w3", [(held[0].shard, 1)])
    assert stale.code == "stale-token"
    assert client.shard_set(name)["workers"] == workers
    members[2].leave()
    client.delete_shard_set(name)
    with pytest.raises(NotFound) as raised:
        client.shard_set(name)
    assert raised.value.code == "unknown-shard-set"


def test_a_lock_passes_from_one_to_the_next_with_a_higher_token(client: Client, app: str) -> None:
    one, two = (client.open_session(ttl=20).session for _ in range(2))
    first = client.acquire_lock(app, one, owner="a")
    assert client.acquire_lock(app, one, owner="a").token == first.token
    with pytest.raises(LockHeld):
        client.acquire_lock(app, two)
    assert client.check_lock(app, first.token)
    won: List[int] = []
    waiter = threading.Thread(target=lambda: won.append(_token_of(client, app, two)))
    waiter.start()
    wait_until(lambda: client.get_lock(app).waiting == 1, "one who waits")
    client.release_lock(app, first.token, session=one, owner="a")
    waiter.join()
    assert won[0] > first.token
    assert not client.check_lock(app, first.token)
    with pytest.raises(StaleToken):
        client.release_lock(app, first.token)
    assert client.get_lock(app).holders[0].session == two
    assert app in [lock.name for lock in client.list_locks()]
    client.break_lock(app, token=won[0])
    with pytest.raises(NotFound) as unknown:
        client.get_lock(app)
    assert unknown.value.code == "unknown-latch"
    assert client.acquire_lock(app, one, shared=True).mode == "shared"
    assert client.acquire_lock(app, two, shared=True).mode == "shared"
    client.abandon_lock(app, one)
    client.close_session(two)
    assert client.acquire_lock(app, one).mode == "exclusive"


def _token_of(client: Client, name: str, session: str) -> int:
    return client.acquire_lock(name, session, wait=20).token


def test_an_election_goes_on_to_the_next_candidate(client: Client, app: str) -> None:
    one, two = (client.open_session(ttl=20).session for _ in range(2))
    first = client.campaign(app, one, value="10.0.0.1:80")
    assert first.leader
    assert not client.campaign(app, two, value="10.0.0.2:80").leader
    view = client.get_election(app)
    assert (view.leader, view.value, view.token) == (one, "10.0.0.1:80", first.token)
    assert [candidate.session for candidate in view.candidates] == [two]
    client.resign(app, token=first.token)
    second = client.campaign(app, two, value="10.0.0.3:80")
    assert second.leader and client.get_election(app).value == "10.0.0.3:80"
    assert second.token is not None and client.check_election(app, second.token)
    assert app in [election.name for election in client.list_elections()]
    client.resign(app, session=two)
    with pytest.raises(NotFound):
        client.get_election(app)
