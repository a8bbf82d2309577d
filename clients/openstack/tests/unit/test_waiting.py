"""Waits for a lock on a client that answers as scripted."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from tooz import coordination

from roster_client import (
    Acquired,
    Cancellation,
    Client,
    LockHeld,
    NotFound,
    Outcome,
    StaleToken,
    Unavailable,
)
from roster_openstack import locks, waiting
from roster_openstack.encoding import Ids
from roster_openstack.locks import RosterLock
from roster_openstack.session import Session

WON = Acquired(name="lock", token=813, mode="exclusive", revision=813)
LOST = NotFound("no such session", code="unknown-session", status=404)
HELD = LockHeld("held", code="lock-held", status=409)
BROKEN = Unavailable("the line broke", outcome=Outcome.UNKNOWN, retryable=True)
FULL = Unavailable("the queue is full", code="rate-limited", status=429, retryable=True)
SILENT = Unavailable("no answer", retryable=True)


class Clock:
    """The time of the waits, which goes on only where a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "_now", clock)
    monkeypatch.setattr(locks, "_now", clock)
    # Whoever waits looks at once.
    monkeypatch.setattr(waiting, "_LOOK_EVERY_SECONDS_MAX", 0.01)
    monkeypatch.setattr(waiting, "_LATE_SECONDS_MAX", 0.01)
    monkeypatch.setattr(waiting, "_PAUSE_SECONDS", 0.0)
    return clock


class Scripted(Client):
    """``asked`` is called with the seconds that a request waits, ``looked`` for each look."""

    def __init__(
        self, asked: Callable[[float], Acquired], looked: Callable[[], Optional[Dict[str, Any]]]
    ) -> None:
        super().__init__("127.0.0.1:1")
        self.waits: List[float] = []
        self.given_up = 0
        self.cancellations: List[Cancellation] = []
        self._asked = asked
        self._looked = looked

    def acquire_lock(self, name: str, session: str, **named: Any) -> Acquired:
        self.waits.append(named["wait"])
        if named.get("cancellation") is not None:
            self.cancellations.append(named["cancellation"])
        self.owner = named["owner"]
        return self._asked(named["wait"])

    def session(self, session: str, **named: Any) -> Dict[str, Any]:
        claim = self._looked()
        mine = [] if claim is None else [{"name": "lock", "owner": self.owner, **claim}]
        return {"locks": [{"name": "other", "owner": self.owner, "token": 1}, *mine]}

    def abandon_lock(self, name: str, session: str, owner: str = "") -> None:
        self.given_up += 1
        raise StaleToken("nothing to give up")


class Driver:
    """What a lock needs of a coordinator."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ids = Ids()
        self.abandoned = 0
        self.renewed = 0
        self.safe = True
        self.sessions = 1

    def session(self) -> Session:
        driver = self

        class Held(Session):
            def __init__(self) -> None:
                self.id = str(driver.sessions)

            @property
            def heartbeat_every(self) -> float:
                return 5.0

            def renew(self, *_: Any, **__: Any) -> None:
                driver.renewed += 1
                driver.safe = True

            def is_safe(self) -> bool:
                return driver.safe

        return Held()

    def reopened(self, lost: Session) -> Session:
        self.sessions += 1
        return self.session()

    def abandon(self, latch: str, session: Session, owner: str) -> None:
        self.abandoned += 1

    @contextlib.contextmanager
    def kept_alive(self, seconds: Optional[float]) -> Iterator[None]:
        yield


def lock_of(driver: Driver) -> RosterLock:
    return RosterLock(driver, b"lock")  # type: ignore[arg-type]


class Hung:
    """A request that is not answered until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self) -> Acquired:
        self.over.wait(60)
        raise BROKEN


@pytest.fixture
def hung() -> Iterator[Hung]:
    hung = Hung()
    yield hung
    hung.over.set()


def test_after_a_lost_session_only_what_is_left_of_the_time_is_waited(clock: Clock) -> None:
    def asked(wait: float) -> Acquired:
        if wait == 0:
            raise HELD
        clock.now += 6.0
        raise LOST if len(client.waits) == 2 else HELD

    client = Scripted(asked, lambda: {"token": None})
    driver = Driver(client)
    assert lock_of(driver).acquire(timeout=10) is False
    assert client.waits == [0, 10, 0, 4]
    assert driver.sessions == 2


def test_a_lost_session_does_not_make_who_has_no_time_left_wait(clock: Clock) -> None:
    def asked(wait: float) -> Acquired:
        clock.now += 1.0
        raise LOST if len(client.waits) == 1 else HELD

    client = Scripted(asked, lambda: None)
    assert lock_of(Driver(client)).acquire(blocking=False) is False
    assert client.waits == [0, 0]


def test_what_a_look_shows_as_won_is_confirmed_before_the_hanging_request_is_cancelled(
    clock: Clock, hung: Hung
) -> None:
    def asked(wait: float) -> Acquired:
        if wait > 0:
            return hung()
        if len(client.waits) == 1:
            raise HELD
        assert not client.cancellations[0].is_cancelled
        return WON

    client = Scripted(asked, lambda: {"token": 813})
    driver = Driver(client)
    lock = lock_of(driver)
    assert lock.acquire() is True
    assert lock.token == 813 and lock.acquired
    assert client.waits == [0, waiting.PIECE_SECONDS, 0]
    assert client.cancellations[0].is_cancelled and driver.abandoned == 0


def test_a_request_that_no_node_knows_of_is_made_again(clock: Clock, hung: Hung) -> None:
    def asked(wait: float) -> Acquired:
        if len(client.waits) == 1:
            raise HELD
        return hung() if len(client.waits) == 2 else WON

    client = Scripted(asked, lambda: None)
    assert lock_of(Driver(client)).acquire() is True
    # And confirmed, since the first request may yet be heard.
    assert client.waits == [0, waiting.PIECE_SECONDS, waiting.PIECE_SECONDS, 0]


def test_who_loses_its_place_asks_again(clock: Clock) -> None:
    def asked(wait: float) -> Acquired:
        if len(client.waits) < 3:
            raise HELD
        return WON

    client = Scripted(asked, lambda: {"token": None})
    assert lock_of(Driver(client)).acquire() is True


def test_a_request_that_hangs_beyond_the_time_is_given_up(clock: Clock, hung: Hung) -> None:
    def asked(wait: float) -> Acquired:
        if wait == 0:
            raise HELD
        return hung()

    def looked() -> Dict[str, Any]:
        clock.now += 20
        return {"token": None}

    client = Scripted(asked, looked)
    driver = Driver(client)
    assert lock_of(driver).acquire(timeout=10) is False
    assert (client.given_up, driver.abandoned) == (1, 0)
    assert client.cancellations[0].is_cancelled


def test_a_cluster_that_does_not_answer_a_look_ends_the_wait(clock: Clock, hung: Hung) -> None:
    def asked(wait: float) -> Acquired:
        if wait == 0:
            raise HELD
        return hung()

    def looked() -> Dict[str, Any]:
        raise SILENT

    client = Scripted(asked, looked)
    driver = Driver(client)
    with pytest.raises(coordination.ToozConnectionError):
        lock_of(driver).acquire()
    assert driver.abandoned == 1 and client.cancellations[0].is_cancelled


def test_requests_that_all_fail_end_the_wait_though_looks_are_answered(clock: Clock) -> None:
    def asked(wait: float) -> Acquired:
        if wait == 0:
            raise HELD
        clock.now += 1
        raise BROKEN

    client = Scripted(asked, lambda: None)
    driver = Driver(client)
    with pytest.raises(coordination.ToozConnectionError, match="the line broke"):
        lock_of(driver).acquire()
    assert driver.abandoned == 1


def test_a_queue_that_is_full_is_said_at_once(clock: Clock) -> None:
    def asked(wait: float) -> Acquired:
        raise HELD if wait == 0 else FULL

    client = Scripted(asked, lambda: None)
    with pytest.raises(coordination.ToozConnectionError, match="the queue is full"):
        lock_of(Driver(client)).acquire()
    assert len(client.waits) == 2


def test_a_session_that_may_have_ended_meanwhile_is_renewed_before_the_lock_counts_as_won(
    clock: Clock,
) -> None:
    driver = Driver(Scripted(lambda wait: WON, lambda: None))
    driver.safe = False
    lock = lock_of(driver)
    assert lock.acquire() is True
    assert lock.acquired and driver.renewed == 1
