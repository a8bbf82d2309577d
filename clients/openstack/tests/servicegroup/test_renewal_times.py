"""When hosts were last heard of, without a cluster."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

import pytest
from roster_client import Unavailable

from roster_openstack.servicegroup import group
from roster_openstack.servicegroup.group import RenewalTimes

HEARD = "2026-11-22T07:53:36.902Z"


class Cluster:
    """What a client tells."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    def instances(self, app: str, heartbeats: bool) -> Iterator[Dict[str, Any]]:
        self.asked += 1
        if self.away:
            raise Unavailable("no answer")
        return iter([{"id": "host/1", "last_heartbeat": HEARD}])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    now = [1000.0]
    monkeypatch.setattr(group, "lease_now", lambda: now[0])
    return now


def test_while_the_cluster_is_away_it_is_asked_each_half_minute_only(clock: List[float]) -> None:
    cluster = Cluster()
    times = RenewalTimes(cluster, "nova.compute", every=5)  # type: ignore[arg-type]
    heard = times.of("host")
    assert heard is not None
    cluster.away = True
    for _ in range(29):
        clock[0] += 1
        # What was known is told.
        assert times.of("host") == heard
    assert cluster.asked == 2
    clock[0] += 6
    times.of("host")
    assert cluster.asked == 3
    cluster.away = False
    clock[0] += 30
    times.of("host")
    clock[0] += 5
    times.of("host")
    assert cluster.asked == 5
