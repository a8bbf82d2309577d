"""What becomes of coordinators when harm is done to the cluster. Each test has one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import pytest
import tooz
from tooz import coordination

from ..cluster import Cluster, cluster, needs_binary, wait_for
from .coordinators import Coordinators, Noted, fresh

pytestmark = needs_binary


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
        lambda: coordinators().start(),
    ]
    for act in acts:
        with pytest.raises(errors):
            act()
    assert isinstance(errors[0]("no"), tooz.ToozError)
    # And a stop does not hang on what cannot be told.
    driver.stop()


def test_a_node_that_hangs_is_left_for_the_next_one(
    nodes: Cluster, coordinators: Coordinators
) -> None:
    import signal

    driver, other, group = coordinators(), coordinators(), fresh("group")
    driver.create_group(group).get()
    driver.watch_join_group(group, noted := Noted())
    nodes.signal("1", signal.SIGSTOP)

    def joined() -> bool:
        try:
            other.join_group(group).get()
        except coordination.MemberAlreadyExist:
            return True
        except tooz.ToozError:
            return False
        return True

    wait_for(joined, "the joining")

    def told() -> bool:
        try:
            driver.run_watchers()
        except tooz.ToozError:
            pass
        return bool(noted.events)

    wait_for(told, "the event")
