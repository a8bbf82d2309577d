"""Three real nodes of a test's own, so that it may stop and kill them. The environment variable
ROSTER_BINARY names the program."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Type

PROGRAM = os.environ.get("ROSTER_BINARY", "")

PATIENCE_SECONDS = 30.0


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Fails if it does not come about."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.005)


class Cluster:
    """Nodes 0, 1, 2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(6)
        self._nodes: Dict[int, subprocess.Popen[bytes]] = {}
        self._frozen: List[int] = []
        self.endpoints = [f"127.0.0.1:{port}" for port in self._ports[:3]]

    def __enter__(self) -> Cluster:
        try:
            for node in range(3):
                self.start(node)
            wait_until(
                lambda: self.leader() is not None and all(map(self._ready, range(3))), "nodes"
            )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Leaves no node behind."""
        for node in list(self._nodes):
            self.thaw(node)
            self._nodes[node].terminate()
        for process in self._nodes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, node: int) -> None:
        listed = ",".join(f"{n + 1}=127.0.0.1:{self._ports[3 + n]}" for n in range(3))
        with open(self._folder / f"node-{node}.log", "ab") as log:
            self._nodes[node] = subprocess.Popen(
                [
                    *(PROGRAM, "serve", "--node-id", str(node + 1), "--cluster", listed),
                    *("--data-dir", str(self._folder / f"node-{node}"), "--log", "warn"),
                    *("--listen", f"127.0.0.1:{self._ports[node]}"),
                    *("--peer-listen", f"127.0.0.1:{self._ports[3 + node]}"),
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self, node: int) -> None:
        process = self._nodes.pop(node)
        process.kill()
        process.wait()

    def freeze(self, node: int) -> None:
        self._nodes[node].send_signal(signal.SIGSTOP)
        self._frozen.append(node)

    def thaw(self, node: int) -> None:
        if node in self._frozen:
            self._frozen.remove(node)
            self._nodes[node].send_signal(signal.SIGCONT)

    def leader(self) -> Optional[int]:
        """The node that leads, as those that answer say."""
        for node in self._nodes:
            told = self._get(node, "/v1/node") if node not in self._frozen else None
            if told is not None and told.get("role") == "leader":
                return node
        return None

    def _ready(self, node: int) -> bool:
        return self._get(node, "/readyz?verbose") is not None

    def _get(self, node: int, path: str) -> Optional[Dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://{self.endpoints[node]}{path}", timeout=2) as told:
                body = told.read()
        except OSError:
            return None
        try:
            value = json.loads(body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def _free_ports(count: int) -> List[int]:
    """Ports at which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
