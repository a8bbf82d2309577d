"""Starts three of ceilometer's polling agents and shows who polls what, while one of them is killed.

    python share.py roster://127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403/?timeout=5
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

from agents import Agent, Agents, shares

RESOURCES = [f"volume-{number}" for number in range(1, 13)]
PATIENCE_SECONDS = 60.0


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        agents = Agents(Path(folder), sys.argv[1], RESOURCES)
        try:
            story(agents)
        finally:
            agents.stop_all()


def story(agents: Agents) -> None:
    running = [agents.start(name) for name in ("agent-a", "agent-b", "agent-c")]
    told("three agents", running)
    running[0].kill()
    told("agent-a was killed with SIGKILL", running[1:])
    running[1].stop()
    told("agent-b was stopped", running[2:])
    told("another one was started", [*running[2:], agents.start("agent-d")])


def told(what: str, running: List[Agent]) -> None:
    """Waits until each resource is polled by exactly one agent, and shows by which."""
    began = time.time()
    while not all_once(shared := shares(running, began)):
        if time.time() > began + PATIENCE_SECONDS:
            sys.exit(f"{what}, and {PATIENCE_SECONDS:.0f} s later not all is polled once: {shared}")
        time.sleep(0.1)
    print(f"{what}, {time.time() - began:.1f} s later:")
    for name, polled in sorted((shared or {}).items()):
        print(f"  {name}  {' '.join(sorted(polled, key=by_number))}")
    print(flush=True)


def all_once(shared: Optional[Dict[str, List[str]]]) -> bool:
    """Whether each resource is polled, and by one agent alone."""
    polled = [resource for resources in (shared or {}).values() for resource in resources]
    return sorted(polled) == sorted(RESOURCES)


def by_number(resource: str) -> int:
    return int(resource.rpartition("-")[2])


if __name__ == "__main__":
    main()
