"""What the drivers of one process share: nova makes one for each part that asks, and one client, one
session and one copy per group are enough for all.

A process that forks gives nothing of it to its children: threads and connections stay behind, and a
session is of one process. Nova makes its services before it forks its workers."""

from __future__ import annotations

import os
import threading
from typing import Callable, Dict, Optional, TypeVar

from roster_client import Client, Registration

from .group import TIMES_PATIENCE_SECONDS, Group, RenewalTimes
from .options import Settings
from .presence import Member, Presence

T = TypeVar("T")

# A node that hangs leaves time for the others.
_TIMES_SHARE_SECONDS = 0.5


class Process:
    """All that this process has to do with one Roster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client = Client(settings.endpoints, timeout=settings.timeout)
        self._times_client = Client(
            settings.endpoints,
            timeout=min(settings.timeout, TIMES_PATIENCE_SECONDS),
            share_min=_TIMES_SHARE_SECONDS,
        )
        self._lock = threading.Lock()
        self._groups: Dict[str, Group] = {}
        self._times: Dict[str, RenewalTimes] = {}
        # By host: a process is one host's, but tests and simulators have many.
        self._presences: Dict[str, Presence] = {}
        self._members: Dict[tuple[str, str], Member] = {}

    def group(self, name: str) -> Group:
        """A group, followed from the first question on."""
        app = self.settings.app(name)
        limit = self.settings.service_down_time
        return self._made(self._groups, app, lambda: Group(self._client, app, limit))

    def times(self, name: str) -> RenewalTimes:
        """When the hosts of a group were last heard of."""
        app = self.settings.app(name)
        every = self.settings.report_interval / 2
        return self._made(self._times, app, lambda: RenewalTimes(self._times_client, app, every))

    def presence(self, host: str) -> Presence:
        """What this process has registered for a host."""
        ttl = self.settings.service_down_time
        name = f"{host}/{os.getpid()}"
        return self._made(self._presences, host, lambda: Presence(self._client, name, ttl))

    def member(self, host: str, group: str, registration: Registration) -> Member:
        """The member that this process is, once it joins."""
        app = self.settings.app(group)
        member = Member(app, f"{host}/{os.getpid()}", registration)
        with self._lock:
            self._members[(app, host)] = member
        return member

    def joined(self, host: str, group: str) -> Optional[Member]:
        """The member that this process is, if it joined."""
        return self._members.get((self.settings.app(group), host))

    def close(self) -> None:
        """Ends what runs here; what is registered expires."""
        with self._lock:
            groups = list(self._groups.values())
        for group in groups:
            group.close()
        self._client.close()
        self._times_client.close()

    def _made(self, known: Dict[str, T], name: str, make: Callable[[], T]) -> T:
        there = known.get(name)
        if there is not None:
            return there
        with self._lock:
            if name not in known:
                known[name] = make()
            return known[name]


_lock = threading.Lock()
_processes: Dict[Settings, Process] = {}


def of(settings: Settings) -> Process:
    """What this process shares under these settings.

    Raises :class:`roster_client.InvalidRequest` for addresses that are none."""
    process = _processes.get(settings)
    if process is not None:
        return process
    with _lock:
        if settings not in _processes:
            _processes[settings] = Process(settings)
        return _processes[settings]


def forget() -> None:
    """Makes all begin anew, as in a new process."""
    global _lock, _processes
    # Another thread may have held the lock when the process forked.
    _lock, _processes = threading.Lock(), {}


os.register_at_fork(after_in_child=forget)
