"""What this process has in Roster: one session, and an instance for each service that joined."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, replace
from typing import List, Optional

from roster_client import Call, Client, Conflict, NotFound, Registration, Unavailable, path
from roster_client.transport import Query

# The cluster does not know the instance (any more): it is to be registered again.
_GONE = ("unknown-instance", "unknown-app", "unknown-session")

# A node that hangs leaves time for the others before the next report is due.
_BEAT_SHARE_SECONDS = 0.25

# A service that stops does not wait for longer; what it could not remove expires.
_LEAVE_SECONDS_MAX = 3.0


# Each is itself: two of the same name are two.
@dataclass(eq=False)
class Member:
    """One service of this process in its group. Only :class:`Presence` changes it."""

    app: str
    id: str
    registration: Registration
    incarnation: Optional[int] = None
    """The life that is registered; ``None``: none is, as far as is known."""
    left: bool = False


class Presence:
    """Keeps the members of this process registered: each call does what is needed for one of them.
    ``ttl`` is for how many seconds they stay without a beat. Threads may share it."""

    def __init__(self, client: Client, name: str, ttl: float) -> None:
        self._client = client
        self._name = name
        self._ttl = ttl
        # A signal's handler stops the service in the thread that may be joining just then, so the
        # lock must let it pass, and nothing may be registered after it has left.
        self._lock = threading.RLock()
        self._session: Optional[str] = None
        self._members: List[Member] = []

    def beat(self, member: Member, patience: float) -> bool:
        """Renews a member, and registers it where the cluster does not know it; ``patience`` is in
        seconds. Returns whether it was registered.

        Raises a :class:`roster_client.RosterError` if neither could be done; the next beat tries again."""
        with self._lock:
            if member.left:
                return False
            if member not in self._members:
                self._members.append(member)
            if member.incarnation is not None and self._renewed(member, patience):
                return False
            self._register(member)
            return not member.left

    def leave(self, member: Member) -> None:
        """Removes a member, at once and for good; never a successor of the same name.

        Raises a :class:`roster_client.RosterError` if it may still be there: then it expires."""
        member.left = True
        if not self._lock.acquire(timeout=_LEAVE_SECONDS_MAX):
            raise Unavailable("a report is on its way that does not end")
        try:
            if member in self._members:
                self._members.remove(member)
                self._remove(member)
        except (NotFound, Conflict):
            # It has gone already, or somebody has taken over.
            pass
        finally:
            self._lock.release()

    def _renewed(self, member: Member, patience: float) -> bool:
        try:
            self._client.heartbeat(
                member.app,
                member.id,
                incarnation=member.incarnation,
                patience=patience,
                share_min=min(_BEAT_SHARE_SECONDS, patience),
            )
            return True
        except Conflict as error:
            if error.code != "stale-incarnation":
                raise
            # Another process that lives, or lived, has the same host and process id and has taken
            # the name: containers each have a process 1. It may keep it.
            member.id = f"{self._name}/{uuid.uuid4().hex[:8]}"
        except NotFound as error:
            if error.code not in _GONE:
                raise
        member.incarnation = None
        return False

    def _register(self, member: Member) -> None:
        try:
            self._put(member)
        except NotFound as error:
            if error.code != "unknown-session":
                raise
            self._session = None
            if not member.left:
                self._put(member)

    def _put(self, member: Member) -> None:
        if self._session is None:
            self._session = self._client.open_session(ttl=self._ttl, name=self._name).session
        if member.left:
            return
        # From another session this takes over at once: what an earlier process of this name left
        # behind goes here, and the end of its session does not touch what is registered now.
        registration = replace(member.registration, session=self._session)
        member.incarnation = self._client.register(member.app, member.id, registration).incarnation

    def _remove(self, member: Member) -> None:
        if not self._members and self._session is not None:
            session, self._session = self._session, None
            self._delete(path("v1", "sessions", session))
        elif member.incarnation is not None:
            instance = path("v1", "apps", member.app, "instances", member.id)
            self._delete(instance, [("incarnation", member.incarnation)])

    def _delete(self, target: str, query: Query = ()) -> None:
        self._client.send(
            Call("DELETE", target, query, patience=_LEAVE_SECONDS_MAX, share_min=1.0)
        )
