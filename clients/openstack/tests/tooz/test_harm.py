"""What becomes of coordinators when harm is done to the cluster. Each test has one of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from tooz import coordination

from ..cluster import Cluster, call, cluster, needs_binary, wait_for
from .coordinators import Coordinators, Noted, fresh

pytestmark = needs_binary

# What ends within seconds may take so long on a busy machine; what hangs takes longer.
GUARD_SECONDS = 30.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as nodes:
        yield nodes


@pytest.fixture
def coordinators(nodes: Cluster) -> Iterator[Coordinators]:
    made = Coordinators(nodes.endpoint)
    try:
        yield made
    finally:
        made.stop()


def test_two_processes_never_hold_one_lock_though_the_leader_is_killed(
    nodes: Cluster, tmp_path: Path
) -> None:
    file, times = tmp_path / "fenced", 60
    file.write_text("")
    command = [sys.executable, str(Path(__file__).parent / "fencing.py"), nodes.endpoint, "lock"]
    processes = [
        subprocess.Popen([*command, str(file), str(times)], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        wait_for(lambda: len(written(file)) > times // 2, "half of one's work")
        nodes.kill(nodes.leader())
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    tokens = written(file)
    assert len(tokens) == 2 * times
    assert tokens == sorted(set(tokens)), "a lower token after a higher one"


def written(file: Path) -> List[int]:
    return [int(line) for line in file.read_text().rpartition("\n")[0].splitlines()]


def test_without_a_quorum_every_call_ends_with_an_error_of_tooz(
    nodes: Cluster, coordinators: Coordinators
) -> None:
    driver, group = coordinators(), fresh("group")
    driver.join_group_create(group)
    driver.watch_join_group(group, Noted())
    lock, held = driver.get_lock(fresh("lock")), driver.get_lock(fresh("held"))
    assert held.acquire()
    leader = nodes.leader()
    for node in [leader, *(node for node in nodes.nodes() if node != leader)][:2]:
        nodes.kill(node)
    errors = (coordination.ToozConnectionError, coordination.OperationTimedOut)
    acts: List[Any] = [
        lambda: driver.get_members(group).get(),
        lambda: driver.create_group(fresh("group")).get(),
        lambda: driver.leave_group(group).get(),
        lambda: driver.get_leader(group).get(),
        driver.run_watchers,
        driver.heartbeat,
        lock.acquire,
        held.release,
        held.is_still_owner,
        coordinators,
    ]
    for act in acts:
        with pytest.raises(errors):
            act()
    # And a stop does not hang on what cannot be told.
    driver.stop()


def test_a_wait_for_a_lock_ends_with_an_error_of_tooz_when_the_majority_is_lost(
    nodes: Cluster, coordinators: Coordinators
) -> None:
    name = fresh("lock")
    held, wanted = coordinators().get_lock(name), coordinators().get_lock(name)
    assert held.acquire()
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(wanted.acquire)
        wait_for(lambda: waiting(coordinators, held) == 1, "one who waits")
        # The one that is left is the one that the request waits at.
        nodes.kill("2")
        nodes.kill("3")
        with pytest.raises((coordination.ToozConnectionError, coordination.OperationTimedOut)):
            acquired.result(timeout=GUARD_SECONDS)
    assert not wanted.acquired


def test_who_waits_at_a_node_that_hangs_gets_the_lock_and_keeps_it_when_the_node_is_back(
    nodes: Cluster,
) -> None:
    hanging = a_follower(nodes)
    coordinators = Coordinators(endpoint_from(nodes, hanging))
    name = fresh("lock")
    held, wanted = coordinators().get_lock(name), coordinators().get_lock(name)
    try:
        assert held.acquire()
        with ThreadPoolExecutor(1) as pool:
            acquired = pool.submit(wanted.acquire)
            wait_for(lambda: waiting(coordinators, held) == 1, "one who waits")
            nodes.signal(hanging, signal.SIGSTOP)
            assert held.release()
            assert acquired.result(timeout=GUARD_SECONDS) is True
        assert wanted.is_still_owner()
        nodes.signal(hanging, signal.SIGCONT)
        # Its request has gone by now: that node gives nothing back.
        wait_for(lambda: answers(nodes, hanging), "the node that is back")
        assert wanted.is_still_owner()
        assert wanted.release()
    finally:
        coordinators.stop()


def waiting(coordinators: Coordinators, lock: Any) -> int:
    return coordinators.client.get_lock(lock._latch).waiting


def endpoint_from(nodes: Cluster, first: str) -> str:
    """The addresses of all nodes; calls go to the first one as long as it answers."""
    addresses = nodes.endpoint.split(",")
    place = nodes.nodes().index(first)
    return ",".join(addresses[place:] + addresses[:place])


def answers(nodes: Cluster, node: str) -> bool:
    """Whether a node serves reads that a majority confirms."""
    try:
        call(endpoint_from(nodes, node), "GET", "/v1/locks")
    except OSError:
        return False
    return True


def a_follower(nodes: Cluster) -> str:
    leader = nodes.leader()
    return next(node for node in nodes.nodes() if node != leader)


def test_a_node_that_hangs_is_left_for_the_next_one(nodes: Cluster) -> None:
    hanging = a_follower(nodes)
    coordinators = Coordinators(endpoint_from(nodes, hanging))
    try:
        driver, other, group = coordinators(), coordinators(), fresh("group")
        driver.create_group(group).get()
        driver.watch_join_group(group, noted := Noted())
        nodes.signal(hanging, signal.SIGSTOP)
        # No call fails that can be asked again elsewhere, though each is on its way to that node.
        assert driver.run_watchers() == []
        assert other.get_members(group).get() == set()
        other.join_group(group).get()
        driver.run_watchers()
        assert noted.members(coordination.MemberJoinedGroup) == [other._member_id]
    finally:
        nodes.signal(hanging, signal.SIGCONT)
        coordinators.stop()
