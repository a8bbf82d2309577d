"""What a copy of a group says, told event by event, with times as arguments."""

from __future__ import annotations

from typing import Any, List

import pytest
from roster_client import Event

from roster_openstack.servicegroup.local_copy import LocalCopy, host_of
from roster_openstack.times import time_of


def put(revision: int, id: str, host: str = "", **more: Any) -> Event:
    metadata = {"host": host} if host else {}
    return Event("put", revision, "instance", id=id, value={"metadata": metadata}, **more)


def delete(revision: int, id: str, **more: Any) -> Event:
    return Event("delete", revision, "instance", id=id, **more)


def snapshot(revision: int, *listed: Event) -> List[Event]:
    return [Event("snapshot-begin", revision), *listed, Event("snapshot-end", revision)]


def copy_of(*events: Event) -> LocalCopy:
    copy = LocalCopy()
    for event in [*snapshot(1), *events]:
        copy.take(event)
    return copy


def test_a_host_is_up_while_any_of_its_processes_is() -> None:
    copy = copy_of(put(2, "a/1", "a"), put(3, "a/2", "a"), put(4, "b/1", "b"))
    assert copy.hosts() == ["a", "b"]
    copy.take(delete(5, "a/1"))
    assert copy.is_up("a")
    copy.take(delete(6, "a/2"))
    assert copy.hosts() == ["b"]


def test_what_is_put_twice_is_one_process() -> None:
    copy = copy_of(put(2, "a/1", "a"), put(3, "a/1", "a"), delete(4, "a/1"))
    assert copy.hosts() == []


def test_the_end_of_what_is_not_known_is_no_harm() -> None:
    assert copy_of(delete(2, "a/1")).hosts() == []


def test_a_takeover_never_shows_the_host_down() -> None:
    copy = copy_of(put(2, "a/1", "a"))
    copy.take(delete(3, "a/1", reason="replaced", more=True))
    assert copy.is_up("a") and copy.position == 2
    copy.take(put(3, "a/1", "a"))
    assert copy.is_up("a") and copy.position == 3


def test_what_is_known_is_told_until_a_new_snapshot_is_complete() -> None:
    copy = copy_of(put(2, "a/1", "a"), put(3, "b/1", "b"))
    first, listed, last = snapshot(9, put(7, "c/1", "c", listed=True))
    copy.take(first)
    copy.take(listed)
    assert copy.hosts() == ["a", "b"] and copy.position is None
    copy.take(last)
    assert copy.hosts() == ["c"] and copy.position == 9


def test_half_a_revision_is_forgotten_with_its_stream() -> None:
    copy = copy_of(put(2, "a/1", "a"), delete(3, "a/1", more=True))
    for event in snapshot(4, put(2, "a/1", "a", listed=True)):
        copy.take(event)
    copy.take(put(5, "b/1", "b"))
    assert copy.hosts() == ["a", "b"]


@pytest.mark.parametrize(
    "id, value, host",
    [
        ("a/12", {"metadata": {"host": "a"}}, "a"),
        ("rack/a/12", {"metadata": {"host": "rack/a"}}, "rack/a"),
        ("rack/a/12/0a1b2c3d", {"metadata": {"host": "rack/a"}}, "rack/a"),
        # Of somebody else's registration.
        ("rack/a/12", {"metadata": {}}, "rack/a"),
        ("rack/a/12", {"metadata": {"host": 7}}, "rack/a"),
        ("rack/a/12", None, "rack/a"),
        ("a", None, "a"),
    ],
)
def test_an_instance_says_its_host_and_else_its_id_does(id: str, value: Any, host: str) -> None:
    assert host_of(id, value) == host


def test_a_copy_is_as_old_as_its_last_check() -> None:
    copy = copy_of(put(2, "a/1", "a"))
    # What a watch tells says nothing of how much it does not tell.
    copy.take(Event("bookmark", 9))
    assert copy.age(100.0) is None
    copy.same_at(100.0)
    assert (copy.age(100.0), copy.age(107.0), copy.age(99.0)) == (0.0, 7.0, 0.0)
    copy.same_at(105.0)
    copy.same_at(103.0)
    assert copy.age(107.0) == 2.0


def test_a_copy_that_is_behind_is_as_old_as_the_check_once_it_got_there() -> None:
    copy = copy_of(put(2, "a/1", "a"))
    copy.same_at(100.0)
    copy.behind(5, 110.0)
    copy.take(put(4, "b/1", "b"))
    assert copy.age(112.0) == 12.0
    copy.take(put(5, "c/1", "c", more=True))
    assert copy.age(112.0) == 12.0
    copy.take(put(5, "d/1", "d"))
    assert copy.age(112.0) == 2.0


def test_a_copy_that_got_there_first_is_as_old_as_the_check() -> None:
    copy = copy_of(put(7, "a/1", "a"))
    copy.behind(5, 110.0)
    assert copy.age(112.0) == 2.0


def test_a_bookmark_brings_a_copy_there_too() -> None:
    copy = copy_of()
    copy.behind(5, 110.0)
    copy.take(Event("bookmark", 6))
    assert copy.age(112.0) == 2.0


def test_times_of_the_api_are_read_with_their_zone() -> None:
    told = time_of("2026-11-22T07:53:36.902Z")
    assert told is not None and told.isoformat() == "2026-11-22T07:53:36.902000+00:00"
    assert time_of(None) is None and time_of("yesterday") is None
