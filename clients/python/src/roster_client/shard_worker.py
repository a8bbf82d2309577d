"""Work on the shards that one worker of a shard set holds."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Protocol, Sequence, Set, Tuple

from .errors import Outcome, RosterError, Unavailable
from .shapes import Released, WorkerView
from .transport import Pauses

if TYPE_CHECKING:
    from .client import Client

_log = logging.getLogger(__name__)

# How often a lease that can run out is looked at, at least.
_LOOK_SECONDS_MAX = 1.0
_LOOK_SECONDS_MIN = 0.02

# How often is looked whether a lease that is over has been renewed.
_UNSAFE_SECONDS = 0.1

# A node may answer a long poll at once where it cannot know; then so long is waited for the next.
_EARLY_SECONDS = 1.0

# Nodes take no longer releases.
_RELEASES_MAX = 10_000

# A stop that raises while the lease is over is tried again after so long, then after twice as long
# each time, up to the largest.
_STOP_AGAIN_SECONDS_MIN = 0.2
_STOP_AGAIN_SECONDS_MAX = 5.0


# Answers that say that there is nothing to work on: what runs may be granted to others by now.
_HOLDS_NOTHING = ("unknown-shard-set", "unknown-instance", "unknown-app")


class Lease(Protocol):
    """What makes work exclusive; a :class:`KeepAlive` is one."""

    def safe_incarnation(self) -> Optional[int]:
        """The life of the worker that is safe now; ``None`` if none is."""

    def safe_for(self) -> float:
        """For how many seconds it is; 0 if it is not."""


@dataclass
class _Trouble:
    """What ``start`` and ``stop`` have raised for a shard since one of them last went well."""

    told: Set[Tuple[str, str]] = field(default_factory=set)
    """What was logged: the act, and the kind of error."""
    pause: float = 0.0
    stop_again_at: float = 0.0
    """When the guard may try again, by the monotonic clock."""

    def is_new(self, act: str, error: Exception) -> bool:
        kind = (act, type(error).__qualname__)
        if kind in self.told:
            return False
        self.told.add(kind)
        return True

    def put_off(self) -> None:
        self.pause = min(max(self.pause * 2, _STOP_AGAIN_SECONDS_MIN), _STOP_AGAIN_SECONDS_MAX)
        self.stop_again_at = time.monotonic() + self.pause


class ShardWorker:
    """Starts the shards that a worker is granted and stops those that it must let go.

    ``worker`` is the id of an instance in the set's app of workers, and ``lease`` what keeps it
    registered. ``start(shard, grant)`` begins the work on a shard, and ``stop(shard)`` returns when it
    has ended. Both must be quick (begin a thread, do not work in it): they are called one at a time,
    and all shards must be stopped within the lease's margin. ``grant`` is a fencing token: attach it
    to each outside effect.

    All work stops when the lease is not safe any more, or is of another life than the one that was
    granted the shards. What ``start`` or ``stop`` raises is logged, once per shard and kind of error
    until it goes well; the shard counts as not started, or as still running and not to be let go, and
    is tried again.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        worker: str,
        *,
        start: Callable[[str, int], None],
        stop: Callable[[str], None],
        lease: Lease,
        wait: float = 10.0,
    ) -> None:
        self.error: Optional[RosterError] = None
        """Why the last call failed; ``None`` if it did not."""
        self._client = client
        self._name = name
        self._worker = worker
        self._start_shard = start
        self._stop_shard = stop
        self._lease = lease
        self._wait = wait
        # Held while start or stop is called, and over all that is kept about the running shards.
        self._lock = threading.RLock()
        self._running: Dict[str, int] = {}
        self._life: Optional[int] = None
        # What was let go, with the grant: it is not begun again under that one.
        self._let_go: Dict[str, int] = {}
        self._troubles: Dict[str, _Trouble] = {}
        # The life and the epoch of the newest view that was acted on.
        self._seen: Optional[Tuple[int, int]] = None
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=f"roster-shards-{role}-{name}", daemon=True)
            for run, role in ((self._follow, "follow"), (self._guard, "guard"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> Dict[str, int]:
        """The shards that are worked on, with their grants."""
        with self._lock:
            return dict(self._running)

    def stop(self) -> None:
        """Stops the work on all shards; nothing is started after this. They are still held: leave
        next (:meth:`KeepAlive.leave`), which frees them at once."""
        self._stopped.set()
        with self._lock:
            self._stop_all()

    def _guard(self) -> None:
        """Stops everything when the lease is over, whatever the other thread waits for."""
        while not self._stopped.is_set():
            with self._lock:
                if self._lease.safe_incarnation() == self._life:
                    # The next time that it is over, nothing is put off.
                    for trouble in self._troubles.values():
                        trouble.pause = trouble.stop_again_at = 0.0
                else:
                    self._stop_what_is_due()
            pause = min(max(self._lease.safe_for(), _LOOK_SECONDS_MIN), _LOOK_SECONDS_MAX)
            self._stopped.wait(pause)

    def _stop_what_is_due(self) -> None:
        """Stops what runs; a shard whose ``stop`` has raised is put off for a while, and no other one
        is: it may have been started since."""
        now = time.monotonic()
        put_off = {s for s, trouble in self._troubles.items() if trouble.stop_again_at > now}
        due = [shard for shard in self._running if shard not in put_off]
        if any(shard not in self._troubles for shard in due):
            _log.warning("the lease of %s is over: stopping all shards", self._worker)
        for shard in due:
            if not self._stop_one(shard):
                self._troubles[shard].put_off()

    def _follow(self) -> None:
        pauses = Pauses(1)
        known: Optional[int] = None
        while not self._stopped.is_set():
            # Before the question: an answer is only good for the life that asked.
            life = self._lease.safe_incarnation()
            if life is None:
                known = None
                self._stopped.wait(_UNSAFE_SECONDS)
                continue
            begun_at = time.monotonic()
            try:
                view = self._ask(known)
                done = self._carry_out(view, life)
                self.error = None
            except RosterError as error:
                self.error = error
                known = None
                if error.code in _HOLDS_NOTHING:
                    self._stop_what_goes(WorkerView(0, self._worker, (), 0), life)
                self._stopped.wait(pauses.after_failure(error.retry_after))
                continue
            if not done:
                # Ask again what there is, but not in a tight loop.
                known = None
                self._stopped.wait(pauses.after_failure())
                continue
            pauses.reset()
            if view.revision == known:
                self._stopped.wait(max(0.0, _EARLY_SECONDS - (time.monotonic() - begun_at)))
            known = view.revision

    def _ask(self, known: Optional[int]) -> WorkerView:
        """What there is; after what is known, if anything is."""
        if known is None:
            return self._client.worker_view(self._name, self._worker)
        return self._client.worker_view(self._name, self._worker, index=known, wait=self._wait)

    def _carry_out(self, view: WorkerView, life: int) -> bool:
        """Does what a view asks for; gives whether all of it was done.

        Raises why not all that must be let go was: all else has been done by then."""
        if self._seen is not None and self._seen[0] == life and view.epoch < self._seen[1]:
            # From before what is known: it may list what others hold by now.
            return False
        self._seen = (life, view.epoch)
        self._forget(view)
        stopped = self._stop_what_goes(view, life)
        # Before the release, which may take long and fail.
        started = self._start_what_came(view, life)
        self._release(view)
        return started and stopped

    def _forget(self, view: WorkerView) -> None:
        """What is not shown any more need not be remembered."""
        with self._lock:
            shown = {held.shard: held.grant for held in view.shards}
            self._let_go = {s: g for s, g in self._let_go.items() if shown.get(s) == g}
            known = shown.keys() | self._running.keys()
            self._troubles = {s: t for s, t in self._troubles.items() if s in known}

    def _stop_what_goes(self, view: WorkerView, life: int) -> bool:
        with self._lock:
            if self._life != life:
                self._stop_all()
                if self._running:
                    return False
                self._life = life
                self._let_go.clear()
            kept = {held.shard: held.grant for held in view.shards if not held.release}
            going = [shard for shard, grant in self._running.items() if kept.get(shard) != grant]
        return all([self._stop_one(shard) for shard in going])

    def _release(self, view: WorkerView) -> None:
        """Lets go, in as few calls as may be, all that must go and is not worked on; again what was
        let go and is shown still: the move may have been called off while the release was on its
        way, which counts all the same whenever it arrives."""
        with self._lock:
            going: List[Tuple[str, int]] = [
                (held.shard, held.grant)
                for held in view.shards
                if (held.release or held.shard in self._let_go) and held.shard not in self._running
            ]
            self._let_go.update(going)
        results: List[Released] = []
        for first in range(0, len(going), _RELEASES_MAX):
            piece = going[first : first + _RELEASES_MAX]
            results += self._client.release(self._name, self._worker, piece)
        _check_released(going, results)

    def _start_what_came(self, view: WorkerView, life: int) -> bool:
        with self._lock:
            let_go = set(self._let_go)
        wanted = [held for held in view.shards if not held.release and held.shard not in let_go]
        return all([self._start_one(held.shard, held.grant, life) for held in wanted])

    def _start_one(self, shard: str, grant: int, life: int) -> bool:
        """Gives whether the shard is worked on under this grant."""
        with self._lock:
            if shard in self._running:
                return self._running[shard] == grant
            safe = self._life == life == self._lease.safe_incarnation()
            if self._stopped.is_set() or not safe:
                return False
            # Before the call: it may stop this worker.
            self._running[shard] = grant
            try:
                self._start_shard(shard, grant)
            except Exception as error:
                self._log_once("started", shard, error)
                self._running.pop(shard, None)
                return False
            self._troubles.pop(shard, None)
            return True

    def _stop_one(self, shard: str) -> bool:
        with self._lock:
            if shard not in self._running:
                return True
            try:
                self._stop_shard(shard)
            except Exception as error:
                self._log_once("stopped", shard, error)
                return False
            del self._running[shard]
            self._troubles.pop(shard, None)
            return True

    def _log_once(self, act: str, shard: str, error: Exception) -> None:
        if self._troubles.setdefault(shard, _Trouble()).is_new(act, error):
            message = "shard %s could not be %s; it is tried again, the same error not logged again"
            _log.error(message, shard, act, exc_info=error)

    def _stop_all(self) -> None:
        for shard in list(self._running):
            self._stop_one(shard)


def _check_released(asked: Sequence[Tuple[str, int]], results: Sequence[Released]) -> None:
    """Raises if a shard may still be held: it is to be let go again."""
    answers = {result.shard: result for result in results}
    for shard, _ in asked:
        answer = answers.get(shard)
        # What is answered stale-token is not held any more: that is what was wanted.
        if answer is None or answer.code not in ("", "stale-token"):
            code, why = (answer.code, answer.detail) if answer else ("", "the answer leaves it out")
            detail = f"shard {shard} was not let go: {why}"
            raise Unavailable(detail, code=code, outcome=Outcome.UNKNOWN, retryable=True)
