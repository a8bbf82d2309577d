"""When a driver wants to be asked for its next heartbeat."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from roster_openstack.tooz_driver import RosterDriver

# tooz's heart beats at half of what it is told.
ASKED_FOR = 5.0


def test_agents_that_began_together_drift_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = SimpleNamespace(heartbeat_every=ASKED_FOR)
    presence: Any = SimpleNamespace(is_over=False, heartbeat=lambda: session)
    monkeypatch.setattr(RosterDriver, "_here", lambda self: presence)
    driver = object.__new__(RosterDriver)
    driver._presence = presence
    pauses = [driver.heartbeat() / 2 for _ in range(200)]
    assert ASKED_FOR * 0.9 <= min(pauses) < ASKED_FOR * 0.97
    assert ASKED_FOR * 1.03 < max(pauses) <= ASKED_FOR * 1.1
