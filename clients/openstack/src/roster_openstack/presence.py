"""What a started coordinator has in the cluster, and how it is had again after the session was lost."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Optional, Set, Tuple

import tooz
from tooz import coordination

from roster_client import Client, NotFound, Outcome, RosterError, StaleToken, Unavailable

from .members import Groups
from .session import CALL_SECONDS, Session

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Membership:
    """What a group is joined again with after the session was lost."""

    payload: bytes
    """The capabilities, as they are stored."""
    creates: bool = False
    """It was joined by a call that creates the group where it is missing."""


class Presence:
    """The session of one coordinator from a start to a stop, the groups that it joined, and the locks
    that it may have won without an answer. Threads may share it.

    Besides tooz's errors the calls raise the client's."""

    def __init__(
        self, client: Client, groups: Groups, member: bytes, opened: Callable[[], Session]
    ) -> None:
        self.client = client
        self._groups = groups
        self._member = member
        self._opened = opened
        self._is_over = False
        # Guards all below. Taken after the coordinator's lock of the watchers, if both are.
        self._lock = threading.RLock()
        self._session = opened()
        self._memberships: Dict[bytes, Membership] = {}
        self._not_rejoined: Set[bytes] = set()
        self._abandoned: List[Tuple[str, Session, str]] = []

    # The session

    @property
    def is_over(self) -> bool:
        """The coordinator stops, or has stopped."""
        return self._is_over

    def end(self) -> None:
        """From here on nothing is begun any more, and no session is opened again."""
        self._is_over = True

    def close(self, patience: float) -> None:
        """Ends the session within so many seconds, and with it all that hangs off it."""
        with self._lock:
            session, self._memberships, self._abandoned = self._session, {}, []
        session.close(patience)

    def session(self) -> Session:
        """The session of now. Raises :class:`ToozError` after the end."""
        if self._is_over:
            raise not_started()
        return self._session

    def heartbeat(self) -> Session:
        """Renews the session, or opens another one and joins again; gives it."""
        session = self.session()
        try:
            session.renew()
        except NotFound as error:
            if error.code != "unknown-session":
                raise
            session = self._next(session)
        try:
            self._give_back()
        finally:
            self._rejoin()
        return session

    def reopened(self, lost: Session) -> Session:
        """The session that follows a lost one. All groups are joined again with the capabilities
        that they were joined with last; one that cannot be is tried again with each heartbeat."""
        with self._lock:
            session = self._next(lost)
            try:
                self._rejoin()
            except Unavailable:
                raise
            except RosterError as error:
                LOG.warning("A group is not joined again yet: %s", error)
            return session

    def _next(self, lost: Session) -> Session:
        lost.end()
        with self._lock:
            current = self.session()
            if current is not lost:
                return current
            LOG.warning(
                "Roster has ended session %s of this coordinator, which it did not hear of for too "
                "long: opening another one, and joining %d groups again",
                lost.id,
                len(self._memberships),
            )
            self._session = current = self._opened()
            self._not_rejoined = set(self._memberships)
            return current

    def _was_lost(self) -> bool:
        """Asks whether the session is there, and opens another one if it is not."""
        session = self.session()
        try:
            session.renew()
        except NotFound as error:
            if error.code != "unknown-session":
                raise
            self.reopened(session)
            return True
        return False

    # Groups

    def joined(self) -> Set[bytes]:
        """The groups that it has joined, for all that it knows."""
        return set(self._memberships)

    def has_joined(self, group: bytes) -> bool:
        """Whether this coordinator is in a group, for all that it knows."""
        return group in self._memberships

    def join(self, group: bytes, payload: bytes) -> None:
        # Under the lock, so that a session that is lost meanwhile is followed by one with this group.
        with self._lock:
            session = self.session()
            try:
                self._put(group, payload, session)
            except NotFound as error:
                if error.code != "unknown-session":
                    raise
                self._join_after_a_loss(group, payload, session)
            self._remember(group, payload)
            self._not_rejoined.discard(group)

    def creates(self, group: bytes) -> None:
        """A group that was joined is to be created again where it is missing."""
        with self._lock:
            if group in self._memberships:
                self._memberships[group] = replace(self._memberships[group], creates=True)

    def leave(self, group: bytes) -> None:
        with self._lock:
            joined, lost = group in self._memberships, group in self._not_rejoined
            try:
                self._groups.leave(group, self._member)
                self._forget(group)
            except (coordination.MemberNotJoined, coordination.GroupNotCreated):
                self._forget(group)
                # The loss of the session has taken it out already.
                if not (joined and (lost or self._was_lost())):
                    raise

    def update(self, group: bytes, payload: bytes) -> None:
        with self._lock:
            if group in self._memberships:
                # If the session was lost, the group is joined again with the new ones.
                self._remember(group, payload)
            try:
                self._groups.update(group, self._member, payload)
            except coordination.MemberNotJoined:
                if not self.is_still_member(group):
                    raise

    def is_still_member(self, group: bytes) -> bool:
        """Whether this coordinator, which is not listed in a group that it joined, has only lost its
        session: then it is joined again by now. Else it is forgotten that it joined."""
        with self._lock:
            if group in self._memberships:
                session = self.heartbeat()
                if group in self._memberships and self._is_on(group, session):
                    return True
            self._forget(group)
            return False

    def _join_after_a_loss(self, group: bytes, payload: bytes, lost: Session) -> None:
        """Who was in the group is in it no more, and joins it again with what is given now."""
        if group in self._memberships:
            self._remember(group, payload)
        session = self.reopened(lost)
        if group not in self._memberships or group in self._not_rejoined:
            self._put(group, payload, session)

    def _put(self, group: bytes, payload: bytes, session: Session) -> None:
        until = time.monotonic() + CALL_SECONDS
        unheard = False
        while True:
            try:
                return self._groups.join(group, self._member, payload, session.id)
            except coordination.MemberAlreadyExist:
                known = group in self._memberships and group not in self._not_rejoined
                if known or not self._is_on(group, session):
                    raise
                if unheard:
                    return None
                # An earlier join that was not answered; its capabilities may be others.
                return self._groups.update(group, self._member, payload)
            except RosterError as error:
                again = error.retryable and error.outcome is Outcome.UNKNOWN
                if not again or time.monotonic() >= until:
                    raise
                unheard = True

    def _is_on(self, group: bytes, session: Session) -> bool:
        """Whether the member that is in the group is this coordinator."""
        try:
            found = self._groups.member(group, self._member)
        except (coordination.GroupNotCreated, coordination.MemberNotJoined):
            return False
        return bool(found["session"] == session.id)

    def _remember(self, group: bytes, payload: bytes) -> None:
        known = self._memberships.get(group, Membership(payload))
        self._memberships[group] = replace(known, payload=payload)

    def _forget(self, group: bytes) -> None:
        self._memberships.pop(group, None)
        self._not_rejoined.discard(group)

    def _rejoin(self) -> None:
        """Joins the groups that are not joined again yet. One that fails does not hold up the others,
        while there is time; the first error is raised at the end."""
        if not self._not_rejoined:
            return
        until = time.monotonic() + CALL_SECONDS
        failed: Optional[RosterError] = None
        with self._lock:
            for group in sorted(self._not_rejoined):
                if failed is not None and time.monotonic() >= until:
                    break
                try:
                    self._rejoin_one(group)
                    self._not_rejoined.discard(group)
                except RosterError as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def _rejoin_one(self, group: bytes) -> None:
        membership = self._memberships.get(group)
        if membership is None:
            return
        try:
            try:
                self._put(group, membership.payload, self.session())
            except coordination.GroupNotCreated:
                if not membership.creates:
                    raise
                with contextlib.suppress(coordination.GroupAlreadyExist):
                    self._groups.create(group)
                self._put(group, membership.payload, self.session())
        except (coordination.GroupNotCreated, coordination.MemberAlreadyExist) as error:
            LOG.warning("A group cannot be joined again after the session was lost: %s", error)
            self._forget(group)

    # Locks

    def abandon(self, latch: str, session: Session, owner: str) -> None:
        """Gives a lock back with the next heartbeat, if it was won."""
        with self._lock:
            self._abandoned.append((latch, session, owner))

    def _give_back(self) -> None:
        """As in :meth:`_rejoin`, one that fails does not hold up the others."""
        if not self._abandoned:
            return
        until = time.monotonic() + CALL_SECONDS
        failed: Optional[RosterError] = None
        with self._lock:
            waiting, self._abandoned = self._abandoned, []
        for latch, session, owner in waiting:
            try:
                if failed is None or time.monotonic() < until:
                    self.client.abandon_lock(latch, session.id, owner)
                    continue
            except (StaleToken, NotFound):
                continue
            except RosterError as error:
                failed = failed or error
            self.abandon(latch, session, owner)
        if failed is not None:
            raise failed


def not_started() -> tooz.ToozError:
    """The error of a coordinator that is asked before its start or after its stop."""
    return tooz.ToozError("The coordinator is not started: call start() first")
