"""The driver under eventlet's monkey patching, as OpenStack services run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..cluster import ENDPOINT, needs_cluster


@needs_cluster
def test_all_green_threads_go_on_while_one_waits_for_a_lock() -> None:
    pytest.importorskip("eventlet", reason="eventlet is not installed")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "green.py"), ENDPOINT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told == {"members": ["one", "two"], "told": 1, "ticked": True, "won": True}
