"""What a process registers, on a cluster that a test plays."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import pytest
from roster_client import Conflict, NotFound, Registration, Unavailable

from roster_openstack.servicegroup.presence import Member, Presence


class Registered:
    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation


class Session:
    def __init__(self, session: str) -> None:
        self.session = session


class PlayedCluster:
    """Keeps sessions and instances as nodes do. ``during_open`` and ``during_register`` are called in
    the middle of a call: it is done, and not answered yet."""

    def __init__(self) -> None:
        self.sessions: List[str] = []
        self.instances: Dict[Tuple[str, str], Tuple[str, int]] = {}
        self.opened = 0
        self.revision = 0
        self.away = False
        self.during_open: Any = None
        self.during_register: Any = None

    def open_session(self, *, ttl: float, name: str) -> Session:
        self._there()
        self.opened += 1
        self.sessions.append(str(self.opened))
        if self.during_open is not None:
            self.during_open()
        return Session(str(self.opened))

    def register(self, app: str, id: str, registration: Registration) -> Registered:
        self._there()
        session = registration.session
        if session not in self.sessions:
            raise NotFound("no such session", code="unknown-session")
        held, known = self.instances.get((app, id), ("", 0))
        self.revision += 1
        incarnation = known if held == session else self.revision
        self.instances[(app, id)] = (session, incarnation)
        if self.during_register is not None:
            self.during_register()
        return Registered(incarnation)

    def heartbeat(self, app: str, id: str, *, incarnation: Optional[int], **more: Any) -> None:
        self._there()
        if (app, id) not in self.instances:
            raise NotFound("no such instance", code="unknown-instance")
        if self.instances[(app, id)][1] != incarnation:
            raise Conflict("somebody took over", code="stale-incarnation")

    def send(self, call: Any) -> None:
        self._there()
        assert call.method == "DELETE"
        *_, kind, name = call.path.split("/")
        if kind == "sessions":
            self.end_session(name)
        else:
            [(_, incarnation)] = call.query
            for key, (_, known) in list(self.instances.items()):
                if known == incarnation:
                    del self.instances[key]

    def end_session(self, session: str) -> None:
        if session not in self.sessions:
            raise NotFound("no such session", code="unknown-session")
        self.sessions.remove(session)
        self.instances = {k: v for k, v in self.instances.items() if v[0] != session}

    def ids(self) -> List[str]:
        return sorted(id for _, id in self.instances)

    def _there(self) -> None:
        if self.away:
            raise Unavailable("nobody answers", retryable=True)


def member(app: str = "nova.compute", id: str = "a/1") -> Member:
    return Member(app, id, Registration(ip="10.0.0.1", port=0))


def presence(cluster: Any, name: str = "a/1") -> Presence:
    return Presence(cluster, name, 60.0)


def test_the_first_beat_registers_and_the_next_renews() -> None:
    cluster, here = PlayedCluster(), member()
    process = presence(cluster)
    assert process.beat(here, 1.0)
    assert not process.beat(here, 1.0)
    assert cluster.ids() == ["a/1"] and cluster.revision == 1


def test_all_that_a_process_joins_hangs_off_one_session() -> None:
    cluster = PlayedCluster()
    process = presence(cluster)
    compute, other = member(), member("nova.conductor")
    process.beat(compute, 1.0)
    process.beat(other, 1.0)
    assert cluster.opened == 1 and len(cluster.instances) == 2
    process.leave(compute)
    assert list(cluster.instances) == [("nova.conductor", "a/1")] and cluster.sessions == ["1"]
    process.leave(other)
    assert cluster.sessions == []


def test_a_lost_session_is_opened_again_and_a_removed_instance_put_back() -> None:
    cluster, here = PlayedCluster(), member()
    process = presence(cluster)
    process.beat(here, 1.0)
    cluster.end_session("1")
    assert process.beat(here, 1.0)
    assert cluster.ids() == ["a/1"] and cluster.sessions == ["2"]
    cluster.instances.clear()
    assert process.beat(here, 1.0)
    assert cluster.ids() == ["a/1"] and cluster.sessions == ["2"]


def test_who_lost_its_name_to_another_process_goes_on_under_a_name_of_its_own() -> None:
    cluster, old, new = PlayedCluster(), member(), member()
    first, second = presence(cluster), presence(cluster)
    first.beat(old, 1.0)
    second.beat(new, 1.0)
    assert cluster.ids() == ["a/1"]
    first.beat(old, 1.0)
    assert len(cluster.ids()) == 2 and cluster.ids()[1].startswith("a/1/")
    # Neither takes anything from the other any more.
    assert not first.beat(old, 1.0) and not second.beat(new, 1.0)
    first.leave(old)
    assert cluster.ids() == ["a/1"]


def test_an_unanswered_beat_is_told_and_the_next_one_goes_on() -> None:
    cluster, here = PlayedCluster(), member()
    process = presence(cluster)
    cluster.away = True
    with pytest.raises(Unavailable):
        process.beat(here, 1.0)
    cluster.away = False
    assert process.beat(here, 1.0)
    cluster.away = True
    with pytest.raises(Unavailable):
        process.beat(here, 1.0)
    cluster.away = False
    assert not process.beat(here, 1.0)


def test_who_has_left_never_comes_back() -> None:
    cluster, here = PlayedCluster(), member()
    process = presence(cluster)
    process.beat(here, 1.0)
    process.leave(here)
    assert not process.beat(here, 1.0)
    process.leave(here)
    assert cluster.ids() == [] and cluster.opened == 1


@pytest.mark.parametrize("moment", ["during_open", "during_register"])
def test_a_signal_in_the_middle_of_a_join_leaves_all_the_same(moment: str) -> None:
    cluster, here = PlayedCluster(), member()
    process = presence(cluster)
    # The handler runs in the very thread that waits for the answer.
    setattr(cluster, moment, lambda: process.leave(here))
    process.beat(here, 1.0)
    assert cluster.ids() == []
    process.beat(here, 1.0)
    assert cluster.ids() == []
