"""The client under eventlet's monkey patching, as OpenStack services run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .scripted_server import REGISTERED, Reply, Request, ScriptedServer, Stream, never
from .test_ring_watcher import description
from .test_watch import put

RENEWED = {"ttl": "15s", "heartbeat_every": "10ms", "revision": 8}


def test_all_threads_go_on_while_one_waits() -> None:
    pytest.importorskip("eventlet", reason="eventlet is not installed")
    beats = []
    with ScriptedServer(never) as node:

        def script(request: Request) -> Any:
            if request.path.endswith("/heartbeat"):
                beats.append(time.monotonic())
                return Reply(RENEWED)
            if request.path.endswith("/ring"):
                return ring(request)
            if request.path.endswith("/watch"):
                return Stream([put(5, "b"), node.wait_over])
            return Reply({**REGISTERED, "heartbeat_every": "10ms"}, 201)

        def ring(request: Request) -> Any:
            if request.one("index") is None:
                return Reply(description(5, "a"))
            if request.one("index") == "9":
                node.wait_over()
            # Heartbeats go on while the long poll waits.
            seen = len(beats)
            while len(beats) < seen + 3 and not node.over.is_set():
                time.sleep(0.005)
            return Reply(description(9, "a", "b"))

        node.script = script
        run = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "green.py"), node.endpoint],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told == {"epochs": [5, 9], "id": "b", "rest": 0, "safe": True, "ticked": True}
    assert len(node.asked("DELETE")) == 1
