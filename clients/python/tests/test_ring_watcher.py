"""The newest ring, which never goes back."""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, List, Optional

import pytest

from roster_client import Client, RingError, RingView, RingWatcher

from .scripted_server import Drop, Reply, Request, ScriptedServer, problem, wait_until


def description(epoch: int, *workers: str) -> Dict[str, Any]:
    return {
        "v": 1,
        "kind": "jump-probe-1",
        "group": "fetchers",
        "epoch": epoch,
        "seed": 0,
        "replicas": 1,
        "workers": [[worker, 1] for worker in workers],
        "slots": list(range(len(workers))),
        "settled": 3,
    }


class Ring:
    """A ring that a test changes; a long poll waits for the next change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answer: Any = Reply(description(5, "a"))
        self._version = 0
        self._asked = -1

    def set(self, answer: Any) -> None:
        with self._changed:
            self._answer = answer
            self._version += 1
            self._changed.notify_all()

    def wait_asked(self) -> None:
        """Waits until a poll waits that has seen the last answer."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._asked == self._version, 20)

    def __call__(self, request: Request) -> Any:
        index = request.one("index")
        with self._changed:
            if index is not None and self._is_known(int(index)):
                self._asked = begun = self._version
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._version != begun, 20)
            return self._answer

    def _is_known(self, index: int) -> bool:
        answer = self._answer
        return isinstance(answer, Reply) and bool(answer.body.get("epoch", index + 1) <= index)


def watching(node: ScriptedServer, **more: Any) -> RingWatcher:
    return RingWatcher(Client(node.endpoint, timeout=0.2), "fetchers", **more)


def test_a_new_ring_replaces_the_view_and_the_poll_names_the_epoch_that_is_known() -> None:
    ring: Ring = Ring()
    told: List[Optional[RingView]] = []
    with ScriptedServer(ring) as node:
        watcher = watching(node, on_change=told.append)
        view = watcher.wait_for(timeout=20)
        assert view is not None and (view.epoch, view.owner("k")) == (5, "a")
        ring.wait_asked()
        ring.set(Reply(description(9, "a", "b")))
        later = watcher.wait_for(9, timeout=20)
        assert later is watcher.view and later is not None and len(later.workers) == 2
        assert view.epoch == 5, "a view that somebody holds stays as it is"
        wait_until(lambda: len(told) == 2)
        ring.wait_asked()
        watcher.stop()
    asked = [(request.one("index"), request.one("wait")) for request in node.requests]
    assert asked[:3] == [(None, None), ("5", "30s"), ("9", "30s")]
    assert [seen.epoch for seen in told if seen] == [5, 9]


def test_an_older_ring_is_passed_over() -> None:
    ring: Ring = Ring()
    told: List[Optional[RingView]] = []
    with ScriptedServer(ring) as node:
        watcher = watching(node, on_change=told.append)
        ring.wait_asked()
        ring.set(Reply(description(4, "b")))
        wait_until(lambda: len(node.requests) >= 3, "the next poll")
        assert watcher.view is not None and watcher.view.epoch == 5
        assert len(told) == 1
        assert node.requests[2].one("index") == "5"
        watcher.stop()


def test_a_ring_that_cannot_be_used_and_a_node_that_cannot_serve_leave_the_view() -> None:
    ring = Ring()
    with ScriptedServer(ring) as node:
        watcher = watching(node)
        malformed = Reply({**description(99, "a"), "slots": [0, 0]})
        answers: List[Any] = [malformed, problem(503, "no-leader"), Drop()]
        for epoch, wrong in enumerate(answers, start=5):
            ring.wait_asked()
            ring.set(wrong)
            wait_until(lambda: watcher.error is not None, "an error")
            assert isinstance(watcher.error, RingError) == (wrong is malformed)
            assert watcher.view is not None and watcher.view.epoch == epoch
            ring.set(Reply(description(epoch + 1, "a")))
            wait_until(lambda: watcher.error is None, "a good answer")
        watcher.stop()


def test_a_ring_that_was_switched_off_is_withdrawn_and_an_older_one_does_not_come_back() -> None:
    ring: Ring = Ring()
    told: List[Optional[RingView]] = []
    with ScriptedServer(ring) as node:
        watcher = watching(node, on_change=told.append)
        ring.wait_asked()
        ring.set(problem(404, "no-ring"))
        wait_until(lambda: len(told) == 2 and told[1] is None, "the end of the ring")
        assert watcher.view is None
        seen = len(node.requests)
        ring.set(Reply(description(4, "b")))
        wait_until(lambda: len(node.requests) >= seen + 2, "two more polls")
        assert watcher.view is None
        ring.set(Reply(description(12, "b")))
        assert watcher.wait_for(12, timeout=20) is not None
        watcher.stop()


def test_a_callback_that_fails_is_logged_and_keeps_nobody_from_the_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ring: Ring = Ring()
    told: List[Optional[RingView]] = []

    def fails(view: Optional[RingView]) -> None:
        raise ValueError("a bug of the caller")

    with ScriptedServer(ring) as node, caplog.at_level(logging.ERROR):
        watcher = watching(node, on_change=fails)
        watcher.on_change(told.append)
        ring.wait_asked()
        ring.set(Reply(description(9, "a")))
        wait_until(lambda: bool(told and told[-1]), "the other callback")
        watcher.stop()
    assert "a bug of the caller" in caplog.text


def test_nothing_is_told_after_the_stop() -> None:
    ring: Ring = Ring()
    told: List[Optional[RingView]] = []
    with ScriptedServer(ring) as node:
        watcher = watching(node, on_change=told.append)
        ring.wait_asked()
        watcher.stop()
        ring.set(Reply(description(9, "a")))
        watcher._thread.join(20)
        assert not watcher._thread.is_alive()
        assert len(told) == 1
        assert watcher.wait_for(99, timeout=20) is None, "who waits is let go"
