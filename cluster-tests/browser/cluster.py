"""A cluster of three real nodes, and the calls with which tests fill it and ask it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

Json = dict[str, Any]
T = TypeVar("T")

NODES = ("1", "2", "3")

# How long anything may take before a test gives it up, seconds.
PATIENCE = 60.0

# How long instances live that are to outlive the tests without heartbeats.
LONG = "24h"

# How many instances one call of the batch takes.
BATCH = 5_000

PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """The API said no."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.code = problem.get("code")


def wait_until(what: str, condition: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """What the condition answers as soon as it is something true."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {patience:.0f} seconds: {what}")


def to(*parts: str) -> str:
    """A path below /v1/, each part one segment of it."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class Cluster:
    """Three nodes, each a process and a folder of its own."""

    def __init__(self, roster: str, folder: Path) -> None:
        self._roster = roster
        self._folder = folder
        ports = free_ports(2 * len(NODES))
        self.api = dict(zip(NODES, ports[: len(NODES)]))
        self._peers = dict(zip(NODES, ports[len(NODES) :]))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for node in NODES:
            self.start_node(node)
        for node in NODES:
            self.wait_until_ready(node)

    def start_node(self, node: str) -> None:
        members = ",".join(f"{each}=127.0.0.1:{port}" for each, port in self._peers.items())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROSTER")}
        with open(self.log(node), "ab") as log:
            self._running[node] = subprocess.Popen(
                [
                    self._roster, "serve", "--node-id", node, "--cluster", members, "--log", "warn",
                    "--data-dir", str(self._folder / f"node-{node}"),
                    "--listen", f"127.0.0.1:{self.api[node]}",
                    "--peer-listen", f"127.0.0.1:{self._peers[node]}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, preexec_fn=end_with_parent,
            )  # fmt: skip

    def wait_until_ready(self, node: str) -> None:
        def ready() -> bool:
            if self._running[node].poll() is not None:
                raise AssertionError(f"node {node} ended:\n{self.log(node).read_text()}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.base(node)}/readyz", timeout=2).close()
                return True
            return False

        wait_until(f"node {node} is ready", ready)

    def kill(self, node: str) -> None:
        """As a lost machine: without a word."""
        process = self._running.pop(node)
        process.send_signal(signal.SIGKILL)
        process.wait()

    @contextlib.contextmanager
    def frozen(self, node: str) -> Iterator[None]:
        """As a machine that hangs: its connections stay, and nothing answers."""
        process = self._running.pop(node)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
            self._running[node] = process

    def stop(self) -> None:
        for node in list(self._running):
            self.kill(node)

    def log(self, node: str) -> Path:
        return self._folder / f"node-{node}.log"

    def base(self, node: str) -> str:
        return f"http://127.0.0.1:{self.api[node]}"

    def leader(self) -> str:
        """The node that leads, by the word of one that runs."""
        return wait_until("the cluster has a leader that runs", self._leader)

    def _leader(self) -> str | None:
        told = self.get("/v1/cluster")["leader"]
        return told if told in self._running else None

    def call(self, method: str, path: str, body: Json | None = None, node: str | None = None) -> Any:
        """The answer of a node that runs; asked again while the cluster has no leader, which is allowed to
        happen on a busy machine. All calls that the tests make may be repeated."""
        request = urllib.request.Request(
            self.base(node or next(iter(self._running))) + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as refusal:
                text = refusal.read()
                if refusal.code not in (429, 503, 504) or time.monotonic() > until:
                    raise Refused(refusal.code, json.loads(text or b"{}")) from None
            time.sleep(0.1)

    def get(self, path: str, node: str | None = None) -> Any:
        return self.call("GET", path, node=node)

    def register(self, app: str, instance: str, **fields: Any) -> Json:
        body = {"ip": "10.0.0.1", "port": 8080, "ttl": LONG, **fields}
        return self.call("PUT", to("apps", app, "instances", instance), body)

    def register_all(self, items: list[Json]) -> None:
        """Each with its app and id."""
        for begin in range(0, len(items), BATCH):
            batch = [{"op": "register", "ttl": LONG, **item} for item in items[begin : begin + BATCH]]
            results = self.call("POST", "/v1/instances:batch", {"items": batch})["results"]
            refused = [result for result in results if "code" in result]
            assert not refused, f"{len(refused)} registrations refused, such as {refused[0]}"


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens just now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def end_with_parent() -> None:
    """The kernel ends the process when this one ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster of the program that the environment names."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    cluster = Cluster(os.environ["ROSTER"], folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
