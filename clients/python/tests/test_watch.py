"""A watch gives each change once, in order, whatever connections break."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, List, Optional, Tuple

import pytest

from roster_client import Client, Compacted, Event, InvalidRequest, Unavailable
from roster_client.watch import NotKept, OutOfOrder, Revisions, StreamEnded

from .scripted_server import Request, ScriptedServer, Stream, closed_endpoint, never, problem

Line = Dict[str, Any]


def put(revision: int, id: str, more: bool = False) -> Line:
    event: Line = {"event": "put", "kind": "instance", "revision": revision, "app": "pay", "id": id}
    return {**event, "more": True} if more else event


def mark(event: str, revision: int, **more: Any) -> Line:
    return {"event": event, "revision": revision, **more}


def seen(events: List[Event]) -> List[Tuple[str, int, str]]:
    return [(event.event, event.revision, event.id) for event in events]


def changes(events: List[Event]) -> List[Tuple[int, str]]:
    return [(e.revision, e.id) for e in events if e.event in ("put", "delete") and not e.listed]


def take(client: Client, count: int, **asked: Any) -> List[Event]:
    watch = client.watch(**asked)
    events = [next(watch) for _ in range(count)]
    watch.close()
    return events


def held_open(node: ScriptedServer, *lines: Line) -> Stream:
    return Stream([*lines, node.wait_over])


SNAPSHOT = [mark("snapshot-begin", 4), put(2, "a"), mark("snapshot-end", 4)]


def test_a_broken_stream_is_resumed_on_the_next_node_without_loss_or_repetition() -> None:
    with ScriptedServer(never) as first, ScriptedServer(never) as second:
        first.script = lambda _: Stream([*SNAPSHOT, put(5, "b"), put(6, "c", True)], breaks=True)
        second.script = lambda _: held_open(
            second, put(6, "c", True), put(6, "d"), mark("bookmark", 8)
        )
        client = Client(f"{first.endpoint},{second.endpoint}")
        events = take(client, 7, apps=["pay"], kinds=["instance", "shard"])
    assert seen(events) == [
        ("snapshot-begin", 4, ""),
        ("put", 2, "a"),
        ("snapshot-end", 4, ""),
        ("put", 5, "b"),
        ("put", 6, "c"),
        ("put", 6, "d"),
        ("bookmark", 8, ""),
    ]
    assert [(event.listed, event.more) for event in events[1:6]] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    [begun], [resumed] = first.requests, second.requests
    assert begun.headers["accept"] == "application/x-ndjson"
    assert (begun.query["app"], begun.one("kind")) == (["pay"], "instance,shard")
    assert (begun.one("from"), resumed.one("from")) == (None, "5")


def test_a_node_that_stops_or_finds_its_reader_slow_says_from_where_to_resume() -> None:
    for word in ("bye", "lagging"):
        with ScriptedServer(never) as first, ScriptedServer(never) as second:
            first.script = lambda _: Stream([put(5, "b"), mark(word, 9)])
            second.script = lambda _: held_open(second, put(10, "c"))
            client = Client([first.endpoint, second.endpoint])
            events = take(client, 2, from_revision=4)
        assert changes(events) == [(5, "b"), (10, "c")]
        assert second.requests[0].one("from") == "9"


def test_what_one_node_does_not_keep_another_one_may() -> None:
    gone = problem(410, "compacted", restart_from=7)
    with ScriptedServer(lambda _: gone) as first, ScriptedServer(never) as second:
        second.script = lambda _: held_open(second, put(5, "b"))
        events = take(Client([first.endpoint, second.endpoint]), 1, from_revision=4)
    assert changes(events) == [(5, "b")]


def test_what_no_node_keeps_ends_the_watch_or_begins_it_again_as_asked() -> None:
    with ScriptedServer(never) as node:

        def script(request: Request) -> Any:
            if request.one("from") is None:
                return held_open(node, *SNAPSHOT)
            return Stream([mark("compacted", 4, restart_from=7)])

        node.script = script
        client = Client([node.endpoint, node.endpoint])
        with pytest.raises(Compacted) as raised:
            take(client, 1, from_revision=3, restart=False)
        assert raised.value.restart_from == 7
        events = take(client, 4, from_revision=3)
    assert seen(events)[:2] == [("compacted", 7, ""), ("snapshot-begin", 4, "")]


def test_what_makes_no_sense_to_repeat_is_raised_at_once_and_ends_the_watch() -> None:
    with ScriptedServer(lambda _: problem(400, "invalid-kind")) as node:
        watch = Client(node.endpoint).watch(kinds=["nonsense"])
        with pytest.raises(InvalidRequest, match="invalid-kind"):
            next(watch)
        assert list(watch) == []
    assert len(node.requests) == 1


def test_a_watch_that_cannot_begin_says_why_and_one_that_has_begun_goes_on() -> None:
    with pytest.raises(Unavailable):
        next(Client(closed_endpoint(), timeout=0.3).watch())
    with ScriptedServer(never) as node:
        tries: List[int] = []

        def script(request: Request) -> Any:
            tries.append(1)
            if len(tries) == 1:
                return Stream([put(5, "b")], breaks=True)
            if len(tries) < 4:
                return problem(503, "no-leader")
            return held_open(node, put(6, "c"))

        node.script = script
        events = take(Client(node.endpoint, timeout=0.01), 2, from_revision=4)
    assert changes(events) == [(5, "b"), (6, "c")]


def test_the_position_is_that_of_the_last_complete_revision_given_out() -> None:
    with ScriptedServer(never) as node:
        node.script = lambda _: held_open(node, *SNAPSHOT, put(5, "b", True), put(5, "c"))
        watch = Client(node.endpoint).watch()
        positions: List[Optional[int]] = []
        for _ in range(5):
            next(watch)
            positions.append(watch.position)
        watch.close()
    assert positions == [None, None, 4, 4, 5]


def test_closing_ends_the_iteration_of_another_thread() -> None:
    with ScriptedServer(never) as node:
        node.script = lambda _: held_open(node, put(5, "b"))
        watch = Client(node.endpoint).watch(from_revision=4)
        first, events = threading.Event(), []

        def read() -> None:
            for event in watch:
                events.append(event)
                first.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert first.wait(20)
        watch.close()
        reader.join(20)
        assert not reader.is_alive()
    assert changes(events) == [(5, "b")]


STORY: List[Line] = [
    put(5, "a"),
    put(6, "a", True),
    put(6, "b", True),
    put(6, "c"),
    mark("bookmark", 8),
    put(9, "a", True),
    put(9, "b"),
    {"event": "news", "revision": 10},
    put(11, "a"),
]


def rest_after(position: int) -> List[Line]:
    return [line for line in STORY if line["revision"] > position]


@pytest.mark.parametrize("end", ["break", "bye"])
def test_wherever_a_stream_ends_nothing_is_lost_doubled_or_seen_in_half(end: str) -> None:
    whole = [(line["revision"], line["id"]) for line in STORY if line["event"] == "put"]
    for cut in range(len(STORY) + 1):
        revisions = Revisions(4)
        events: List[Event] = []
        for line in STORY[:cut]:
            events += revisions.take(json.dumps(line).encode())
        if end == "bye":
            complete = [4] + [line["revision"] for line in STORY[:cut] if not line.get("more")]
            with pytest.raises(StreamEnded):
                revisions.take(json.dumps(mark("bye", complete[-1])).encode())
        revisions.broken()
        assert not events or not events[-1].more, "a revision in half"
        assert revisions.position is not None
        for line in rest_after(revisions.position):
            events += revisions.take(json.dumps(line).encode())
        assert changes(events) == whole, f"cut after {cut} lines"


def test_what_was_given_out_already_is_passed_over() -> None:
    revisions = Revisions(5)
    for old in (put(4, "a"), put(5, "b"), mark("bookmark", 3)):
        assert revisions.take(json.dumps(old).encode()) == []
    assert revisions.position == 5


def test_a_stream_that_is_out_of_order_is_not_believed() -> None:
    wrong: List[Tuple[Optional[int], List[Any]]] = [
        (None, [put(5, "a")]),
        (None, [mark("bookmark", 5)]),
        (4, [put(6, "a", True), put(5, "b")]),
        (4, [mark("snapshot-end", 5)]),
        (4, [{"event": "put"}]),
        (4, [[]]),
    ]
    for position, lines in wrong:
        revisions = Revisions(position)
        with pytest.raises(OutOfOrder):
            for line in lines:
                revisions.take(json.dumps(line).encode())
    with pytest.raises(OutOfOrder, match="no JSON"):
        Revisions(4).take(b"<html>")


def test_an_end_in_the_middle_of_a_revision_does_not_lead_past_its_rest() -> None:
    revisions = Revisions(5)
    revisions.take(json.dumps(put(6, "a", True)).encode())
    with pytest.raises(StreamEnded):
        revisions.take(json.dumps(mark("bye", 6)).encode())
    assert revisions.position == 5
    revisions.take(json.dumps(mark("snapshot-begin", 9)).encode())
    with pytest.raises(StreamEnded):
        revisions.take(json.dumps(mark("lagging", 9)).encode())
    assert revisions.position is None


def test_a_snapshot_that_breaks_begins_anew() -> None:
    revisions = Revisions(None)
    for line in SNAPSHOT[:2]:
        revisions.take(json.dumps(line).encode())
    revisions.broken()
    assert revisions.position is None
    with pytest.raises(NotKept):
        revisions.take(json.dumps(mark("compacted", 9, restart_from=9)).encode())
