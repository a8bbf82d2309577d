"""Who is in a group, as far as this process knows, and how long ago that was known to be true.

No clock, no socket: times are arguments, seconds of one clock that never jumps.
"""

from __future__ import annotations

import threading
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from roster_client import Event


class _Pending(NamedTuple):
    """At ``asked_at`` the cluster was at ``revision``: whoever knows all up to there knew at least
    what was true then."""

    revision: int
    asked_at: float


def host_of(instance: str, value: Any) -> str:
    """The host of an instance. Ids may have more parts than host and process, and hosts may have
    slashes, so what the instance says of itself counts."""
    metadata = value.get("metadata") if isinstance(value, Mapping) else None
    told = metadata.get("host") if isinstance(metadata, Mapping) else None
    return told if isinstance(told, str) and told else instance.rpartition("/")[0] or instance


class LocalCopy:
    """A group's hosts, folded from the instances that a watch tells of. One thread feeds it, any
    may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._host_of: Dict[str, str] = {}
        self._processes: Dict[str, int] = {}
        # Of a snapshot that is not complete; what was known before is asked until it is.
        self._snapshot: Optional[Dict[str, str]] = None
        # Of a revision that is not complete: a takeover deletes and puts in one.
        self._held: List[Event] = []
        self._position: Optional[int] = None
        self._known_good_at: Optional[float] = None
        self._pending: Optional[_Pending] = None

    @property
    def position(self) -> Optional[int]:
        """All up to this revision is in the copy; ``None`` while a snapshot is awaited."""
        return self._position

    def is_up(self, host: str) -> bool:
        """Whether a process of this host is there."""
        with self._lock:
            return host in self._processes

    def hosts(self) -> List[str]:
        """All hosts that are up, by name."""
        with self._lock:
            return sorted(self._processes)

    def age(self, now: float) -> Optional[float]:
        """For how many seconds the copy was not known to be true; ``None``: it never was."""
        known_good_at = self._known_good_at
        return None if known_good_at is None else max(now - known_good_at, 0.0)

    def take(self, event: Event) -> None:
        """Takes what a watch tells next."""
        with self._lock:
            if event.event in ("snapshot-begin", "compacted"):
                self._snapshot, self._held, self._position = {}, [], None
            elif self._snapshot is not None and event.listed:
                self._snapshot[event.id] = host_of(event.id, event.value)
            elif event.event == "snapshot-end":
                self._replace(self._snapshot or {})
                self._snapshot = None
                self._reached(event.revision)
            elif event.event == "bookmark":
                self._reached(event.revision)
            elif event.event in ("put", "delete"):
                self._held.append(event)
                if not event.more:
                    self._apply_held()
                    self._reached(event.revision)

    def same_at(self, asked_at: float) -> None:
        """Nothing that is not in the copy had happened when the cluster was asked."""
        with self._lock:
            self._good(asked_at)
            self._pending = None

    def behind(self, revision: int, asked_at: float) -> None:
        """Something had happened when the cluster was asked, all of it up to this revision: the copy
        is as good as then once it gets there."""
        with self._lock:
            if self._position is not None and self._position >= revision:
                self._good(asked_at)
            else:
                self._pending = _Pending(revision, asked_at)

    def _reached(self, revision: int) -> None:
        self._position = revision
        if self._pending is not None and revision >= self._pending.revision:
            self._good(self._pending.asked_at)
            self._pending = None

    def _good(self, asked_at: float) -> None:
        self._known_good_at = max(asked_at, self._known_good_at or asked_at)

    def _apply_held(self) -> None:
        for event in self._held:
            self._forget(event.id)
            if event.event == "put":
                self._add(event.id, host_of(event.id, event.value))
        self._held = []

    def _replace(self, host_of: Dict[str, str]) -> None:
        self._host_of, self._processes = {}, {}
        for instance, host in host_of.items():
            self._add(instance, host)

    def _add(self, instance: str, host: str) -> None:
        self._host_of[instance] = host
        self._processes[host] = self._processes.get(host, 0) + 1

    def _forget(self, instance: str) -> None:
        host = self._host_of.pop(instance, None)
        if host is None:
            return
        left = self._processes[host] - 1
        if left:
            self._processes[host] = left
        else:
            del self._processes[host]
