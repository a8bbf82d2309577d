"""A registration that stays, and the lease that it is."""

from __future__ import annotations

import enum
import math
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Mapping, NamedTuple, Optional

from .clock import lease_now
from .errors import InvalidRequest, Outcome, RosterError
from .rhythm import EVERY_SECONDS_MIN, Rhythm
from .shapes import Registered, Registration

if TYPE_CHECKING:
    from .client import Client

# While an adopted epoch is not settled, heartbeats are sent so often: each answer may be the one that
# says that it is. But not for longer than somebody who died may be waited for: who lives and adopts
# nothing may never do so.
_UNSETTLED_SECONDS = 0.2
_TTLS_UNSETTLED = 2

# What one node gets to answer a heartbeat, at most and at least.
_ANSWER_SECONDS_MAX = 5.0
_ANSWER_SECONDS_MIN = 0.25

# Of the TTL: so much earlier than the cluster may a worker have to think that its lease is over.
_MARGIN = 0.2

# A life that nobody beats for is gone after so many TTLs: one, and another one if the leader changes
# meanwhile; and after this many seconds, for a new leader must be found first.
_TTLS_UNTIL_GONE = 2
_GONE_LATE_SECONDS_MAX = 10.0

# An instance that the cluster does not know any more is registered again within so many seconds, and
# within the time between two heartbeats: those who were lost together do not come back at one moment.
_AGAIN_SECONDS_MAX = 1.0

# The cluster does not know the instance.
_GONE = ("unknown-instance", "unknown-app", "unknown-session")


class Ended(enum.Enum):
    """Why heartbeats have ended."""

    STOPPED = "stopped"
    """:meth:`KeepAlive.stop` or :meth:`KeepAlive.leave` was called."""
    REPLACED = "replaced"
    """Another life of the same id took over, or began after this one had expired: stay away."""
    REFUSED = "refused"
    """The cluster does not take this instance any more; see :attr:`KeepAlive.error`."""


class _Adopted(NamedTuple):
    """Swapped whole, so that readers take no lock."""

    epoch: int
    told_at: float


class _Lease(NamedTuple):
    """Swapped whole, so that readers take no lock."""

    incarnation: int
    safe_until: float


class KeepAlive:
    """Registers an instance when it is made (raises what :meth:`Client.register` raises) and sends
    heartbeats from a thread, as often as the nodes ask for.

    - An instance that expired meanwhile is registered again, but only if nobody else has registered
      it by then: two processes must not keep one life.
    - ``stale-incarnation`` ends the heartbeats for good: somebody took over.

    **Exclusive work** may be done while :meth:`is_safe`: the last answered heartbeat, counted from
    when it was *sent*, is younger than the TTL less ``margin`` (seconds; a fifth of the TTL, if not
    given). The margin is the time to stop all work in, and covers clocks of different rates. Work is
    of one life: who finds another :meth:`safe_incarnation` than it began with stops it too.

    **A member of its app's ring** has more to do, and none of it is done here: stop the work on the
    keys that a new ring takes away, then :meth:`adopt` its epoch, and begin on the keys that it gives
    once :attr:`settled` has reached that epoch.
    """

    def __init__(
        self,
        client: Client,
        app: str,
        instance: str,
        registration: Registration,
        *,
        takeover: bool = False,
        margin: Optional[float] = None,
    ) -> None:
        self._client = client
        self._registration = registration
        self._margin = margin
        self._lock = threading.Lock()
        self._adopted: Optional[_Adopted] = None
        self._settled: Mapping[str, int] = {}
        self._error: Optional[RosterError] = None
        self._ended: Optional[Ended] = None
        self._unclear_until: Optional[float] = None
        self._stop = threading.Event()
        # Set with a stop, and with an adoption, which is told at once.
        self._wake = threading.Event()
        self._over = threading.Event()
        sent_at = lease_now()
        registered = client.register(app, instance, registration, takeover=takeover)
        self._registered = registered
        self._rhythm = Rhythm(registered.heartbeat_every)
        # The cluster said that it does not know it.
        self._gone = False
        self._lease = self._lease_of(registered, sent_at)
        self._thread = threading.Thread(
            target=self._run, name=f"roster-keep-alive-{app}/{instance}", daemon=True
        )
        self._thread.start()

    @property
    def registered(self) -> Registered:
        """The answer to the last registration; its ``heartbeat_every`` is kept up to date."""
        return self._registered

    @property
    def error(self) -> Optional[RosterError]:
        """Why the last heartbeat was not answered; ``None`` if it was."""
        return self._error

    @property
    def ended(self) -> Optional[Ended]:
        """Why no more heartbeats are sent; ``None`` while they are."""
        return self._ended

    @property
    def settled(self) -> Mapping[str, int]:
        """The instance's app to the newest epoch that all live workers of its ring are known to have
        adopted. Empty until something was adopted here and a heartbeat was answered; it never goes
        back."""
        return self._settled

    def adopt(self, app: str, epoch: int) -> None:
        """Says that this instance has stopped work on all keys that it does not own under this epoch
        of its app's ring: at once, and with every heartbeat from then on. Until it is
        :attr:`settled`, heartbeats are sent each 200 ms, but for two TTLs at most.

        It speaks for this instance alone, also where others hang off the same session: each has a
        :class:`KeepAlive` and an adoption of its own. Raises :class:`InvalidRequest` for another app:
        no instance is on the ring of an app that is not its own."""
        own = self._registered.app
        if app != own:
            raise InvalidRequest(
                f"an instance of {own!r} cannot adopt a ring of {app!r}: it is not on it; "
                "adopt with what keeps the instance of that app alive"
            )
        with self._lock:
            if self._adopted is not None and epoch <= self._adopted.epoch:
                return
            self._adopted = _Adopted(epoch, lease_now())
        self._wake.set()

    def is_safe(self) -> bool:
        """Whether the cluster cannot have given this instance's work to somebody else."""
        return self.safe_incarnation() is not None

    def safe_incarnation(self) -> Optional[int]:
        """The life that is safe now; ``None`` if none is."""
        lease = self._lease
        return lease.incarnation if lease_now() < lease.safe_until else None

    def safe_for(self) -> float:
        """For how many seconds the lease is safe if no other heartbeat is answered; 0 if it is not."""
        return max(0.0, self._lease.safe_until - lease_now())

    def wait_ended(self, timeout: Optional[float] = None) -> Optional[Ended]:
        """Waits until no more heartbeats are sent, and tells why; ``None`` after the timeout."""
        self._over.wait(timeout)
        return self._ended

    def stop(self) -> None:
        """Ends the heartbeats, so that the instance expires. Returns when no more are on the way."""
        self._stop.set()
        self._wake.set()
        self._set_lease(self._lease)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def leave(self) -> None:
        """Ends the heartbeats and removes the instance, but never a successor; that it is gone
        already is no error. Stop the work before.

        Raises a :class:`RosterError` if it may still be there: then it expires."""
        self.stop()
        if self._ended is Ended.REPLACED:
            return
        known = self._registered
        try:
            self._client.deregister(known.app, known.id, incarnation=known.incarnation)
        except RosterError as error:
            if error.code not in _GONE and error.code != "stale-incarnation":
                raise

    def _lease_of(self, registered: Registered, sent_at: float) -> _Lease:
        return _Lease(registered.incarnation, self._safe_until(sent_at, registered.ttl))

    def _safe_until(self, sent_at: float, ttl: float) -> float:
        margin = ttl * _MARGIN if self._margin is None else self._margin
        return sent_at + ttl - margin

    def _run(self) -> None:
        try:
            self._ended = self._beat_until_the_end()
        finally:
            self._stop.set()
            self._set_lease(self._lease)
            self._over.set()

    def _beat_until_the_end(self) -> Ended:
        begun_at = lease_now()
        while True:
            # At least a moment, also where the last one took all of its time.
            self._wake.wait(max(self._pause(begun_at), EVERY_SECONDS_MIN))
            # Before it is looked at what there is to do: who sets it later wakes the next wait.
            self._wake.clear()
            if self._stop.is_set():
                return Ended.STOPPED
            begun_at = lease_now()
            ended = self._beat(begun_at)
            if ended is not None:
                return ended

    def _pause(self, begun_at: float) -> float:
        """How many seconds from now the next heartbeat, or registration, is sent; the last one was at
        ``begun_at``."""
        rhythm, chance = self._rhythm, random.random()
        if rhythm.is_failing:
            return rhythm.pause(self.safe_for(), chance)
        if self._gone:
            return min(rhythm.every, _AGAIN_SECONDS_MAX) * chance
        most = _UNSETTLED_SECONDS if self._waits_for_others() else math.inf
        return begun_at + min(rhythm.pause(self.safe_for(), chance), most) - lease_now()

    def _waits_for_others(self) -> bool:
        """Whether an adopted epoch may yet be settled."""
        known, adopted = self._registered, self._adopted
        if adopted is None or adopted.epoch <= self._settled.get(known.app, 0):
            return False
        return lease_now() - adopted.told_at < known.ttl * _TTLS_UNSETTLED

    def _beat(self, sent_at: float) -> Optional[Ended]:
        """One heartbeat, and what follows from its answer. Tries on several nodes count as sent when
        the first one was."""
        if self._gone or self._unclear_until is not None:
            return self._register_again()
        known, every = self._registered, self._rhythm.every
        # Half of the time for one node leaves time for another one before the TTL is over.
        share = max(min(every / 2, _ANSWER_SECONDS_MAX), _ANSWER_SECONDS_MIN)
        adopted = self._adopted
        try:
            renewed = self._client.heartbeat(
                known.app,
                known.id,
                incarnation=known.incarnation,
                adopted=None if adopted is None else adopted.epoch,
                patience=max(every, share),
                share_min=share,
            )
        except RosterError as error:
            if error.code not in _GONE:
                return self._not_renewed(error)
            # What it held is somebody else's from here on.
            self._error = error
            self._set_lease(_Lease(known.incarnation, 0.0))
            self._gone = True
            return None
        self._set_lease(_Lease(known.incarnation, self._safe_until(sent_at, renewed.ttl)))
        self._registered = replace(known, ttl=renewed.ttl, heartbeat_every=renewed.heartbeat_every)
        self._rhythm.answered(renewed.heartbeat_every, lease_now() - sent_at)
        self._settle(renewed.settled)
        self._error = None
        return None

    def _set_lease(self, lease: _Lease) -> None:
        """Who asked to stop is not made safe again by an answer that was on its way."""
        with self._lock:
            over = self._stop.is_set()
            self._lease = lease._replace(safe_until=0.0) if over else lease

    def _settle(self, settled: Mapping[str, int]) -> None:
        """What was settled once stays so: a new leader may only not know of it yet."""
        known = self._settled
        newer = {app: max(epoch, known.get(app, 0)) for app, epoch in settled.items()}
        self._settled = {**known, **newer}

    def _register_again(self) -> Optional[Ended]:
        known = self._registered
        sent_at = lease_now()
        try:
            registered = self._client.register(
                known.app, known.id, self._registration, if_absent=True
            )
        except RosterError as error:
            if error.code == "instance-exists":
                return self._somebody_is_there(error)
            if error.outcome is Outcome.UNKNOWN:
                gone_after = known.ttl * _TTLS_UNTIL_GONE + _GONE_LATE_SECONDS_MAX
                self._unclear_until = sent_at + gone_after
            return self._not_renewed(error)
        self._unclear_until = None
        self._gone = False
        self._registered = registered
        self._rhythm = Rhythm(registered.heartbeat_every)
        self._set_lease(self._lease_of(registered, sent_at))
        self._error = None
        # What was adopted stays: it may have been told while the answer was on its way, of the ring
        # that this life is on. An epoch of an earlier life is not the ring's newest any more, and
        # the cluster takes up no other.
        return None

    def _somebody_is_there(self, error: RosterError) -> Optional[Ended]:
        """Unless it may be a life of our own that nobody knows of: that goes by itself."""
        self._error = error
        if self._unclear_until is not None and lease_now() < self._unclear_until:
            self._rhythm.failed(error.retry_after)
            return None
        return Ended.REPLACED

    def _not_renewed(self, error: RosterError) -> Optional[Ended]:
        self._error = error
        if error.code == "stale-incarnation":
            return Ended.REPLACED
        if error.retryable or error.outcome is Outcome.UNKNOWN:
            self._rhythm.failed(error.retry_after)
            return None
        return Ended.REFUSED
