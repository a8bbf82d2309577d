"""A real cluster of three nodes for a test that needs one of its own, to do harm to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, TypeVar

import json

import pytest

T = TypeVar("T")

PATIENCE_SECONDS = 60.0

ROSTER = os.environ.get("ROSTER_BINARY", "")
"""The server's program."""

ENDPOINT = os.environ.get("ROSTER_ENDPOINT", "")
"""A cluster that runs already: ``host:port,host:port``."""

needs_binary = pytest.mark.skipif(not ROSTER, reason="ROSTER_BINARY is not set: no cluster to start")
needs_cluster = pytest.mark.skipif(
    not ENDPOINT, reason="ROSTER_ENDPOINT is not set: no cluster to test against"
)


def wait_for(condition: Callable[[], T], what: str, patience: float = PATIENCE_SECONDS) -> T:
    """Gives what the condition comes to; fails if it does not come about."""
    until = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.02)
    return value


class Cluster:
    """Three nodes of ``roster dev``."""

    def __init__(self, folder: Path) -> None:
        api, peer = free_rows()
        self._addresses = [f"127.0.0.1:{api + node}" for node in range(3)]
        self.endpoint = ",".join(self._addresses)
        self._log = folder / "roster.log"
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [ROSTER, "dev", "--api-port", str(api), "--peer-port", str(peer)]
                + ["--data-dir", str(folder / "data"), "--log", "warn"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def wait_until_ready(self) -> None:
        wait_for(self._ready, "a ready cluster")

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"roster dev ended: {self._log.read_text()}"
        with contextlib.suppress(OSError):
            for address in self._addresses:
                urllib.request.urlopen(f"http://{address}/readyz", timeout=2).close()
            return len(self._pids()) == 3
        return False

    def _pids(self) -> Dict[str, int]:
        shown = re.findall(r"node (\d+)\s+\S+\s+\(pid (\d+)\)", self._log.read_text())
        return {node: int(pid) for node, pid in shown}

    def leader(self) -> str:
        """The id of the node that leads."""
        return wait_for(self._leader, "a leader")

    def _leader(self) -> str:
        for address in self._addresses:
            with contextlib.suppress(OSError, ValueError):
                with urllib.request.urlopen(f"http://{address}/v1/node", timeout=2) as answer:
                    leader = json.load(answer).get("leader")
                    if leader:
                        return str(leader)
        return ""

    def signal(self, node: str, number: signal.Signals) -> None:
        os.kill(self._pids()[node], number)

    def kill(self, node: str) -> None:
        """Ends a node as a crash would."""
        self.signal(node, signal.SIGKILL)

    def nodes(self) -> List[str]:
        return sorted(self._pids())

    def stop(self) -> None:
        if self._process.poll() is None:
            for node in self.nodes():
                with contextlib.suppress(ProcessLookupError):
                    self.signal(node, signal.SIGCONT)
            self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    running = Cluster(folder)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def free_rows() -> tuple[int, int]:
    """The first ports of two rows of three at which nobody listens."""
    first = _free_row(set())
    return first, _free_row(set(range(first, first + 3)))


def _free_row(taken: Set[int]) -> int:
    while True:
        with socket.socket() as any_port:
            any_port.bind(("127.0.0.1", 0))
            first: int = any_port.getsockname()[1]
        row = set(range(first, first + 3))
        if not row & taken and all(_is_free(port) for port in row):
            return first


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False


def call(endpoint: str, method: str, path: str) -> Any:
    """Asks the first node of a cluster."""
    request = urllib.request.Request(f"http://{endpoint.split(',')[0]}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
