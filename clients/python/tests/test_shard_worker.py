"""A worker works on what it was granted, and on nothing else."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from roster_client import Client, ShardWorker

from .scripted_server import Reply, Request, ScriptedServer, problem, wait_until


class FakeLease:
    """A lease that a test takes away."""

    def __init__(self) -> None:
        self.life: Optional[int] = 7
        self.left = 0.0

    def safe_incarnation(self) -> Optional[int]:
        return self.life

    def safe_for(self) -> float:
        return self.left


class Shards:
    """What a worker holds, as a test changes it, and what became of it."""

    def __init__(self) -> None:
        self.revision = 10
        self.held: Dict[str, Tuple[int, bool]] = {}
        self.changed = threading.Condition()
        self.refuse_releases = False

    def set(self, **held: Tuple[int, bool]) -> None:
        """Shard to its grant and whether it must go."""
        with self.changed:
            self.held = dict(held)
            self.revision += 1
            self.changed.notify_all()

    def __call__(self, request: Request) -> Reply:
        with self.changed:
            if request.path.endswith("/release"):
                return self._release(request)
            if request.one("index") == str(self.revision):
                self.changed.wait_for(lambda: request.one("index") != str(self.revision), 20)
            shards = [
                {"shard": shard, "grant": grant, "release": release}
                for shard, (grant, release) in self.held.items()
            ]
            view = {"epoch": self.revision, "worker": "w1", "shards": shards}
            return Reply(view, headers={"roster-revision": str(self.revision)})

    def _release(self, request: Request) -> Reply:
        if self.refuse_releases:
            return problem(503, "no-leader")
        results: List[Dict[str, Any]] = []
        for item in request.body["shards"]:
            if self.held.get(item["shard"], (None, False))[0] == item["grant"]:
                del self.held[item["shard"]]
                results.append({"shard": item["shard"]})
            else:
                results.append({"shard": item["shard"], "code": "stale-token", "detail": "gone"})
        self.revision += 1
        return Reply({"results": results, "revision": self.revision})


class Work:
    """The caller's side."""

    def __init__(self) -> None:
        self.acts: List[str] = []
        self.broken: Set[str] = set()
        self.on_start: Callable[[], None] = lambda: None

    def start(self, shard: str, grant: int) -> None:
        self._act(f"start {shard} {grant}")
        self.on_start()

    def stop(self, shard: str) -> None:
        self._act(f"stop {shard}")

    def _act(self, act: str) -> None:
        self.acts.append(act)
        if act in self.broken:
            raise RuntimeError(f"cannot {act}")


class Scene:
    def __init__(self, node: ScriptedServer, shards: Shards, lease: FakeLease) -> None:
        self.node, self.shards, self.lease = node, shards, lease
        self.work = Work()
        self.worker = ShardWorker(
            Client(node.endpoint, timeout=0.2),
            "transports",
            "w1",
            start=self.work.start,
            stop=self.work.stop,
            lease=self.lease,
        )

    def runs(self, **shards: int) -> None:
        wait_until(
            lambda: self.worker.running == shards, f"{shards} instead of {self.worker.running}"
        )

    def releases(self) -> List[Any]:
        return [request.body["shards"] for request in self.node.asked("POST", "/release")]


@pytest.fixture
def scene() -> Iterator[Scene]:
    shards = Shards()
    shards.set(s1=(5, False), s2=(5, False), s3=(6, False))
    with ScriptedServer(shards) as node:
        scene = Scene(node, shards, FakeLease())
        scene.runs(s1=5, s2=5, s3=6)
        yield scene
        scene.worker.stop()


def test_what_must_go_is_stopped_and_then_let_go_in_one_call(scene: Scene) -> None:
    scene.shards.set(s1=(5, True), s2=(5, True), s3=(6, False), s4=(12, False))
    scene.runs(s3=6, s4=12)
    assert scene.releases() == [[{"shard": "s1", "grant": 5}, {"shard": "s2", "grant": 5}]]
    assert scene.work.acts[3:] == ["stop s1", "stop s2", "start s4 12"]


def test_shards_that_stay_are_not_touched_and_a_new_grant_is_a_new_start(scene: Scene) -> None:
    scene.shards.set(s1=(13, False), s2=(5, False))
    scene.runs(s1=13, s2=5)
    assert sorted(scene.work.acts[3:]) == ["start s1 13", "stop s1", "stop s3"]
    assert scene.work.acts.index("stop s1") < scene.work.acts.index("start s1 13")


def test_all_work_stops_when_the_lease_is_over_and_begins_again_with_it(scene: Scene) -> None:
    scene.lease.life = None
    scene.runs()
    scene.lease.life = 7
    scene.shards.set(s1=(5, False))
    scene.runs(s1=5)


def test_the_work_of_one_life_is_stopped_before_that_of_the_next_begins(scene: Scene) -> None:
    with scene.shards.changed:
        scene.lease.life = 20
        scene.runs()
    scene.shards.set(s1=(21, False))
    scene.runs(s1=21)
    assert set(scene.work.acts[3:6]) == {"stop s1", "stop s2", "stop s3"}


def test_another_life_begins_with_nothing_running_even_if_nobody_looked_meanwhile() -> None:
    shards, lease = Shards(), FakeLease()
    # So that the guard looks as seldom as it may.
    lease.left = 1_000.0
    held = {"s1": (5, False), "s2": (5, False)}
    shards.set(**held)
    with ScriptedServer(shards) as node:
        scene = Scene(node, shards, lease)
        scene.runs(s1=5, s2=5)
        lease.life = 8

        def begun_again() -> bool:
            shards.set(**held)
            return "stop s1" in scene.work.acts and scene.work.acts.count("start s1 5") == 2

        wait_until(begun_again, "the work of the next life")
        scene.worker.stop()


def test_an_answer_to_a_question_of_an_earlier_life_starts_nothing() -> None:
    shards, lease = Shards(), FakeLease()
    shards.set(s1=(5, False))

    def slow(request: Request) -> Reply:
        reply = shards(request)
        if lease.life == 7:
            # The worker expired and came back while the answer was on its way.
            lease.life = 8
            shards.set(s2=(9, False))
        return reply

    with ScriptedServer(slow) as node:
        scene = Scene(node, shards, lease)
        scene.runs(s2=9)
        scene.worker.stop()
    assert scene.work.acts == ["start s2 9", "stop s2"]


def test_what_cannot_be_stopped_is_not_let_go_until_it_can(scene: Scene) -> None:
    scene.work.broken.add("stop s1")
    scene.shards.set(s1=(5, True), s2=(5, True), s3=(6, False))
    wait_until(lambda: scene.work.acts.count("stop s1") >= 2, "another try")
    assert scene.releases() == [[{"shard": "s2", "grant": 5}]]
    scene.work.broken.clear()
    scene.runs(s3=6)
    wait_until(lambda: scene.releases()[1:] == [[{"shard": "s1", "grant": 5}]], "its release")


def test_what_cannot_be_started_is_tried_again(scene: Scene) -> None:
    scene.work.broken.add("start s4 12")
    scene.shards.set(s4=(12, False))
    wait_until(lambda: scene.work.acts.count("start s4 12") >= 2, "another try")
    assert scene.worker.running == {}
    scene.work.broken.clear()
    scene.runs(s4=12)


def test_a_release_that_got_no_answer_is_sent_again(scene: Scene) -> None:
    scene.shards.refuse_releases = True
    scene.shards.set(s1=(5, True), s2=(5, False))
    wait_until(lambda: scene.worker.error is not None, "a refused release")
    scene.shards.refuse_releases = False
    wait_until(lambda: "s1" not in scene.shards.held, "the release")
    scene.runs(s2=5)


def test_a_start_that_stops_the_worker_leaves_nothing_running() -> None:
    shards = Shards()
    shards.set(s1=(5, False), s2=(5, False))
    with ScriptedServer(shards) as node:
        lease = FakeLease()
        lease.life = None
        scene = Scene(node, shards, lease)
        scene.work.on_start = lambda: scene.worker.stop()
        lease.life = 7
        wait_until(lambda: scene.work.acts[-1:] == ["stop s1"], "the stop")
        scene.worker._threads[0].join(20)
        assert scene.worker.running == {}
    assert scene.work.acts == ["start s1 5", "stop s1"]


def test_after_the_stop_nothing_runs_and_nothing_is_started(scene: Scene) -> None:
    scene.worker.stop()
    assert sorted(scene.work.acts[3:]) == ["stop s1", "stop s2", "stop s3"]
    scene.shards.set(s9=(30, False))
    for thread in scene.worker._threads:
        thread.join(20)
        assert not thread.is_alive()
    assert scene.worker.running == {}
    assert len(scene.work.acts) == 6
    assert scene.releases() == []


def test_what_was_let_go_is_not_begun_again_under_the_same_grant(scene: Scene) -> None:
    """The move is called off while the release is on its way: it may arrive at any time."""
    scene.shards.refuse_releases = True
    scene.shards.set(s1=(5, True), s2=(5, False), s3=(6, False))
    wait_until(lambda: bool(scene.releases()), "a release")
    scene.shards.set(s1=(5, False), s2=(5, False), s3=(6, False))
    before = len(scene.releases())
    wait_until(lambda: len(scene.releases()) > before + 1, "further releases")
    scene.runs(s2=5, s3=6)
    assert scene.work.acts[3:] == ["stop s1"]
    scene.shards.refuse_releases = False
    wait_until(lambda: "s1" not in scene.shards.held, "the release")
    scene.shards.set(s1=(15, False), s2=(5, False), s3=(6, False))
    scene.runs(s1=15, s2=5, s3=6)
