"""A registration that stays, and the lease that it is."""

from __future__ import annotations

import enum
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, Mapping, NamedTuple, Optional

from .clock import lease_now
from .errors import Outcome, RosterError
from .shapes import Registered, Registration

if TYPE_CHECKING:
    from .client import Client

# Heartbeats are not sent more often than this, whatever a node says.
_HEARTBEAT_SECONDS_MIN = 0.01

# What one node gets to answer a heartbeat, at most and at least.
_ANSWER_SECONDS_MAX = 5.0
_ANSWER_SECONDS_MIN = 0.25

# Of the TTL: so much earlier than the cluster may a worker have to think that its lease is over.
_MARGIN = 0.1

# A life that nobody beats for is gone after so many TTLs: one, and another one if the leader changes
# meanwhile; and after this many seconds, for a new leader must be found first.
_TTLS_UNTIL_GONE = 2
_GONE_LATE_SECONDS_MAX = 10.0

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
    when it was *sent*, is younger than the TTL less ``margin`` (seconds; a tenth of the TTL, if not
    given). The margin is the time to stop all work in, and covers clocks of different rates. Work is
    of one life: who finds another :meth:`safe_incarnation` than it began with stops it too.
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
        self._adopted: Dict[str, int] = {}
        self._settled: Mapping[str, int] = {}
        self._error: Optional[RosterError] = None
        self._ended: Optional[Ended] = None
        self._unclear_until: Optional[float] = None
        self._stop = threading.Event()
        self._over = threading.Event()
        sent_at = lease_now()
        registered = client.register(app, instance, registration, takeover=takeover)
        self._registered = registered
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
        """App to the epoch that all live workers of its ring have adopted, as last heard."""
        return self._settled

    def adopt(self, app: str, epoch: int) -> None:
        """Says with every heartbeat from the next one on that this process has stopped work on all
        keys that it does not own under this epoch of the app's ring."""
        with self._lock:
            self._adopted[app] = max(epoch, self._adopted.get(app, 0))

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
            # A little earlier than asked for, so that many that began together spread out.
            every = max(self._registered.heartbeat_every, _HEARTBEAT_SECONDS_MIN)
            due_at = begun_at + every * random.uniform(0.9, 1.0)
            # At least a moment, also where the last one took all of its time.
            if self._stop.wait(max(due_at - lease_now(), _HEARTBEAT_SECONDS_MIN)):
                return Ended.STOPPED
            begun_at = lease_now()
            ended = self._beat(begun_at)
            if ended is not None:
                return ended

    def _beat(self, sent_at: float) -> Optional[Ended]:
        """One heartbeat, and what follows from its answer. Tries on several nodes count as sent when
        the first one was."""
        if self._unclear_until is not None:
            return self._register_again()
        known = self._registered
        every = max(known.heartbeat_every, _HEARTBEAT_SECONDS_MIN)
        # Half of the time for one node leaves time for another one before the TTL is over.
        share = max(min(every / 2, _ANSWER_SECONDS_MAX), _ANSWER_SECONDS_MIN)
        try:
            renewed = self._client.heartbeat(
                known.app,
                known.id,
                incarnation=known.incarnation,
                patience=max(every, share),
                share_min=share,
            )
        except RosterError as error:
            if error.code not in _GONE:
                return self._not_renewed(error)
            # What it held is somebody else's from here on.
            self._error = error
            self._set_lease(_Lease(known.incarnation, 0.0))
            return self._register_again()
        self._set_lease(_Lease(known.incarnation, self._safe_until(sent_at, renewed.ttl)))
        self._registered = replace(known, ttl=renewed.ttl, heartbeat_every=renewed.heartbeat_every)
        self._error = self._tell_adopted(max(every, share), share)
        return None

    def _set_lease(self, lease: _Lease) -> None:
        """Who asked to stop is not made safe again by an answer that was on its way."""
        with self._lock:
            over = self._stop.is_set()
            self._lease = lease._replace(safe_until=0.0) if over else lease

    def _tell_adopted(self, patience: float, share: float) -> Optional[RosterError]:
        """Gives back why it could not be told: the next heartbeat tells it again."""
        with self._lock:
            adopted = dict(self._adopted)
        if not adopted:
            return None
        try:
            renewed = self._client.session_heartbeat(
                self._registered.session, adopted, patience=patience, share_min=share
            )
        except RosterError as error:
            return error
        self._settled = renewed.settled
        return None

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
        self._registered = registered
        self._set_lease(self._lease_of(registered, sent_at))
        self._error = None
        # A fresh life has nothing to stop: it counts as having adopted the epoch of its join.
        with self._lock:
            self._adopted.clear()
        return None

    def _somebody_is_there(self, error: RosterError) -> Optional[Ended]:
        """Unless it may be a life of our own that nobody knows of: that goes by itself."""
        self._error = error
        if self._unclear_until is not None and lease_now() < self._unclear_until:
            return None
        return Ended.REPLACED

    def _not_renewed(self, error: RosterError) -> Optional[Ended]:
        self._error = error
        if error.code == "stale-incarnation":
            return Ended.REPLACED
        if error.retryable or error.outcome is Outcome.UNKNOWN:
            return None
        return Ended.REFUSED
