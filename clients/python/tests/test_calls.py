"""A call's way from node to node, and what its errors say."""

from __future__ import annotations

from typing import Any, Dict, List, Type

import pytest

from roster_client import (
    Answer,
    Call,
    Client,
    Compacted,
    Conflict,
    Held,
    InvalidRequest,
    NotFound,
    Outcome,
    PreconditionFailed,
    Registration,
    RosterError,
    TooLarge,
    Unavailable,
    UnexpectedAnswer,
)
from roster_client.durations import format_duration, parse_duration
from roster_client.transport import Node, Transport

from .scripted_server import (
    REGISTERED,
    Drop,
    Reply,
    Request,
    ScriptedServer,
    closed_endpoint,
    never,
    problem,
)

HERE = Registration(ip="10.0.0.1", port=8719)


def registers(request: Request) -> Reply:
    return Reply(REGISTERED, 201)


def drops(request: Request) -> Drop:
    return Drop()


def client_of(*nodes: Any, timeout: float = 10.0) -> Client:
    return Client([n if isinstance(n, str) else n.endpoint for n in nodes], timeout=timeout)


def test_a_call_goes_on_to_the_next_node_where_nobody_listens() -> None:
    with ScriptedServer(registers) as node:
        client = client_of(closed_endpoint(), node)
        registered = client.register("pay", "a", HERE, takeover=True)
    assert (registered.incarnation, registered.ttl, registered.heartbeat_every) == (7, 15.0, 5.0)


def test_a_call_goes_on_to_the_next_node_where_one_cannot_serve_and_stays_there() -> None:
    with (
        ScriptedServer(lambda _: problem(503, "no-leader")) as first,
        ScriptedServer(registers) as second,
    ):
        client = client_of(first, second)
        for _ in range(3):
            client.register("pay", "a", HERE, if_absent=True)
    assert (len(first.requests), len(second.requests)) == (1, 3)


def test_a_call_of_unknown_outcome_that_must_not_be_repeated_is_not_sent_again() -> None:
    for more in ({"takeover": True}, {"if_absent": True}):
        with ScriptedServer(drops) as first, ScriptedServer(never) as second:
            with pytest.raises(Unavailable, match="may have taken effect") as raised:
                client_of(first, second).register("pay", "a", HERE, **more)
        assert raised.value.outcome is Outcome.UNKNOWN
        assert (len(first.requests), len(second.requests)) == (1, 0)


def test_a_call_that_may_be_repeated_is_sent_again_after_an_unknown_outcome() -> None:
    with ScriptedServer(drops) as first, ScriptedServer(registers) as second:
        client_of(first, second).register("pay", "a", HERE)
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_refusal_after_a_try_of_unknown_outcome_says_that_it_may_have_taken_effect() -> None:
    gone = problem(404, "unknown-instance")
    with ScriptedServer(drops) as first, ScriptedServer(lambda _: gone) as second:
        with pytest.raises(NotFound) as raised:
            client_of(first, second).deregister("pay", "a")
    assert raised.value.outcome is Outcome.UNKNOWN


def test_a_session_is_opened_with_one_key_however_often_the_call_is_sent() -> None:
    opened = {"session": "3", "ttl": "1m 30s", "heartbeat_every": "500ms", "revision": 9}
    with ScriptedServer(drops) as first, ScriptedServer(lambda _: Reply(opened, 201)) as second:
        session = client_of(first, second).open_session(ttl=90, name="w")
    keys = {node.requests[0].headers["idempotency-key"] for node in (first, second)}
    assert len(keys) == 1
    assert second.requests[0].body == {"name": "w", "ttl": "90s"}
    assert (session.session, session.ttl, session.heartbeat_every) == ("3", 90.0, 0.5)


def test_a_node_gets_its_share_of_the_time_unless_nobody_else_may_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: List[float] = []

    def hangs(node: Node, call: Call, seconds: float) -> Answer:
        given.append(seconds)
        raise Unavailable("no answer", outcome=Outcome.UNKNOWN, retryable=True)

    monkeypatch.setattr(Node, "ask", hangs)
    for nodes, repeatable, share in (
        (2, True, 5.0),
        (2, False, 10.0),
        (64, True, 2.0),
        (1, True, 10.0),
    ):
        transport = Transport(["a:1"] * nodes, 10.0)
        monkeypatch.setattr(transport, "leave", raising)
        with pytest.raises(LookupError):
            transport.send(Call("PUT", "/", repeatable=repeatable))
        assert given.pop() == share
        # A long poll gets its wait on top.
        with pytest.raises(LookupError):
            transport.send(Call("GET", "/", repeatable=repeatable, wait=30.0))
        assert given.pop() == share + 30.0


def raising(failed: int) -> int:
    raise LookupError("left")


def test_when_no_node_can_serve_the_error_is_the_last_one_and_nothing_was_done() -> None:
    with ScriptedServer(lambda _: problem(503, "no-leader", revision=12)) as node:
        with pytest.raises(Unavailable) as raised:
            client_of(node, closed_endpoint(), node, timeout=0.3).register("pay", "a", HERE)
    assert raised.value.outcome is Outcome.NONE
    assert raised.value.retryable
    assert len(node.requests) >= 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (409, Conflict),
        (410, Compacted),
        (412, PreconditionFailed),
        (413, TooLarge),
        (500, Unavailable),
    ],
)
def test_a_refusal_becomes_the_error_of_its_status(status: int, kind: Type[RosterError]) -> None:
    told = problem(
        status,
        "some-code",
        outcome="unknown",
        revision=812,
        incarnation=640,
        restart_from=9,
        errors=[{"field": "ip"}, "odd"],
    )
    with ScriptedServer(lambda _: told) as node, pytest.raises(kind, match="some-code") as raised:
        client_of(node).register("pay", "a", HERE)
    error = raised.value
    assert (error.status, error.code, error.detail) == (status, "some-code", "told some-code")
    assert (error.revision, error.incarnation, error.restart_from) == (812, 640, 9)
    assert error.outcome is Outcome.UNKNOWN
    assert error.fields == ({"field": "ip"},)


def test_an_answer_without_a_problem_document_is_judged_by_its_status() -> None:
    def error_of(status: int, body: bytes) -> RosterError:
        with ScriptedServer(lambda _: Reply(body, status)) as node:
            with pytest.raises(RosterError) as raised:
                client_of(node, timeout=0.05).register("pay", "a", HERE, takeover=True)
        return raised.value

    bad_gateway = error_of(502, b"<html>")
    assert (bad_gateway.code, bad_gateway.outcome) == ("http-502", Outcome.UNKNOWN)
    assert (bad_gateway.retryable, bad_gateway.detail) == (True, "<html>")
    too_large = error_of(413, b"<html>")
    assert isinstance(too_large, TooLarge) and not too_large.retryable
    for status, outcome in ((400, Outcome.NONE), (404, Outcome.NONE), (501, Outcome.UNKNOWN)):
        other = error_of(status, b"<html>")
        assert isinstance(other, UnexpectedAnswer)
        assert (other.code, other.outcome) == (f"http-{status}", outcome)


def test_where_another_server_listens_the_next_node_is_asked() -> None:
    def script(request: Request) -> Reply:
        return Reply(REGISTERED)

    for status in (403, 404, 501):
        with (
            ScriptedServer(lambda _: Reply(b"<html>", status)) as other,
            ScriptedServer(script) as node,
        ):
            assert client_of(other, node).register("pay", "a", HERE).incarnation == 7
        assert len(other.requests) == 1


def test_what_does_not_answer_like_a_node_is_said() -> None:
    for reply in (
        Reply(b"hello"),
        Reply([1]),
        Reply({**REGISTERED, "ttl": 15}),
        Reply({**REGISTERED, "ttl": "soon"}),
        Reply(None, 302, {"location": "http://127.0.0.1:1/"}),
    ):
        with ScriptedServer(lambda _: reply) as node:
            with pytest.raises(UnexpectedAnswer, match="not answer like a Roster") as raised:
                client_of(node, timeout=0.05).register("pay", "a", HERE, takeover=True)
        assert raised.value.outcome is Outcome.UNKNOWN


def test_ids_and_keys_travel_as_they_are() -> None:
    owners = {"epoch": 42, "key": "k", "owners": []}
    with ScriptedServer(lambda _: Reply(owners)) as node:
        client_of(node).ring_owners("a/b c%应", b"\xff\x00+ &", replicas=2, epoch=42)
    [request] = node.requests
    assert request.path == "/v1/apps/a%2Fb%20c%25%E5%BA%94/ring/owners"
    assert "key=%FF%00%2B%20%26&" in request.target
    assert (request.one("replicas"), request.one("epoch")) == ("2", "42")


def test_what_cannot_be_sent_never_leaves_the_process() -> None:
    client = Client("127.0.0.1:1")
    for wrong in ("", ".", "..", "\ud800"):
        with pytest.raises(InvalidRequest):
            client.heartbeat("pay", wrong)
    with pytest.raises(InvalidRequest, match="letters"):
        client.watch(apps="pay")
    with pytest.raises(InvalidRequest, match="no duration"):
        client.open_session(ttl=float("inf"))
    with pytest.raises(InvalidRequest, match="as JSON"):
        client.put_shard_set("s", workers="w", apps=["*"], scaling={"min": float("nan")})


@pytest.mark.parametrize(
    "wrong",
    ["", " , ", "localhost", "https://a:1", "http://u@a:1", "a:b", ":7401", "a:1/v1", "a:99999"],
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidRequest):
        Client(wrong)


def test_addresses_come_with_and_without_a_scheme() -> None:
    client = Client("127.0.0.1:7401, http://b:7402/,[::1]:80")
    names: List[str] = [node.name for node in client._transport.nodes]
    assert names == ["127.0.0.1:7401", "b:7402", "[::1]:80"]


def test_owners_of_many_keys_come_in_the_order_of_the_keys() -> None:
    told = {"epoch": 42, "results": [{"owners": ["f1", "f7"]}, {"owners": []}]}
    with ScriptedServer(lambda _: Reply(told)) as node:
        many = client_of(node).ring_owners_of("fetchers", ["k1", "k2"], replicas=2)
    assert (many.epoch, many.owners) == (42, (("f1", "f7"), ()))
    assert node.requests[0].body == {"keys": ["k1", "k2"], "replicas": 2}


def test_a_worker_view_is_resumed_from_what_its_answer_shows() -> None:
    held = {"shard": "pay/a", "grant": 40, "release": True, "new": 1}
    view = {"epoch": 42, "worker": "w1", "shards": [held]}
    for headers, revision in (({"roster-revision": "99"}, 99), ({}, 42)):
        with ScriptedServer(lambda _: Reply(view, headers=headers)) as node:
            told = client_of(node).worker_view("set", "w/1", index=7, wait=0.25)
        assert (told.epoch, told.revision, told.worker) == (42, revision, "w1")
        assert told.shards == (Held("pay/a", 40, True),)
        assert node.requests[0].target == "/v1/shard-sets/set/workers/w%2F1?index=7&wait=250ms"


def test_a_long_poll_may_be_silent_for_as_long_as_it_was_asked_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: List[float] = []

    def no_ring(node: Node, call: Call, seconds: float) -> Answer:
        waits.append(call.wait)
        raise NotFound("no ring", code="no-ring")

    monkeypatch.setattr(Node, "ask", no_ring)
    polls: List[Dict[str, Any]] = [{}, {"index": 5}, {"index": 5, "wait": 7.0}]
    for asked in polls:
        with pytest.raises(NotFound):
            Client("a:1").ring("fetchers", **asked)
    assert waits == [0.0, 30.0, 7.0]


def test_a_list_is_read_to_its_last_page() -> None:
    def pages(request: Request) -> Reply:
        second = request.one("cursor") == "c1"
        return Reply(
            {"instances": [{"id": "b" if second else "a"}], "next_cursor": None if second else "c1"}
        )

    with ScriptedServer(pages) as node:
        listed = client_of(node).instances("pay", filter='zone == "a"')
    assert [instance["id"] for instance in listed] == ["a", "b"]
    assert all(request.one("filter") == 'zone == "a"' for request in node.requests)


def test_durations_are_read_and_written_as_the_api_does() -> None:
    texts = {"10s": 10.0, "500ms": 0.5, "1m 30s": 90.0, "1h2m3s4ms": 3723.004, "2days": 172800.0}
    for text, seconds in texts.items():
        assert parse_duration(text) == pytest.approx(seconds)
    for wrong in ("", "10", "s", "10 s x", "-1s", "1.5s", " "):
        with pytest.raises(ValueError):
            parse_duration(wrong)
    assert [format_duration(s) for s in (0, 90, 0.5, 1.25)] == ["0s", "90s", "500ms", "1250ms"]


def test_a_call_ends_with_its_time_though_not_every_node_was_asked() -> None:
    with ScriptedServer(never) as node:

        def hangs(request: Request) -> Drop:
            node.wait_over()
            return Drop()

        node.script = hangs
        client = Client([node.endpoint] * 40, timeout=0.6, share_min=0.2)
        with pytest.raises(Unavailable):
            client.session("3")
        assert len(node.requests) <= 4


@pytest.mark.parametrize("endpoint", ["a_b$%:1", "a b:1", "a%00:1"])
def test_an_endpoint_that_no_url_can_carry_is_refused_in_words(endpoint: str) -> None:
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        Client(endpoint)
