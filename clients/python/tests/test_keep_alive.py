"""What a kept registration does with each answer, and when its lease is safe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterator, List

import pytest

from roster_client import Client, Ended, InvalidRequest, KeepAlive, Registration
from roster_client import keep_alive as module
from roster_client.clock import lease_now

from .scripted_server import (
    REGISTERED,
    Drop,
    Reply,
    Request,
    ScriptedServer,
    problem,
    wait_until,
)

HERE = Registration(ip="10.0.0.1", port=8719, ttl=15)
RENEWED = {"ttl": "15s", "heartbeat_every": "10ms", "revision": 8}


class Clock:
    """The lease's clock, which only a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "lease_now", clock)
    yield clock


class App:
    """Answers of an app, changed by a test as it goes."""

    def __init__(self, every: str = "10ms") -> None:
        self.register: Any = Reply({**REGISTERED, "heartbeat_every": every}, 201)
        self.heartbeat: Any = Reply({**RENEWED, "heartbeat_every": every})
        self.delete: Any = Reply({})

    def __call__(self, request: Request) -> Any:
        if request.method == "DELETE":
            return self.delete
        return self.heartbeat if request.path.endswith("/heartbeat") else self.register


def registrations(node: ScriptedServer) -> List[Request]:
    return node.asked("PUT", "/instances/a")


def heartbeats(node: ScriptedServer) -> List[Request]:
    return node.asked("PUT", "/instances/a/heartbeat")


def kept(node: ScriptedServer, **more: Any) -> KeepAlive:
    return Client(node.endpoint, timeout=0.5).keep_alive("pay", "a", HERE, **more)


def test_heartbeats_name_the_life_that_was_registered() -> None:
    with ScriptedServer(App()) as node:
        keep = kept(node)
        wait_until(lambda: len(heartbeats(node)) >= 3, "the third heartbeat")
        assert keep.safe_incarnation() == 7
        keep.stop()
    assert all(request.one("incarnation") == "7" for request in heartbeats(node))
    assert len(registrations(node)) == 1
    assert (keep.ended, keep.is_safe()) == (Ended.STOPPED, False)


def test_a_lease_counts_from_when_the_registration_was_sent(clock: Clock) -> None:
    app = App(every="1h")

    def slow(request: Request) -> Any:
        clock.now += 4
        return app(request)

    with ScriptedServer(slow) as node:
        keep = kept(node, margin=1)
        assert keep.safe_for() == pytest.approx(15 - 1 - 4)
        clock.now += 9.9
        assert keep.is_safe()
        clock.now += 0.2
        assert not keep.is_safe()
        keep.stop()


def test_a_lease_counts_from_when_the_answered_heartbeat_was_sent(clock: Clock) -> None:
    app = App()
    answered: List[bool] = []

    def script(request: Request) -> Any:
        if request.path.endswith("/heartbeat"):
            if answered:
                return Drop()
            # The answer takes 6 seconds.
            clock.now += 6
            answered.append(True)
        return app(request)

    with ScriptedServer(script) as node:
        sent_at = clock.now
        keep = kept(node)
        wait_until(lambda: keep.error is not None, "a heartbeat without an answer")
        # A fifth of the TTL is the margin.
        assert keep.safe_for() == pytest.approx(sent_at + 15 - 3 - clock.now)
        clock.now = sent_at + 12.1
        assert not keep.is_safe()
        node.script = app
        wait_until(keep.is_safe, "a lease that is safe again")
        keep.stop()


def test_an_unknown_instance_is_registered_again_if_nobody_else_is_there() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node, takeover=True)
        app.register = Reply({**REGISTERED, "incarnation": 9, "heartbeat_every": "10ms"}, 201)
        app.heartbeat = problem(404, "unknown-instance")
        wait_until(lambda: len(registrations(node)) >= 2, "the second registration")
        app.heartbeat = Reply(RENEWED)
        wait_until(lambda: keep.safe_incarnation() == 9, "the next life")
        keep.stop()
    first, second = registrations(node)[:2]
    assert (first.one("takeover"), "if-none-match" in first.headers) == ("true", False)
    assert (second.one("takeover"), second.headers["if-none-match"]) == (None, "*")


def test_an_unknown_instance_is_not_safe_before_it_is_registered_again(clock: Clock) -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        app.register = problem(503, "no-leader")
        app.heartbeat = problem(404, "unknown-instance")
        wait_until(lambda: not keep.is_safe(), "the end of the lease")
        assert keep.ended is None
        keep.stop()


def test_a_stale_incarnation_ends_the_heartbeats_for_good() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        app.heartbeat = problem(409, "stale-incarnation", incarnation=12)
        assert keep.wait_ended(20) is Ended.REPLACED
        assert not keep.is_safe()
        assert keep.error is not None and keep.error.incarnation == 12
        keep.leave()
    assert len(registrations(node)) == 1
    assert not node.asked("DELETE"), "the successor must stay"


def test_somebody_else_under_the_same_id_ends_the_heartbeats() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        app.register = problem(412, "instance-exists")
        app.heartbeat = problem(404, "unknown-instance")
        assert keep.wait_ended(20) is Ended.REPLACED


def test_a_life_of_ones_own_that_nobody_knows_of_is_waited_for(clock: Clock) -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        app.register = Drop()
        app.heartbeat = problem(404, "unknown-instance")
        wait_until(lambda: len(registrations(node)) >= 2, "a registration of unknown outcome")
        app.register = problem(412, "instance-exists")
        wait_until(lambda: len(registrations(node)) >= 5, "more tries")
        assert (keep.ended, keep.is_safe()) == (None, False)
        clock.now += 2 * 15 + 10
        assert keep.wait_ended(20) is Ended.REPLACED


def test_a_refusal_ends_the_heartbeats_and_a_node_that_cannot_serve_does_not() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        app.heartbeat = problem(503, "no-leader")
        wait_until(lambda: keep.error is not None, "an error")
        assert keep.ended is None
        app.heartbeat = Reply(RENEWED)
        wait_until(lambda: keep.error is None, "a good heartbeat")
        app.heartbeat = problem(403, "forbidden")
        assert keep.wait_ended(20) is Ended.REFUSED
        assert keep.error is not None and keep.error.code == "forbidden"


def test_who_leaves_removes_its_own_life_only() -> None:
    app = App(every="1h")
    with ScriptedServer(app) as node:
        for refused in (None, "unknown-instance", "stale-incarnation"):
            app.delete = problem(409, refused) if refused else Reply({})
            keep = kept(node)
            keep.leave()
            assert not keep.is_safe()
    assert [request.one("incarnation") for request in node.asked("DELETE")] == ["7"] * 3


def adoptions(node: ScriptedServer) -> List[str]:
    """The epochs that heartbeats have told, in their order."""
    told = (request.one("adopted") for request in heartbeats(node))
    return [epoch for epoch in told if epoch is not None]


def test_what_was_adopted_is_told_by_the_heartbeats_of_this_instance_alone() -> None:
    app = App()
    app.heartbeat = Reply({**RENEWED, "settled": {"pay": 41}})
    with ScriptedServer(app) as node:
        keep = kept(node)
        keep.adopt("pay", 42)
        keep.adopt("pay", 40)
        wait_until(lambda: len(adoptions(node)) >= 3 and keep.settled, "the settled epoch")
        keep.stop()
    assert keep.settled == {"pay": 41}
    assert set(adoptions(node)) == {"42"}
    # A session's heartbeat would speak for all that hangs off the session.
    assert not node.asked("PUT", "/v1/sessions/3/heartbeat")


def test_nothing_is_adopted_unless_it_was_said() -> None:
    with ScriptedServer(App()) as node:
        keep = kept(node)
        wait_until(lambda: len(heartbeats(node)) >= 3, "the third heartbeat")
        keep.stop()
    assert (adoptions(node), keep.settled) == ([], {})


def test_an_instance_adopts_no_ring_that_it_is_not_on() -> None:
    with ScriptedServer(App(every="1h")) as node:
        keep = kept(node)
        with pytest.raises(InvalidRequest, match="'fetchers'"):
            keep.adopt("fetchers", 42)
        keep.stop()
    assert heartbeats(node) == []


def test_what_an_overloaded_node_asks_for_is_kept_as_far_as_the_lease_allows(clock: Clock) -> None:
    overloaded = problem(503, "overloaded")
    app = App()
    app.heartbeat = replace(overloaded, headers={**overloaded.headers, "retry-after": "3600"})
    with ScriptedServer(app) as node:
        keep = kept(node)
        wait_until(lambda: keep.error is not None, "a refusal")
        assert keep._pause(clock.now) == pytest.approx(keep.safe_for() / 2)
        clock.now += 15
        assert keep.safe_for() <= 0
        # Of the TTL that goes with so frequent heartbeats, this is half.
        assert keep._pause(clock.now) <= keep.registered.heartbeat_every * 1.5
        keep.stop()


def test_a_longer_time_that_an_answer_asks_for_is_kept_to() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)
        wait_until(lambda: heartbeats(node), "a heartbeat")
        app.heartbeat = Reply({**RENEWED, "ttl": "2h", "heartbeat_every": "40m"})
        wait_until(lambda: keep.safe_for() > 3_600, "a longer TTL")
        assert keep.registered.heartbeat_every == 40 * 60
        wait_until(lambda: keep._rhythm.every == 40 * 60, "a longer pause")
        keep.stop()


def test_many_that_began_together_beat_together_neither_at_first_nor_later(clock: Clock) -> None:
    hour = 3_600.0
    with ScriptedServer(App(every="1h")) as node:
        keep = kept(node)
        first = [keep._pause(clock.now) for _ in range(200)]
        keep._rhythm.answered(hour, 0.0)
        later = [keep._pause(clock.now) for _ in range(200)]
        keep.stop()
    assert min(first) < hour / 3 and max(first) > hour * 2 / 3
    assert hour * 0.9 <= min(later) < hour * 0.97 and hour * 1.03 < max(later) <= hour * 1.1


def test_what_is_adopted_is_told_at_once_and_asked_for_until_it_is_settled() -> None:
    app = App(every="1h")
    app.heartbeat = Reply({**app.heartbeat.body, "settled": {"pay": 41}})
    with ScriptedServer(app) as node:
        keep = kept(node)
        keep.adopt("pay", 42)
        wait_until(lambda: len(adoptions(node)) >= 3, "the third heartbeat in an hour")
        app.heartbeat = Reply({**app.heartbeat.body, "settled": {"pay": 42}})
        wait_until(lambda: keep.settled == {"pay": 42}, "the settled epoch")
        assert keep._pause(lease_now()) > 60, "nothing is waited for any more"
        keep.adopt("pay", 43)
        wait_until(lambda: "43" in adoptions(node), "the next epoch")
        keep.stop()


def test_an_epoch_that_is_never_settled_is_asked_for_during_two_ttls_only(clock: Clock) -> None:
    with ScriptedServer(App(every="1h")) as node:
        keep = kept(node)
        keep.adopt("pay", 42)
        assert keep._pause(clock.now) == pytest.approx(0.2)
        clock.now += 2 * 15 - 0.1
        assert keep._pause(clock.now) == pytest.approx(0.2)
        clock.now += 0.2
        assert keep._pause(clock.now) > 60
        keep.stop()


def test_what_was_settled_stays_so_when_a_new_leader_does_not_know_of_it_yet() -> None:
    app = App()
    app.heartbeat = Reply({**RENEWED, "settled": {"pay": 42}})
    with ScriptedServer(app) as node:
        keep = kept(node)
        keep.adopt("pay", 42)
        wait_until(lambda: keep.settled == {"pay": 42}, "the settled epoch")
        app.heartbeat = Reply({**RENEWED, "settled": {"pay": 0}})
        seen = len(heartbeats(node))
        wait_until(lambda: len(heartbeats(node)) >= seen + 3, "more heartbeats")
        assert keep.settled == {"pay": 42}
        keep.stop()


def test_an_adoption_is_not_lost_while_the_next_life_is_registered() -> None:
    app = App()
    with ScriptedServer(app) as node:
        keep = kept(node)

        def slow(request: Request) -> Any:
            if request.path.endswith("/instances/a"):
                # The new ring was seen, and adopted, before the answer came.
                keep.adopt("pay", 42)
                app.heartbeat = Reply(RENEWED)
                return Reply({**REGISTERED, "incarnation": 9, "heartbeat_every": "10ms"}, 201)
            return app(request)

        node.script = slow
        app.heartbeat = problem(404, "unknown-instance")
        wait_until(lambda: "42" in adoptions(node), "the adoption")
        keep.stop()
    told = [request for request in heartbeats(node) if request.one("adopted")]
    assert {request.one("incarnation") for request in told} == {"9"}


def test_an_answer_on_its_way_does_not_make_a_stopped_lease_safe() -> None:
    app = App()
    with ScriptedServer(app) as node:

        def script(request: Request) -> Any:
            if request.path.endswith("/heartbeat"):
                wait_until(keep._stop.is_set, "the stop")
            return app(request)

        keep = kept(node)
        node.script = script
        seen = len(heartbeats(node))
        wait_until(lambda: len(heartbeats(node)) > seen, "a heartbeat")
        keep.stop()
        assert not keep.is_safe()
