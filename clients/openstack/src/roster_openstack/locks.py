"""tooz's locks on Roster's: each acquisition is an owner of its own, with its own token."""

from __future__ import annotations

import math
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Union

import tooz
from tooz import coordination, locking

from roster_client import NotFound, Outcome, RosterError, StaleToken

from . import waiting
from .encoding import shown, to_bytes
from .errors import translated
from .session import Session
from .waiting import Claimant

if TYPE_CHECKING:
    from .tooz_driver import RosterDriver


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
        """Acquires the lock, and waits for it: without end (``True``), not at all (``False``), or so
        many seconds, as ``blocking`` (``1`` is one second) or as ``timeout``.

        A cluster that does not answer while one waits ends the wait with an error of tooz."""
        seconds = _seconds_to_wait(blocking, timeout)
        owner = uuid.uuid4().hex
        until = None if seconds is None else _now() + seconds
        with translated(), self._driver.kept_alive(seconds):
            claim = self._won(owner, shared, until)
        if claim is None:
            return False
        with self._mutex:
            # Who wins it alone knows that what it won before holds no more. What other threads won
            # stays, stale as it is: a release of theirs must not take this one for their own.
            kept = [c for c in self._claims if shared or c.thread != claim.thread]
            self._claims = [*kept, claim]
        return True

    def _won(self, owner: str, shared: bool, until: Optional[float]) -> Optional[Claim]:
        while True:
            session = self._driver.session()
            claimant = Claimant(self._driver.client, self._latch, session, owner, shared)
            try:
                acquired = waiting.acquired(claimant, until)
                if acquired is None:
                    return None
                if not session.is_safe():
                    # The answer took longer than the session is good for without a heartbeat.
                    session.renew()
                return Claim(owner, session, acquired.token, threading.get_ident())
            except NotFound as error:
                if error.code != "unknown-session":
                    raise
                self._driver.reopened(session)
            except BaseException as error:
                if not isinstance(error, RosterError) or error.outcome is Outcome.UNKNOWN:
                    self._driver.abandon(self._latch, session, owner)
                raise

    def __enter__(
        self,
        blocking: Union[bool, float] = True,
        shared: bool = False,
        timeout: Optional[float] = None,
    ) -> RosterLock:
        if not self.acquire(blocking, shared, timeout):
            raise coordination.LockAcquireFailed(
                f"Acquiring lock {shown(to_bytes(self.name))} failed"
            )
        return self

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
    given = timeout if blocking is True else blocking
    if given is None:
        return None
    seconds = float(given)
    if not math.isfinite(seconds):
        raise ValueError(f"{given!r} is no number of seconds to wait; True waits without end")
    return max(seconds, 0.0)


def _now() -> float:
    return time.monotonic()
