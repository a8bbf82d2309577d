"""A client of Roster: who is here, and who does what.

- :class:`Client`: the calls, each on whichever node answers it; locks and elections among them
- :class:`KeepAlive`: a registration that stays, and whether its lease is safe
- :class:`RingView`, :class:`RingWatcher`: who owns a key, computed here
- :class:`ShardWorker`: work on the shards that this process is granted
- :class:`Watch`: every change, in order, once

Threads are plain ``threading``, so that all of it runs under eventlet's monkey patching too.
"""

from .client import Client
from .errors import (
    Compacted,
    Conflict,
    Forbidden,
    InvalidRequest,
    LockHeld,
    NotFound,
    Outcome,
    PreconditionFailed,
    RingError,
    RosterError,
    StaleToken,
    TooLarge,
    Unavailable,
    UnexpectedAnswer,
)
from .keep_alive import Ended, KeepAlive
from .ring import RingView
from .ring_watcher import RingWatcher
from .shapes import (
    Acquired,
    Campaigned,
    Candidate,
    ElectionView,
    Held,
    KeyOwners,
    LockHolder,
    LockView,
    ManyOwners,
    Owner,
    Registered,
    Registration,
    Released,
    Renewed,
    Session,
    WorkerView,
)
from .shard_worker import Lease, ShardWorker
from .transport import Answer, Call, Cancellation, path
from .watch import Event, Watch

__all__ = [
    "Acquired",
    "Answer",
    "Call",
    "Campaigned",
    "Cancellation",
    "Candidate",
    "Client",
    "Compacted",
    "Conflict",
    "ElectionView",
    "Ended",
    "Event",
    "Forbidden",
    "Held",
    "InvalidRequest",
    "KeepAlive",
    "KeyOwners",
    "Lease",
    "LockHeld",
    "LockHolder",
    "LockView",
    "ManyOwners",
    "NotFound",
    "Outcome",
    "Owner",
    "PreconditionFailed",
    "Registered",
    "Registration",
    "Released",
    "Renewed",
    "RingError",
    "RingView",
    "RingWatcher",
    "RosterError",
    "Session",
    "ShardWorker",
    "StaleToken",
    "TooLarge",
    "Unavailable",
    "UnexpectedAnswer",
    "Watch",
    "WorkerView",
    "path",
]
