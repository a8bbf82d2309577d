"""ceilometer's real polling manager, three agents: each resource is polled by exactly one of them in
each cycle, whatever happens to the agents or to the cluster."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Dict, Iterator, List, Sequence

import pytest

pytest.importorskip("ceilometer", reason="ceilometer is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "ceilometer"))

from agents import Agent, Agents, shares  # noqa: E402

from ..cluster import ENDPOINT, cluster, needs_binary, needs_cluster, wait_for  # noqa: E402

FOUND = [f"found-{number}" for number in range(20)]
STATIC = [f"static-{number}" for number in range(20)]

# Where a test waits for an agent to be taken for gone, and where none may be, however busy the machine.
TIMEOUT_SECONDS = 5
LONG_TIMEOUT_SECONDS = 30

# In so many cycles one after the other nothing may be polled twice or not at all.
STEADY_CYCLES = 3


def url(endpoint: str, timeout: int) -> str:
    return f"roster://{endpoint}/?timeout={timeout}&namespace={uuid.uuid4().hex}"


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    with made(tmp_path, url(ENDPOINT, TIMEOUT_SECONDS)) as agents:
        yield agents


@pytest.fixture
def patient_agents(tmp_path: Path) -> Iterator[Agents]:
    with made(tmp_path, url(ENDPOINT, LONG_TIMEOUT_SECONDS)) as agents:
        yield agents


@contextlib.contextmanager
def made(folder: Path, url: str) -> Iterator[Agents]:
    agents = Agents(folder, url, FOUND, static=STATIC)
    try:
        yield agents
    finally:
        agents.stop_all()


def started(agents: Agents) -> List[Agent]:
    running = [agents.start(name) for name in ("a", "b", "c")]
    wait_until_shared(running)
    return running


def wait_until_shared(running: Sequence[Agent]) -> Dict[str, List[str]]:
    """Waits until each resource is polled by exactly one agent, and holds on to that for some cycles;
    gives who polls what."""
    since = time.time()

    def shared() -> Dict[str, List[str]]:
        for agent in running:
            assert agent.process.poll() is None, f"agent {agent.name} has ended"
        last = shares(running, since) or {}
        polled = [resource for resources in last.values() for resource in resources]
        return last if sorted(polled) == sorted(FOUND + STATIC) else {}

    first = wait_for(shared, "a cycle in which each resource is polled once")
    steady = {agent.name: len(agent.cycles()) for agent in running}
    for agent in running:
        wait_for(lambda: len(agent.cycles()) >= steady[agent.name] + STEADY_CYCLES, "some cycles")
        for cycle in agent.cycles()[steady[agent.name] :]:
            assert sorted(cycle.polled) == sorted(first[agent.name])
    return first


@needs_cluster
def test_three_agents_share_all_resources(patient_agents: Agents) -> None:
    started(patient_agents)


@needs_cluster
def test_after_a_kill_the_others_poll_what_it_polled(agents: Agents) -> None:
    first, *others = started(agents)
    first.kill()
    wait_until_shared(others)


@needs_cluster
def test_after_a_graceful_stop_the_others_poll_what_it_polled(patient_agents: Agents) -> None:
    first, *others = started(patient_agents)
    assert first.stop() == 0
    wait_until_shared(others)


@needs_cluster
def test_an_agent_that_was_frozen_beyond_the_timeout_takes_part_again(agents: Agents) -> None:
    running = started(agents)
    frozen, *others = running
    frozen.signal(signal.SIGSTOP)
    try:
        wait_until_shared(others)
    finally:
        frozen.signal(signal.SIGCONT)
    wait_until_shared(running)


@needs_binary
def test_the_agents_share_on_when_the_leader_of_the_cluster_is_killed(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, made(tmp_path, url(nodes.endpoint, TIMEOUT_SECONDS)) as agents:
        first, *others = started(agents)
        nodes.kill(nodes.leader())
        wait_until_shared([first, *others])
        first.kill()
        wait_until_shared(others)
