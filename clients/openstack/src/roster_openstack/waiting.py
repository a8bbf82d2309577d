"""Waiting for a lock: the request that waits for its answer, and the questions whether it still does.

A request that waits says nothing while it waits, so whoever waits cannot tell a lock that is held from
a node that hangs or a cluster without a majority. The request therefore has a thread of its own, and
the one that waits for it looks at the session meanwhile, on whichever node answers.
"""

from __future__ import annotations

import enum
import threading
import time
from typing import List, Optional

from roster_client import (
    Acquired,
    Cancellation,
    Client,
    LockHeld,
    NotFound,
    Outcome,
    RosterError,
    StaleToken,
    Unavailable,
)

from .session import Session

# One request waits so long at most; servers take no more. Whoever waits for longer asks again before it
# is over, and so keeps its place.
PIECE_SECONDS = 600.0

# So long before its end a request is followed by the next one.
OVERLAP_SECONDS = 60.0

# The cluster is looked at so often while one waits, and at least as often as it wants to hear of the
# session.
_LOOK_EVERY_SECONDS_MAX = 1.0

# What one look may take: enough for the nodes to elect a leader. With the time since the look before,
# a cluster that does not answer ends a wait within five seconds.
_LOOK_SECONDS_MAX = 3.8

# What one node gets of it at least.
_SHARE_SECONDS_MIN = 0.25

# An answer may come so late after its wait, or after a look has shown that the lock is won.
_LATE_SECONDS_MAX = 0.5

# Between two requests of which the first one failed.
_PAUSE_SECONDS = 0.2


class Standing(enum.Enum):
    """What a claim on a lock is for the cluster."""

    ABSENT = "absent"
    WAITS = "waits"
    WON = "won"


class Claimant:
    """One who wants a lock: its place in the queue is that of ``owner`` on the session."""

    def __init__(
        self, client: Client, latch: str, session: Session, owner: str, shared: bool
    ) -> None:
        self.session = session
        self.owner = owner
        self.latch = latch
        self._client = client
        self._shared = shared

    def asks(self, wait: float = 0.0, cancellation: Optional[Cancellation] = None) -> Acquired:
        """Asks for the lock, or keeps its place and waits on. Raises :class:`LockHeld`."""
        return self._client.acquire_lock(
            self.latch,
            self.session.id,
            owner=self.owner,
            shared=self._shared,
            wait=wait,
            cancellation=cancellation,
        )

    def looks(self) -> Standing:
        """Looks at what it has. Raises :class:`NotFound` (``unknown-session``) if the session is
        lost."""
        seen = self._client.session(
            self.session.id, patience=_LOOK_SECONDS_MAX, share_min=_SHARE_SECONDS_MIN
        )
        for lock in seen.get("locks", ()):
            if (lock.get("name"), lock.get("owner")) == (self.latch, self.owner):
                return Standing.WAITS if lock.get("token") is None else Standing.WON
        return Standing.ABSENT

    def gives_up(self) -> None:
        """Gives up its place, or what it has won."""
        self._client.abandon_lock(self.latch, self.session.id, self.owner)


class Request:
    """One request of a claimant that waits, under way in a thread of its own."""

    def __init__(self, claimant: Claimant, wait: float) -> None:
        self._claimant = claimant
        self._wait = wait
        self._began = time.monotonic()
        self._over = threading.Event()
        self._cancellation = Cancellation()
        self._acquired: Optional[Acquired] = None
        self._error: Optional[BaseException] = None
        threading.Thread(target=self._run, name="roster-lock", daemon=True).start()

    def _run(self) -> None:
        try:
            self._acquired = self._claimant.asks(self._wait, self._cancellation)
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    def ends_within(self, seconds: float) -> bool:
        """Waits so long for the answer."""
        return self._over.wait(max(seconds, 0.0))

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def ends_at(self) -> float:
        """When it will have waited for as long as it was asked to."""
        return self._began + self._wait

    def answer(self) -> Optional[Acquired]:
        """The answer of a request that is over; ``None`` if nobody knows what became of it, or it may
        go better later."""
        error = self._error
        if error is None:
            return self._acquired
        # A queue that is full stays so for longer than one wants to be told of it.
        if isinstance(error, RosterError) and error.retryable and error.status != 429:
            return None
        raise error

    @property
    def error(self) -> Optional[BaseException]:
        """What it failed with, if it is over and did."""
        return self._error

    def cancel(self) -> None:
        """Ends it, and its thread. A claimant that has asked anew meanwhile keeps its place, and what
        it has won."""
        self._cancellation.cancel()


class Wait:
    """The wait of a claimant in the queue of its lock, ``until`` then (``None``: without end)."""

    def __init__(self, claimant: Claimant, until: Optional[float]) -> None:
        self._claimant = claimant
        self._until = until
        self._look_every = min(claimant.session.heartbeat_every, _LOOK_EVERY_SECONDS_MAX)
        self._failing_since: Optional[float] = None
        # Older ones go on: at the server the newest one decides, but only once it is heard there.
        self._requests: List[Request] = []

    def acquired(self) -> Optional[Acquired]:
        """``None`` if the lock was not free by then. Raises what the client raises; then it may have
        been won all the same, and is to be abandoned."""
        try:
            self._ask()
            while not self._is_over(_LATE_SECONDS_MAX):
                try:
                    won = self._answered() or self._looked()
                except LockHeld:
                    if self._is_over():
                        return None
                    # Its place was lost to an older request, or the node could not wait.
                    time.sleep(_PAUSE_SECONDS)
                    self._ask()
                    continue
                if won is not None:
                    return won
            self._give_up()
            return None
        except RosterError as error:
            error.outcome = Outcome.UNKNOWN
            raise
        finally:
            for request in self._requests:
                request.cancel()

    def _ask(self) -> None:
        """Asks for the lock, or for the same place in its queue again."""
        left = PIECE_SECONDS if self._until is None else max(self._until - _now(), 0.0)
        self._requests.append(Request(self._claimant, min(left, PIECE_SECONDS)))

    def _answered(self) -> Optional[Acquired]:
        """Waits for the answer until it is time to look how it stands."""
        newest = self._requests[-1]
        if not newest.ends_within(self._next_look_at() - _now()):
            return None
        won = newest.answer()
        return won if won is None or len(self._requests) == 1 else self._confirmed()

    def _next_look_at(self) -> float:
        at = _now() + self._look_every
        if self._until is not None and self._is_last_piece():
            return min(at, self._until + _LATE_SECONDS_MAX)
        return min(at, self._requests[-1].ends_at - OVERLAP_SECONDS)

    def _looked(self) -> Optional[Acquired]:
        """Looks how it stands, and does what is needed to wait on."""
        standing = self._claimant.looks()
        newest = self._requests[-1]
        if standing is Standing.WON:
            if newest.ends_within(_LATE_SECONDS_MAX):
                return self._answered() or self._confirmed()
            return self._confirmed()
        if standing is Standing.WAITS and not newest.is_over:
            self._failing_since = None
            if not self._is_last_piece() and _now() >= newest.ends_at - OVERLAP_SECONDS:
                self._ask()
        else:
            self._ask_after_failure(newest)
        return None

    def _ask_after_failure(self, failed: Request) -> None:
        """Asks anew where nobody waits on this one's behalf: the request broke off, or the node that
        it was sent to hangs."""
        now = _now()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > _LOOK_SECONDS_MAX:
            raise failed.error or Unavailable("the nodes answer, but none takes a request for a lock")
        time.sleep(_PAUSE_SECONDS)
        if not self._is_over():
            self._ask()

    def _confirmed(self) -> Acquired:
        """What was won, by a last request. A request that breaks off at the server gives back what
        it won, unless another one was made after it; now they can all be cancelled."""
        return self._claimant.asks()

    def _give_up(self) -> None:
        try:
            self._claimant.gives_up()
        except (StaleToken, NotFound):
            # It had nothing.
            pass

    def _is_last_piece(self) -> bool:
        return self._until is not None and self._requests[-1].ends_at >= self._until

    def _is_over(self, late: float = 0.0) -> bool:
        return self._until is not None and _now() >= self._until + late


def acquired(claimant: Claimant, until: Optional[float]) -> Optional[Acquired]:
    """Acquires a lock, or waits for it; ``None`` if it was not free by then."""
    try:
        # Without a wait at first: a free lock is one request, in this thread.
        return claimant.asks()
    except LockHeld:
        if until is not None and _now() >= until:
            return None
    return Wait(claimant, until).acquired()


def _now() -> float:
    return time.monotonic()
