"""A worker works on what it was granted, and on nothing else."""

from __future__ import annotations

import logging
import math
import threading
import time
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
        self.deleted = False
        # Shards whose release gets no answer from the log.
        self.in_doubt: Set[str] = set()

    def set(self, **held: Tuple[int, bool]) -> None:
        """Shard to its grant and whether it must go."""
        with self.changed:
            self.held = dict(held)
            self.revision += 1
            self.changed.notify_all()

    def __call__(self, request: Request) -> Reply:
        with self.changed:
            if self.deleted:
                return problem(404, "unknown-shard-set")
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
        if len(request.body["shards"]) > 10_000:
            return problem(413, "too-large")
        for item in request.body["shards"]:
            if item["shard"] in self.in_doubt:
                results.append({"shard": item["shard"], "code": "timeout", "detail": "no answer"})
            elif self.held.get(item["shard"], (None, False))[0] == item["grant"]:
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
        self.acted_at: List[float] = []
        self.broken: Set[str] = set()
        self.on_start: Callable[[], None] = lambda: None

    def start(self, shard: str, grant: int) -> None:
        self._act(f"start {shard} {grant}")
        self.on_start()

    def stop(self, shard: str) -> None:
        self._act(f"stop {shard}")

    def _act(self, act: str) -> None:
        self.acted_at.append(time.monotonic())
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
    wait_until(lambda: scene.shards.held.keys() == {"s3", "s4"}, "the release")
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


def test_more_than_one_release_takes_are_let_go_in_several() -> None:
    shards = Shards()
    shards.set(**{f"s{number}": (5, True) for number in range(10_001)})
    with ScriptedServer(shards) as node:
        scene = Scene(node, shards, FakeLease())
        wait_until(lambda: not shards.held, "the releases")
        scene.worker.stop()
        assert [len(release) for release in scene.releases()] == [10_000, 1]
        assert scene.worker.error is None


def test_a_failing_release_keeps_nothing_from_being_started(scene: Scene) -> None:
    scene.shards.refuse_releases = True
    scene.shards.set(s1=(5, True), s2=(5, False), s3=(6, False), s4=(12, False))
    scene.runs(s2=5, s3=6, s4=12)
    wait_until(lambda: scene.worker.error is not None, "a refused release")
    scene.shards.refuse_releases = False
    wait_until(lambda: "s1" not in scene.shards.held, "the release")


def test_a_shard_whose_release_is_in_doubt_is_let_go_again(scene: Scene) -> None:
    scene.shards.in_doubt.add("s1")
    scene.shards.set(s1=(5, True), s2=(5, True), s3=(6, False), s4=(12, False))
    scene.runs(s3=6, s4=12)
    again = [{"shard": "s1", "grant": 5}]
    wait_until(lambda: again in scene.releases(), "the second release, of what is left")
    wait_until(lambda: scene.worker.error is not None, "the reason")
    error = scene.worker.error
    assert error is not None and (error.code, "s1" in error.detail) == ("timeout", True)
    scene.shards.in_doubt.clear()
    wait_until(lambda: "s1" not in scene.shards.held, "the release")
    wait_until(lambda: scene.worker.error is None, "a good round")


def test_a_stop_that_raises_while_the_lease_is_over_is_tried_again_after_pauses(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.work.broken.add("stop s1")
    scene.lease.life = None
    scene.runs(s1=5)
    wait_until(lambda: scene.work.acts.count("stop s1") >= 4, "the fourth try")
    at = [at for act, at in zip(scene.work.acts, scene.work.acted_at) if act == "stop s1"]
    # 0.2 s, 0.4 s, 0.8 s: never less, however slow the machine is.
    assert at[3] - at[0] >= 1.4
    [raised] = [record for record in caplog.records if record.exc_info]
    assert "shard s1 could not be stopped" in raised.getMessage()
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1, "that the lease is over is told once"
    scene.work.broken.clear()
    scene.runs()


def test_who_is_put_off_does_not_put_off_what_was_started_since(scene: Scene) -> None:
    """The guard waits to stop one shard again, while another lease begins and is over."""
    scene.work.broken.add("stop s1")
    scene.lease.life = None
    scene.runs(s1=5)
    with scene.worker._lock:
        trouble = scene.worker._troubles["s1"]
        trouble.stop_again_at = math.inf
        scene.worker._running["s9"] = 30
    wait_until(lambda: "stop s9" in scene.work.acts, "the stop of what was started since")
    scene.work.broken.clear()
    scene.lease.life = 7
    wait_until(lambda: trouble.stop_again_at == 0.0, "a lease after which nothing is put off")
    scene.lease.life = None
    scene.runs()


def test_another_kind_of_error_is_logged_and_the_same_one_is_not(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.work.broken.add("start s4 12")
    scene.shards.set(s4=(12, False))
    wait_until(lambda: scene.work.acts.count("start s4 12") >= 2, "another try")

    def fail() -> None:
        raise KeyError("another kind")

    def kinds() -> List[Any]:
        return [record.exc_info[0] for record in caplog.records if record.exc_info]

    # Between two tries.
    with scene.worker._lock:
        scene.work.on_start = fail
        scene.work.broken.clear()
    wait_until(lambda: KeyError in kinds(), "the other kind")
    assert kinds() == [RuntimeError, KeyError]
    scene.work.on_start = lambda: None
    scene.runs(s4=12)


def test_a_view_from_before_the_last_one_of_the_same_life_is_not_acted_on(scene: Scene) -> None:
    scene.shards.set(s2=(5, False))
    scene.runs(s2=5)
    acts = len(scene.work.acts)
    asked = len(scene.node.requests)
    with scene.shards.changed:
        scene.shards.revision = 3
        scene.shards.held = {"s1": (2, False), "s2": (5, True)}
        scene.shards.changed.notify_all()
    wait_until(lambda: len(scene.node.requests) >= asked + 3, "more questions")
    assert (scene.work.acts[acts:], scene.releases()) == ([], [])
    with scene.shards.changed:
        scene.shards.revision = 50
    scene.shards.set(s2=(5, False), s5=(49, False))
    scene.runs(s2=5, s5=49)
    # Another life begins with what it is told.
    with scene.shards.changed:
        scene.shards.revision = 4
        scene.shards.held = {"s1": (4, False)}
        scene.lease.life = 60
        scene.shards.changed.notify_all()
    scene.runs(s1=4)


def test_work_stops_when_there_is_no_such_set_any_more(scene: Scene) -> None:
    scene.shards.deleted = True
    scene.shards.set(s1=(5, False))
    scene.runs()
    # Made again: nothing of before counts.
    scene.shards.deleted = False
    scene.shards.set(s1=(40, False))
    scene.runs(s1=40)
