"""What the driver does beyond tooz's own suite, on a real cluster."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import pytest
import tooz
import urllib3
from tooz import coordination
from tooz.coordination import LeaderElected, MemberJoinedGroup, MemberLeftGroup

from roster_client import Call, Client, Compacted, Outcome, Unavailable, UnexpectedAnswer
from roster_openstack import tooz_driver
from roster_openstack.members import Groups
from roster_openstack.partition import RosterPartitioner
from roster_openstack.session import Session

from ..cluster import needs_cluster, wait_for
from .coordinators import Coordinators, Noted, Requests, coordinators, fresh, requests

__all__ = ["coordinators", "requests"]

pytestmark = needs_cluster


def watched(driver: Any, group: bytes) -> Noted:
    noted = Noted()
    driver.watch_join_group(group, noted)
    driver.watch_leave_group(group, noted)
    return noted


@pytest.fixture
def patiences(monkeypatch: pytest.MonkeyPatch) -> Dict[str, float]:
    """By the last part of a path: the seconds that a node got for the last request there."""
    given: Dict[str, float] = {}
    send = urllib3.HTTPConnectionPool.urlopen

    def noted(pool: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        given[url.partition("?")[0].rpartition("/")[2]] = named["timeout"].read_timeout
        return send(pool, method, url, *arguments, **named)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", noted)
    return given


def broken() -> Unavailable:
    return Unavailable("the line broke", outcome=Outcome.UNKNOWN, retryable=True)


# Requests


@pytest.mark.parametrize("groups", [1, 20, 700])
def test_a_quiet_run_of_the_watchers_is_one_request_whatever_the_number_of_groups(
    coordinators: Coordinators, requests: Requests, groups: int
) -> None:
    driver = coordinators()
    names = [fresh("group-of-a-name-that-is-rather-long") for _ in range(groups)]
    for name in names:
        driver.create_group(name).get()
        watched(driver, name)
    driver.watch_elected_as_leader(names[0], Noted())
    driver.run_watchers()
    # Its own candidacy is news once.
    driver.run_watchers()
    requests.clear()
    assert driver.run_watchers() == []
    assert [(method, target.partition("?")[0]) for method, target in requests] == [
        ("GET", "/v1/changes")
    ]
    # And it still sees what there is to see.
    other = coordinators()
    other.join_group(names[-1]).get()
    assert len(driver.run_watchers()) == 1


def test_nothing_is_asked_where_nothing_is_watched(
    coordinators: Coordinators, requests: Requests
) -> None:
    driver = coordinators()
    requests.clear()
    assert driver.run_watchers() == []
    assert requests == []


def test_a_free_lock_is_acquired_by_one_write(
    coordinators: Coordinators, requests: Requests
) -> None:
    lock = coordinators().get_lock(fresh("lock"))
    requests.clear()
    assert lock.acquire()
    assert [method for method, _ in requests] == ["POST"]


def test_one_who_joins_costs_who_watches_no_list(
    coordinators: Coordinators, requests: Requests
) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    noted = watched(driver, group)
    other.join_group(group).get()
    requests.clear()
    driver.run_watchers()
    assert noted.members(MemberJoinedGroup) == [other._member_id]
    assert not [target for _, target in requests if target.partition("?")[0].endswith("instances")]


# Watchers


def test_what_was_joined_and_left_between_two_runs_is_not_told(coordinators: Coordinators) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    noted = watched(driver, group)
    other.join_group(group).get()
    other.leave_group(group).get()
    assert driver.run_watchers() == []
    assert noted.events == []


def test_what_is_watched_later_hides_nothing_of_what_was_watched_before(
    coordinators: Coordinators,
) -> None:
    driver, other = coordinators(), coordinators()
    first, second = fresh("group"), fresh("group")
    driver.create_group(first).get()
    driver.create_group(second).get()
    noted = watched(driver, first)
    other.join_group(first).get()
    watched(driver, second)
    driver.watch_elected_as_leader(second, Noted())
    driver.run_elect_coordinator()
    driver.run_watchers()
    assert noted.members(MemberJoinedGroup) == [other._member_id]


def test_many_changes_at_once_are_told_joins_first(coordinators: Coordinators) -> None:
    driver, group = coordinators(), fresh("group")
    others = [coordinators() for _ in range(8)]
    driver.create_group(group).get()
    for other in others[:4]:
        other.join_group(group).get()
    noted = watched(driver, group)
    for other in others[:4]:
        other.leave_group(group).get()
    for other in others[4:]:
        other.join_group(group).get()
    driver.run_watchers()
    kinds = [type(event) for event in noted.events]
    assert kinds == [MemberJoinedGroup] * 4 + [MemberLeftGroup] * 4
    assert set(noted.members(MemberLeftGroup)) == {other._member_id for other in others[:4]}


def test_events_that_a_callback_did_not_take_are_told_again(coordinators: Coordinators) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    noted = Noted()
    refusing = [True]

    def callback(event: Any) -> Any:
        if refusing[0]:
            raise LookupError("not now")
        return noted(event)

    driver.watch_join_group(group, callback)
    other.join_group(group).get()
    for _ in range(2):
        with pytest.raises(LookupError):
            driver.run_watchers()
    driver.watch_elected_as_leader(group, callback)
    for _ in range(2):
        with pytest.raises(LookupError):
            driver.run_elect_coordinator()
    refusing[0] = False
    assert len(driver.run_watchers()) == 2
    assert noted.members(MemberJoinedGroup) == [other._member_id]
    assert noted.members(LeaderElected) == [driver._member_id]
    assert driver.run_watchers() == []


def test_after_changes_that_are_not_kept_any_more_the_groups_are_listed_again(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    noted = watched(driver, group)
    driver.watch_elected_as_leader(group, noted)
    driver.run_watchers()
    other.join_group(group).get()
    coordinators.client.break_election(driver.ids.group(group))
    send = Client.send

    def compacted(client: Client, call: Call) -> Any:
        if call.path == "/v1/changes":
            raise Compacted("too old", code="compacted", revision=1, restart_from=1)
        return send(client, call)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "send", compacted)
        driver.run_watchers()
    assert noted.members(MemberJoinedGroup) == [other._member_id]
    assert len(noted.members(LeaderElected)) == 2
    other.leave_group(group).get()
    driver.run_watchers()
    assert noted.members(MemberLeftGroup) == [other._member_id]


def test_threads_that_run_the_watchers_together_tell_each_event_once(
    coordinators: Coordinators,
) -> None:
    driver, group = coordinators(), fresh("group")
    partitioner = driver.join_partitioned_group(group)
    noted = watched(driver, group)
    over, failed = threading.Event(), []

    def run() -> None:
        try:
            while not over.is_set():
                driver.run_watchers()
                partitioner.belongs_to_self("anything")
        except Exception as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    others = [coordinators() for _ in range(5)]
    try:
        for other in others:
            other.join_group(group).get()
        wait_for(lambda: len(noted.events) >= 5 or failed, "five who joined")
        for other in others:
            other.stop()
        wait_for(lambda: len(noted.events) >= 10 or failed, "five who left")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed
    members = sorted(other._member_id for other in others)
    assert sorted(noted.members(MemberJoinedGroup)) == members
    assert sorted(noted.members(MemberLeftGroup)) == members


def test_a_run_with_a_time_limit_does_not_wait_longer_for_its_turn(
    coordinators: Coordinators,
) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    called, over = threading.Event(), threading.Event()
    was_over_in_time: List[bool] = []

    def callback(_: Any) -> None:
        called.set()
        was_over_in_time.append(over.wait(10))

    driver.watch_join_group(group, callback)
    other.join_group(group).get()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(driver.run_watchers)
        assert called.wait(30)
        try:
            with pytest.raises(coordination.OperationTimedOut):
                driver.run_watchers(timeout=0.05)
        finally:
            over.set()
        running.result()
    assert was_over_in_time == [True]


def test_the_elections_of_a_run_get_no_more_than_its_time_limit(
    coordinators: Coordinators, patiences: Dict[str, float]
) -> None:
    driver, group = coordinators(), fresh("group")
    driver.create_group(group).get()
    driver.watch_elected_as_leader(group, Noted())
    driver.run_watchers(timeout=1)
    assert patiences["campaign"] <= 1
    coordinators.client.break_election(driver.ids.group(group))
    driver.run_watchers(timeout=1)
    assert patiences[group.decode()] <= 1


def test_a_callback_may_end_the_watching_of_another_group(coordinators: Coordinators) -> None:
    driver, other = coordinators(), coordinators()
    first, second = sorted([fresh("group"), fresh("group")])
    noted = Noted()

    def callback(_: Any) -> None:
        driver.unwatch_join_group(second, noted)

    for group in (first, second):
        driver.create_group(group).get()
        other.join_group(group).get()
    driver.watch_leave_group(first, callback)
    driver.watch_join_group(second, noted)
    for group in (first, second):
        other.leave_group(group).get()
    driver.run_watchers()
    assert noted.events == [] and set(driver._group_members) == {first}


@pytest.mark.parametrize("deleted", [False, True])
def test_the_watchers_go_on_after_a_stop_and_a_start(
    coordinators: Coordinators, deleted: bool
) -> None:
    driver, before, later = coordinators(), coordinators(), coordinators()
    group = fresh("group")
    before.join_group_create(group)
    noted = watched(driver, group)
    driver.stop()
    before.leave_group(group).get()
    if deleted:
        before.delete_group(group).get()
    driver.start()
    driver.run_watchers()
    assert noted.members(MemberLeftGroup) == [before._member_id]
    later.join_group_create(group)
    driver.run_watchers()
    assert noted.members(MemberJoinedGroup) == [later._member_id]


# Partitioners


def test_who_joins_while_a_partitioner_is_made_is_in_its_ring_and_can_leave(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    watch = driver.watch_join_group

    def joined_just_before(group_id: Any, callback: Any) -> None:
        other.join_group(group, {"weight": 2}).get()
        watch(group_id, callback)

    monkeypatch.setattr(driver, "watch_join_group", joined_just_before)
    partitioner = driver.join_partitioned_group(group)
    driver.run_watchers()
    assert partitioner.ring.nodes == {driver._member_id: 1, other._member_id: 2}
    other.stop()
    driver.run_watchers()
    assert set(partitioner.ring.nodes) == {driver._member_id}


def test_a_second_partitioner_of_a_watched_group_agrees_with_the_first(
    coordinators: Coordinators,
) -> None:
    driver, other, group = coordinators(), coordinators(), fresh("group")
    first = driver.join_partitioned_group(group)
    other.join_group(group).get()
    driver.get_members(group).get()
    second = RosterPartitioner(driver, group)
    driver.run_watchers()
    members = {driver._member_id, other._member_id}
    assert set(first.ring.nodes) == set(second.ring.nodes) == members
    other.stop()
    driver.run_watchers()
    assert set(first.ring.nodes) == set(second.ring.nodes) == {driver._member_id}
    driver.leave_partitioned_group(first)
    second.stop()
    assert not driver._group_members


# A session that was lost


def test_a_coordinator_whose_session_was_lost_joins_its_groups_again(
    coordinators: Coordinators,
) -> None:
    driver, watcher = coordinators(), coordinators()
    groups = [fresh("group") for _ in range(3)]
    for number, group in enumerate(groups):
        driver.join_group_create(group, {"number": number})
    driver.update_capabilities(groups[0], {"number": 7}).get()
    driver.leave_group(groups[2]).get()
    coordinators.lose_session(driver)
    assert watcher.get_members(groups[0]).get() == set()
    assert driver.heartbeat() > 0
    told = [watcher.get_members_with_capabilities(group).get() for group in groups]
    member = driver._member_id
    assert told == [{member: {"number": 7}}, {member: {"number": 1}}, {}]


def test_the_watchers_join_again_before_they_tell_that_oneself_is_gone(
    coordinators: Coordinators,
) -> None:
    driver, group = coordinators(), fresh("group")
    partitioner = driver.join_partitioned_group(group)
    noted = watched(driver, group)
    coordinators.lose_session(driver)
    driver.run_watchers()
    assert noted.events == []
    assert partitioner.belongs_to_self("anything")
    assert driver.get_members(group).get() == {driver._member_id}


def test_who_was_taken_out_of_a_group_does_not_join_it_again(coordinators: Coordinators) -> None:
    driver, group = coordinators(), fresh("group")
    driver.join_group_create(group)
    noted = watched(driver, group)
    coordinators(driver._member_id).leave_group(group).get()
    driver.run_watchers()
    assert noted.members(MemberLeftGroup) == [driver._member_id]
    coordinators.lose_session(driver)
    driver.heartbeat()
    assert driver.get_members(group).get() == set()


def test_new_capabilities_are_joined_with_where_the_session_was_lost(
    coordinators: Coordinators,
) -> None:
    driver, group = coordinators(), fresh("group")
    driver.join_group_create(group, {"version": 1})
    coordinators.lose_session(driver)
    driver.update_capabilities(group, {"version": 2}).get()
    told = driver.get_member_capabilities(group, driver._member_id).get()
    assert told == {"version": 2}


def test_who_joins_again_after_the_session_was_lost_has_the_new_capabilities(
    coordinators: Coordinators,
) -> None:
    driver, group = coordinators(), fresh("group")
    driver.join_group_create(group, {"version": 1})
    coordinators.lose_session(driver)
    driver.join_group(group, {"version": 2}).get()
    coordinators.lose_session(driver)
    driver.heartbeat()
    told = driver.get_member_capabilities(group, driver._member_id).get()
    assert told == {"version": 2}
    with pytest.raises(coordination.MemberAlreadyExist):
        driver.join_group(group).get()


def test_who_leaves_after_the_session_was_lost_has_left(coordinators: Coordinators) -> None:
    driver, other = coordinators(), coordinators()
    left, deleted, kept = (fresh("group") for _ in range(3))
    for group in (left, deleted, kept):
        driver.join_group_create(group)
    coordinators.lose_session(driver)
    other.delete_group(deleted).get()
    driver.leave_group(left).get()
    assert driver.get_members(left).get() == set()
    assert driver.get_members(kept).get() == {driver._member_id}
    coordinators.lose_session(driver)
    driver.leave_group(deleted).get()
    for group in (left, deleted):
        with pytest.raises((coordination.MemberNotJoined, coordination.GroupNotCreated)):
            driver.leave_group(group).get()


def test_a_group_that_was_deleted_meanwhile_is_created_again_if_joining_it_created_it(
    coordinators: Coordinators,
) -> None:
    driver, other = coordinators(), coordinators()
    created, partitioned, joined = groups = [fresh("group") for _ in range(3)]
    other.create_group(joined).get()
    driver.join_group(joined).get()
    driver.join_group_create(created, {"number": 1})
    driver.join_partitioned_group(partitioned, weight=3)
    coordinators.lose_session(driver)
    for group in groups:
        other.delete_group(group).get()
    driver.heartbeat()
    member = driver._member_id
    told = [other.get_member_capabilities(g, member).get() for g in (created, partitioned)]
    assert told == [{"number": 1}, {"weight": 3}]
    with pytest.raises(coordination.GroupNotCreated):
        other.get_members(joined).get()
    driver.heartbeat()


def test_a_group_that_cannot_be_joined_again_holds_nothing_else_up(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, other = coordinators(), coordinators()
    failing, fine = sorted([fresh("group"), fresh("group")])
    for group in (failing, fine):
        driver.join_group_create(group)
    coordinators.lose_session(driver)
    join = Groups.join

    def refused(groups: Groups, group: bytes, *arguments: Any) -> None:
        if group == failing:
            raise UnexpectedAnswer("no")
        join(groups, group, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Groups, "join", refused)
        with pytest.raises(tooz.ToozError):
            driver.heartbeat()
        assert other.get_members(fine).get() == {driver._member_id}
        # It does not keep locks either that were won without an answer.
        lock, session = driver.get_lock(fresh("lock")), driver.session()
        driver.client.acquire_lock(lock._latch, session.id, owner="unheard")
        driver.abandon(lock._latch, session, "unheard")
        with pytest.raises(tooz.ToozError):
            driver.heartbeat()
        assert lock.acquire(blocking=False)
    assert other.get_members(failing).get() == set()
    driver.heartbeat()
    assert other.get_members(failing).get() == {driver._member_id}


def test_every_node_can_be_asked_for_a_heartbeat_before_the_session_ends(
    coordinators: Coordinators, patiences: Dict[str, float]
) -> None:
    driver = coordinators(timeout=2)
    driver.heartbeat()
    assert len(driver._settings.endpoints) * patiences["heartbeat"] <= 2


def test_an_election_is_stood_for_again_after_the_session_was_lost(
    coordinators: Coordinators,
) -> None:
    driver, group = coordinators(), fresh("group")
    driver.create_group(group).get()
    noted = Noted()
    driver.watch_elected_as_leader(group, noted)
    driver.run_watchers()
    driver.run_watchers()
    assert len(noted.events) == 1
    coordinators.lose_session(driver)
    assert driver.get_leader(group).get() is None
    driver.run_watchers()
    assert len(noted.events) == 2
    assert driver.get_leader(group).get() == driver._member_id


# Elections


def test_candidates_lead_in_the_order_in_which_they_stood(coordinators: Coordinators) -> None:
    first, second, third = (coordinators() for _ in range(3))
    group, noted = fresh("group"), Noted()
    first.create_group(group).get()
    for driver in (first, second, third):
        driver.watch_elected_as_leader(group, noted)
        driver.run_watchers()
    assert not second.stand_down_group_leader(group)
    second.unwatch_elected_as_leader(group, noted)
    assert first.stand_down_group_leader(group)
    assert not first.stand_down_group_leader(group)
    assert third.get_leader(group).get() == third._member_id
    for driver in (third, first, third, first):
        driver.run_elect_coordinator()
    assert noted.members(LeaderElected) == [first._member_id, third._member_id]
    third.stop()
    first.run_watchers()
    assert noted.members(LeaderElected)[2:] == [first._member_id]


def test_who_may_still_lead_after_standing_down_failed_is_not_told_again(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, group, noted = coordinators(), fresh("group"), Noted()
    driver.create_group(group).get()
    driver.watch_elected_as_leader(group, noted)
    driver.run_watchers()
    with monkeypatch.context() as patched:
        patched.setattr(Client, "resign", failing)
        with pytest.raises(tooz.ToozError):
            driver.stand_down_group_leader(group)
    driver.run_watchers()
    driver.run_watchers()
    assert len(noted.events) == 1
    assert driver.stand_down_group_leader(group)


def failing(*_: Any, **__: Any) -> None:
    raise broken()


def test_an_unwatch_that_failed_can_be_called_again_and_ends_the_candidacy(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, driver, group, noted = coordinators(), coordinators(), fresh("group"), Noted()
    leader.create_group(group).get()
    for one in (leader, driver):
        one.watch_elected_as_leader(group, noted)
        one.run_watchers()
    with monkeypatch.context() as patched:
        patched.setattr(Client, "resign", failing)
        with pytest.raises(tooz.ToozError):
            driver.unwatch_elected_as_leader(group, noted)
    driver.unwatch_elected_as_leader(group, noted)
    assert coordinators.client.get_election(driver.ids.group(group)).waiting == 0
    with pytest.raises(coordination.WatchCallbackNotFound):
        driver.unwatch_elected_as_leader(group, noted)


def test_an_election_that_a_callback_unwatches_is_not_stood_for_any_more(
    coordinators: Coordinators,
) -> None:
    driver, noted = coordinators(), Noted()
    first, second = sorted([fresh("group"), fresh("group")])

    def callback(_: Any) -> None:
        driver.unwatch_elected_as_leader(second, noted)

    for group in (first, second):
        driver.create_group(group).get()
    driver.watch_elected_as_leader(first, callback)
    driver.watch_elected_as_leader(second, noted)
    driver.run_watchers()
    assert noted.events == [] and driver.get_leader(second).get() is None


def test_an_election_of_a_missing_group_is_refused(coordinators: Coordinators) -> None:
    driver, group = coordinators(), fresh("group")
    with pytest.raises(coordination.GroupNotCreated):
        driver.watch_elected_as_leader(group, Noted())
    assert not driver._hooks_elected_leader


# Ids


@pytest.mark.parametrize("id", [b"\xff\x00/", b"a/b %", b".", b"b64:x", "größer".encode()])
def test_ids_may_be_any_bytes(coordinators: Coordinators, id: bytes) -> None:
    group = id + fresh("g") if id != b"." else id
    member = id
    driver = coordinators(member, namespace=fresh("ns").decode())
    driver.create_group(group).get()
    with pytest.raises(coordination.GroupAlreadyExist):
        driver.create_group(group).get()
    noted = watched(driver, group)
    driver.watch_elected_as_leader(group, noted)
    driver.join_group(group, {"data": b"\xff\x00"}).get()
    with pytest.raises(coordination.MemberAlreadyExist):
        driver.join_group(group).get()
    driver.run_watchers()
    assert driver.get_groups().get() == [group]
    assert driver.get_members(group).get() == {member} == set(noted.members(MemberJoinedGroup))
    assert driver.get_leader(group).get() == member
    assert driver.get_member_capabilities(group, member).get() == {"data": b"\xff\x00"}
    with pytest.raises(coordination.GroupNotEmpty):
        driver.delete_group(group).get()
    with driver.get_lock(id):
        assert not driver.get_lock(id).acquire(blocking=False)
    driver.leave_group(group).get()
    with pytest.raises(coordination.MemberNotJoined):
        driver.leave_group(group).get()
    driver.delete_group(group).get()
    with pytest.raises(coordination.GroupNotCreated):
        driver.get_members(group).get()


def test_namespaces_keep_groups_and_locks_apart(coordinators: Coordinators) -> None:
    one, two = (coordinators(namespace=f"{fresh('ns').decode()}/") for _ in range(2))
    group = fresh("group")
    one.create_group(group).get()
    two.create_group(group).get()
    assert one.get_groups().get() == two.get_groups().get() == [group]
    assert one.get_lock(group).acquire(blocking=False)
    assert two.get_lock(group).acquire(blocking=False)


def test_a_stopped_coordinator_says_so_and_can_be_started_again(coordinators: Coordinators) -> None:
    driver, group = coordinators(), fresh("group")
    driver.join_group_create(group)
    lock = driver.get_lock(fresh("lock"))
    assert lock.acquire()
    driver.stop()
    for act in (driver.run_watchers, driver.get_groups, lock.acquire, driver.heartbeat):
        if act != driver.heartbeat:
            with pytest.raises(tooz.ToozError, match="not started"):
                act()
    assert not lock.acquired
    driver.start()
    assert driver.get_members(group).get() == set()
    assert lock.acquire(blocking=False)


def test_what_was_asked_for_before_a_stop_does_not_hold_it_up(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = coordinators()
    asked: List[int] = []
    first, stopping = threading.Event(), threading.Event()

    def names(_: Groups) -> List[bytes]:
        asked.append(1)
        first.set()
        stopping.wait(30)
        return []

    monkeypatch.setattr(Groups, "names", names)
    results = [driver.get_groups() for _ in range(4)]
    assert first.wait(30)
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(driver.stop)
        wait_for(lambda: driver._presence and driver._presence.is_over, "the stop")
        stopping.set()
        stopped.result()
    assert results[0].get() == []
    for result in results[1:]:
        with pytest.raises(tooz.ToozError, match="not started"):
            result.get()
    assert len(asked) == 1


def test_a_stop_does_not_wait_for_a_heart_that_hangs_and_a_start_gives_another_one(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = coordinators()
    hanging, over, ended = threading.Event(), threading.Event(), threading.Event()

    def renew(_: Session) -> None:
        hanging.set()
        over.wait(30)
        ended.set()

    with monkeypatch.context() as patched:
        patched.setattr(Session, "renew", renew)
        patched.setattr(tooz_driver, "CALL_SECONDS", 0.1)
        driver.heart.start()
        assert hanging.wait(30)
        driver.stop()
        assert not ended.is_set()
    driver.start(start_heart=True)
    over.set()
    wait_for(lambda: driver.heart.beats >= 1, "a beat")
