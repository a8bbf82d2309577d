"""tooz's locks on Roster's: each acquisition is an owner of its own, with its own token."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Union

import tooz
from tooz import locking

from roster_client import LockHeld, NotFound, Outcome, RosterError, StaleToken

from .encoding import to_bytes
from .errors import translated
from .session import Session

if TYPE_CHECKING:
    from .tooz_driver import RosterDriver

# One request waits so long at most. Who asks again goes to the end of the queue, so it is long; a
# node that hangs is noticed only at its end, so it is not longer.
_PIECE_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Claim:
    """What one acquisition won."""

    owner: str
    session: Session
    token: int
    thread: int
    """The thread that acquired it: of several claims of one lock object, it releases its own."""


class RosterLock(locking.Lock):
    """A lock by name, for any number of threads.

    It ends with its release, the coordinator's stop, or the loss of its session."""

    def __init__(self, driver: RosterDriver, name: bytes) -> None:
        super().__init__(name)
        self._driver = driver
        self._latch = driver.ids.group(to_bytes(name))
        self._claims: List[Claim] = []
        self._mutex = threading.Lock()

    @property
    def token(self) -> Optional[int]:
        """The fencing token of what is done under the lock: higher with each holder. ``None`` if
        this object does not hold it."""
        claim = self._newest()
        return None if claim is None else claim.token

    @property
    def acquired(self) -> bool:
        """Whether this object holds the lock, for all that is known here without asking: a lock that
        somebody broke looks held, one whose session may have ended does not."""
        return self._newest() is not None

    def acquire(
        self,
        blocking: Union[bool, float] = True,
        shared: bool = False,
        timeout: Optional[float] = None,
    ) -> bool:
        """Acquires the lock; ``blocking`` may be the seconds to wait, or ``timeout`` is."""
        seconds = _seconds_to_wait(blocking, timeout)
        owner = uuid.uuid4().hex
        with translated(), self._driver.kept_alive(seconds):
            claim = self._won(owner, shared, None if seconds is None else _now() + seconds)
        if claim is None:
            return False
        with self._mutex:
            # Who wins it alone knows that what it won before holds no more. What other threads won
            # stays, stale as it is: a release of theirs must not take this one for their own.
            kept = [c for c in self._claims if shared or c.thread != claim.thread]
            self._claims = [*kept, claim]
        return True

    def _won(self, owner: str, shared: bool, until: Optional[float]) -> Optional[Claim]:
        # Asked without a wait at first: a cluster that cannot serve then says so at once, where one
        # that only hangs would look like a lock that is held.
        left = 0.0
        while True:
            session = self._driver.session()
            try:
                acquired = self._driver.client.acquire_lock(
                    self._latch,
                    session.id,
                    owner=owner,
                    shared=shared,
                    wait=min(left, _PIECE_SECONDS_MAX),
                )
            except LockHeld:
                if until is not None and _now() >= until:
                    return None
                left = _PIECE_SECONDS_MAX if until is None else max(until - _now(), 0.0)
            except NotFound as error:
                if error.code != "unknown-session":
                    raise
                self._driver.reopened(session)
            except BaseException as error:
                if not isinstance(error, RosterError) or error.outcome is Outcome.UNKNOWN:
                    self._driver.abandon(self._latch, session, owner)
                raise
            else:
                return Claim(owner, session, acquired.token, threading.get_ident())

    def release(self) -> bool:
        """Releases what this thread acquired, or else what was acquired first. False if this object
        holds nothing, or lost it: then nobody is harmed."""
        claim = self._own()
        if claim is None:
            return False
        try:
            with translated():
                self._driver.client.release_lock(
                    self._latch, claim.token, session=claim.session.id, owner=claim.owner
                )
        except tooz.ToozError as error:
            if not isinstance(error.__cause__, StaleToken):
                raise
            released = False
        else:
            released = True
        self._forget(claim)
        return released

    def break_(self) -> bool:
        """Takes the lock from whoever holds it. False if nobody does."""
        try:
            with translated():
                self._driver.client.break_lock(self._latch)
        except tooz.ToozError as error:
            if not isinstance(error.__cause__, NotFound):
                raise
            return False
        return True

    def is_still_owner(self) -> bool:
        """Asks the cluster whether this object holds the lock. What it lost is forgotten."""
        while True:
            claim = self._newest(safe=False)
            if claim is None:
                return False
            with translated():
                holds = self._driver.client.check_lock(
                    self._latch, claim.token, session=claim.session.id, owner=claim.owner
                )
            if holds:
                return True
            self._forget(claim)

    def heartbeat(self) -> bool:
        """Renews the coordinator's session, all of its locks with it. False if this object holds
        nothing then."""
        if self._newest(safe=False) is None:
            return False
        self._driver.heartbeat()
        return self.acquired

    def _newest(self, safe: bool = True) -> Optional[Claim]:
        with self._mutex:
            for claim in reversed(self._claims):
                if not safe or claim.session.is_safe():
                    return claim
        return None

    def _own(self) -> Optional[Claim]:
        with self._mutex:
            here = threading.get_ident()
            mine = [claim for claim in self._claims if claim.thread == here]
            if mine:
                return mine[-1]
            return self._claims[0] if self._claims else None

    def _forget(self, claim: Claim) -> None:
        with self._mutex:
            self._claims = [other for other in self._claims if other is not claim]


def _seconds_to_wait(blocking: Union[bool, float], timeout: Optional[float]) -> Optional[float]:
    """``None`` is without end."""
    if blocking is True:
        return None if timeout is None else max(float(timeout), 0.0)
    return max(float(blocking), 0.0)


def _now() -> float:
    return time.monotonic()
