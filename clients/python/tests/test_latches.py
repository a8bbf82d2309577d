"""Calls of locks and elections, against nodes that answer as scripted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict

import pytest

from roster_client import (
    Cancellation,
    Client,
    Conflict,
    InvalidRequest,
    LockHeld,
    NotFound,
    Outcome,
    StaleToken,
    Unavailable,
)
from roster_client.durations import parse_duration

from .scripted_server import (
    PATIENCE_SECONDS,
    Drop,
    Reply,
    Request,
    ScriptedServer,
    never,
    problem,
    wait_until,
)

WON: Dict[str, Any] = {"name": "l/1", "token": 813, "mode": "exclusive", "revision": 813}


def client_of(*nodes: ScriptedServer, timeout: float = 10.0) -> Client:
    return Client([node.endpoint for node in nodes], timeout=timeout)


def drops(request: Request) -> Drop:
    return Drop()


def test_an_acquire_says_who_wants_it_and_how_long_it_waits() -> None:
    with ScriptedServer(lambda _: Reply({**WON, "mode": "shared"})) as node:
        acquired = client_of(node).acquire_lock("l/1", "17", owner="me", shared=True)
    request = node.requests[0]
    assert (request.method, request.target) == ("POST", "/v1/locks/l%2F1/acquire")
    assert request.body == {"session": "17", "owner": "me", "mode": "shared", "wait": "0s"}
    assert (acquired.token, acquired.mode, acquired.revision) == (813, "shared", 813)


def test_an_acquire_of_unknown_outcome_is_sent_again_for_the_same_owner() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(lambda _: Reply(WON)) as second:
        assert client_of(first, second).acquire_lock("l", "17", owner="me").token == 813
    assert first.requests[0].body == second.requests[0].body


def test_a_wait_that_breaks_off_goes_on_at_the_next_node_with_what_is_left_of_it() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(lambda _: Reply(WON)) as second:
        assert client_of(first, second).acquire_lock("l", "17", wait=60).token == 813
    waits = [parse_duration(node.requests[0].body["wait"]) for node in (first, second)]
    assert waits[0] <= 60
    assert 0 < waits[1] < waits[0]


def test_a_wait_that_every_node_breaks_off_ends_with_an_unknown_outcome() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(drops) as second:
        with pytest.raises(Unavailable) as raised:
            client_of(first, second).acquire_lock("l", "17", wait=60)
    assert raised.value.outcome is Outcome.UNKNOWN


def test_a_waiting_call_is_given_its_wait_before_it_counts_as_unanswered() -> None:
    with ScriptedServer(never) as node:

        def slow(request: Request) -> Reply:
            node.over.wait(0.6)
            return Reply(WON)

        node.script = slow
        assert client_of(node, timeout=0.3).acquire_lock("l", "17", wait=5).token == 813


def test_what_forbids_a_lock_is_told_by_the_kind_of_error() -> None:
    held, stale = problem(409, "lock-held"), problem(409, "stale-token")
    with ScriptedServer(lambda r: held if r.path.endswith("acquire") else stale) as node:
        client = client_of(node)
        with pytest.raises(LockHeld) as raised:
            client.acquire_lock("l", "17")
        with pytest.raises(StaleToken):
            client.release_lock("l", 812)
        with pytest.raises(StaleToken):
            client.abandon_lock("l", "17", "me")
        with pytest.raises(StaleToken):
            client.resign("e", token=812)
    assert isinstance(raised.value, Conflict) and raised.value.outcome is Outcome.NONE


def test_a_release_is_sent_with_one_key_however_often() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(lambda _: Reply({"revision": 9})) as second:
        client_of(first, second).release_lock("l", 813, session="17", owner="")
    keys = {node.requests[0].headers["idempotency-key"] for node in (first, second)}
    assert len(keys) == 1
    assert second.requests[0].body == {"token": 813, "session": "17", "owner": ""}


def test_a_break_that_names_no_token_is_not_sent_twice() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(never) as second:
        with pytest.raises(Unavailable, match="may have taken effect"):
            client_of(first, second).break_lock("l")
        with pytest.raises(Unavailable, match="may have taken effect"):
            client_of(first, second).break_election("e")
        assert (len(first.requests), len(second.requests)) == (2, 0)
    with (
        ScriptedServer(drops) as first,
        ScriptedServer(lambda _: Reply({"revision": 9, "broken": []})) as second,
    ):
        client_of(first, second).break_lock("l", token=813)
    assert second.requests[0].target == "/v1/locks/l?token=813"


def test_locks_and_elections_are_read_in_pages_and_one_by_one() -> None:
    holder = {"owner": "me", "session": "17", "token": 813, "mode": "exclusive"}
    lock = {"name": "l", "holders": [holder], "waiting": 2, "revision": 813}
    election = {
        "name": "e",
        "leader": "17",
        "value": "10.0.0.1:80",
        "token": 814,
        "candidates": [{"session": "18", "value": "b"}],
        "waiting": 1,
        "revision": 815,
    }

    def script(request: Request) -> Reply:
        if request.path == "/v1/locks":
            more = "c" if request.one("cursor") is None else None
            return Reply({"locks": [lock], "next_cursor": more, "revision": 9})
        if request.path == "/v1/elections":
            return Reply({"elections": [election], "next_cursor": None, "revision": 9})
        if request.path.endswith("/check"):
            return Reply({"holds": request.one("token") == "813", "revision": 9})
        return Reply(lock if "locks" in request.path else election)

    with ScriptedServer(script) as node:
        client = client_of(node)
        assert [one.waiting for one in client.list_locks()] == [2, 2]
        assert client.get_lock("l", index=3, wait=1).holders[0].owner == "me"
        view = client.get_election("e")
        assert (view.leader, view.value, view.token) == ("17", "10.0.0.1:80", 814)
        assert client.list_elections()[0].candidates[0].session == "18"
        assert client.check_lock("l", 813, session="17", owner="")
        assert not client.check_election("e", 812)
    assert node.requests[2].target == "/v1/locks/l?index=3&wait=1s"
    assert node.requests[-2].target == "/v1/locks/l/check?token=813&session=17&owner="


def test_a_campaign_says_whether_it_was_won() -> None:
    answers = [
        {"name": "e", "leader": False, "token": None, "revision": 9},
        {"name": "e", "leader": True, "token": 813, "revision": 813},
    ]
    with ScriptedServer(lambda _: Reply(answers.pop(0))) as node:
        client = client_of(node)
        waiting = client.campaign("e", "17", value="here")
        leading = client.campaign("e", "17", value="here", wait=2)
    assert (waiting.leader, waiting.token) == (False, None)
    assert (leading.leader, leading.token) == (True, 813)
    assert node.requests[1].body == {"session": "17", "value": "here", "wait": "2s"}


def test_a_name_that_no_path_can_carry_is_refused_before_anything_is_sent() -> None:
    with ScriptedServer(never) as node:
        for name in ("", ".", ".."):
            with pytest.raises(InvalidRequest):
                client_of(node).acquire_lock(name, "17")


def test_a_lock_on_a_session_that_ended_is_not_found() -> None:
    with ScriptedServer(lambda _: problem(404, "unknown-session")) as node:
        with pytest.raises(NotFound) as raised:
            client_of(node).acquire_lock("l", "17", wait=1)
    assert raised.value.code == "unknown-session"


def test_a_wait_that_is_cancelled_ends_at_once_and_asks_no_other_node() -> None:
    cancellation = Cancellation()
    with ScriptedServer(never) as first, ScriptedServer(never) as second:

        def waits(request: Request) -> Reply:
            if request.body["wait"] != "0s":
                first.wait_over()
            return Reply(WON)

        first.script = waits
        client = client_of(first, second)
        # It leaves an idle connection behind, which is not the one to be closed.
        client.acquire_lock("l", "17")
        with ThreadPoolExecutor(1) as pool:
            acquired = pool.submit(
                client.acquire_lock, "l", "17", wait=600, cancellation=cancellation
            )
            wait_until(lambda: len(first.requests) == 2, "the request")
            cancellation.cancel()
            with pytest.raises(Unavailable, match="cancelled") as raised:
                acquired.result(timeout=PATIENCE_SECONDS)
        assert raised.value.outcome is Outcome.UNKNOWN
        assert second.requests == []
        # And whoever is cancelled before sends nothing.
        with pytest.raises(Unavailable, match="cancelled"):
            client.acquire_lock("l", "17", cancellation=cancellation)
        assert (len(first.requests), len(second.requests)) == (2, 0)


def test_a_cancellation_leaves_the_connections_of_other_calls_alone() -> None:
    with ScriptedServer(lambda _: Reply(WON)) as node:
        client, cancellation = client_of(node), Cancellation()
        client.acquire_lock("l", "17")
        assert client.acquire_lock("l", "17", cancellation=cancellation).token == 813
        cancellation.cancel()
        assert client.acquire_lock("l", "17").token == 813
