"""Who owns a key: a pure function from a ring's description and the key's bytes.

A :class:`RingView` is made from what ``GET /v1/apps/{app}/ring`` answers. It never changes, so threads
share it without a lock. Every language computes the same owners, to the bit.
"""

from __future__ import annotations

import heapq
from typing import Any, List, Mapping, Optional, Tuple, Union

from .errors import InvalidRequest, RingError
from .xxh64 import xxh64

Key = Union[str, bytes]
"""Text stands for its UTF-8 bytes, exactly as given."""

KIND = "jump-probe-1"
REPLICAS_MAX = 16
WEIGHT_MAX = 1_024
SLOTS_MAX = 1 << 20

_MASK = 0xFFFFFFFFFFFFFFFF
_GAMMA = 0x9E3779B97F4A7C15
_JUMP_STEP = 2862933555777941757
_NUMBER_END = 1 << 53
_PROBES = 8
_VACANT = -1


def mix64(z: int) -> int:
    """The output function of SplitMix64."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def jump(h: int, buckets: int) -> int:
    """Jump consistent hash: a bucket of 0..buckets-1 for a 64-bit number; there is at least one."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        h = (h * _JUMP_STEP + 1) & _MASK
        # First the division, then the multiplication, each rounded to a double: anything else
        # differs for some keys.
        quotient = 2147483648.0 / ((h >> 33) + 1)
        following = int((bucket + 1) * quotient)
    return bucket


def key_bytes(key: Key) -> bytes:
    """The bytes that are hashed for a key.

    Raises :class:`InvalidRequest` for text that has no UTF-8 encoding (half a surrogate pair)."""
    if isinstance(key, bytes):
        return key
    try:
        return key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the key {key!r} has no UTF-8 encoding: {error}") from error


class RingView:
    """One epoch of a ring. Build it with :meth:`from_description`.

    ``group`` is the app, ``epoch`` the revision of the ring's last change, ``replicas`` how many owners
    a key has by default, ``workers`` the pairs of id and weight in the order of the ids' bytes.
    """

    __slots__ = ("group", "epoch", "seed", "replicas", "workers", "_slots", "_hashes")

    group: str
    epoch: int
    seed: int
    replicas: int
    workers: Tuple[Tuple[str, int], ...]

    def __init__(
        self,
        group: str,
        epoch: int,
        seed: int,
        replicas: int,
        workers: Tuple[Tuple[str, int], ...],
        slots: Tuple[int, ...],
    ) -> None:
        self.group = group
        self.epoch = epoch
        self.seed = seed
        self.replicas = replicas
        self.workers = workers
        self._slots = slots
        self._hashes = [xxh64(worker.encode("utf-8"), seed) for worker, _ in workers]

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> RingView:
        """Reads a description; fields that are not known are passed over.

        Raises :class:`RingError` if it breaks any rule: a wrong owner is worse than none."""
        if not isinstance(description, Mapping):
            raise _refused("it is not an object")
        if _number(description, "v") != 1:
            raise _refused(f"v is {description['v']}, and this client knows 1 only")
        if description.get("kind") != KIND:
            raise _refused(
                f"kind is {description.get('kind')!r}, and this client knows {KIND!r} only"
            )
        group = description.get("group")
        if not isinstance(group, str):
            raise _refused("group is no text")
        epoch, seed = _number(description, "epoch"), _number(description, "seed")
        replicas = _number(description, "replicas")
        if not 1 <= replicas <= REPLICAS_MAX:
            raise _refused(f"replicas is {replicas}, not 1 to {REPLICAS_MAX}")
        workers = _workers(description.get("workers"))
        slots = _slots(description.get("slots"), workers)
        return cls(group, epoch, seed, replicas, workers, slots)

    def owner(self, key: Key) -> Optional[str]:
        """The worker that owns a key; ``None`` if there are no workers."""
        place = self._owner(xxh64(key_bytes(key), self.seed))
        return None if place is None else self.workers[place][0]

    def owners(self, key: Key, replicas: Optional[int] = None) -> List[str]:
        """The workers that hold copies of a key, the owner first; fewer if there are fewer workers.

        Raises :class:`InvalidRequest` if ``replicas`` is not 1 to 16."""
        wanted = self.replicas if replicas is None else checked_replicas(replicas)
        h = xxh64(key_bytes(key), self.seed)
        owner = self._owner(h)
        if owner is None:
            return []
        others = (place for place in range(len(self.workers)) if place != owner)
        copies = heapq.nsmallest(wanted - 1, others, key=lambda place: self._rank(h, place))
        return [self.workers[place][0] for place in (owner, *copies)]

    def owns(self, worker_id: str, key: Key) -> bool:
        """Whether this worker is the owner of a key, not only a holder of a copy."""
        return self.owner(key) == worker_id

    def __repr__(self) -> str:
        return (
            f"RingView(group={self.group!r}, epoch={self.epoch}, replicas={self.replicas}, "
            f"workers={len(self.workers)})"
        )

    def _owner(self, h: int) -> Optional[int]:
        """The place of the owner among the workers."""
        if not self.workers:
            return None
        for probe in range(_PROBES):
            number = mix64((h + _GAMMA * probe) & _MASK) if probe else h
            worker = self._slots[jump(number, len(self._slots))]
            if worker != _VACANT:
                return worker
        return min(range(len(self.workers)), key=lambda place: self._rank(h, place))

    def _rank(self, h: int, place: int) -> Tuple[int, int]:
        """Smaller is better: the higher score, then the smaller id."""
        base = self._hashes[place]
        weight = self.workers[place][1]
        tokens = (mix64((base + _GAMMA * copy) & _MASK) for copy in range(weight))
        return -max(mix64(h ^ token) for token in tokens), place


def checked_replicas(replicas: int) -> int:
    """Gives back a number of copies that can be asked for.

    Raises :class:`InvalidRequest` if it is not 1 to 16."""
    if not 1 <= replicas <= REPLICAS_MAX:
        raise InvalidRequest(f"{replicas} replicas cannot be asked for, only 1 to {REPLICAS_MAX}")
    return replicas


def _refused(why: str) -> RingError:
    return RingError(f"the ring's description cannot be used: {why}")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(description: Mapping[str, Any], name: str) -> int:
    value = description.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _NUMBER_END:
        raise _refused(f"{name} is {value!r}, not an integer of 0 to 2^53-1")
    return value


def _workers(listed: object) -> Tuple[Tuple[str, int], ...]:
    if not isinstance(listed, (list, tuple)):
        raise _refused("workers is no list")
    workers = tuple(_worker(entry) for entry in listed)
    ids = [worker.encode("utf-8") for worker, _ in workers]
    for before, after in zip(ids, ids[1:]):
        if before >= after:
            raise _refused(f"worker {after!r} comes after {before!r}, which is not ascending")
    return workers


def _worker(entry: object) -> Tuple[str, int]:
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        raise _refused(f"worker {entry!r} is no pair of id and weight")
    worker, weight = entry
    if not isinstance(worker, str) or not worker or not _is_utf8(worker):
        raise _refused(f"worker id {worker!r} is no text of at least one character")
    if not _is_number(weight) or not 1 <= weight <= WEIGHT_MAX:
        raise _refused(f"the weight of worker {worker!r} is {weight!r}, not 1 to {WEIGHT_MAX}")
    return worker, weight


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _slots(listed: object, workers: Tuple[Tuple[str, int], ...]) -> Tuple[int, ...]:
    if not isinstance(listed, (list, tuple)):
        raise _refused("slots is no list")
    if len(listed) > SLOTS_MAX:
        raise _refused(f"{len(listed)} slots are over the limit of {SLOTS_MAX}")
    held = [0] * len(workers)
    for slot, place in enumerate(listed):
        if not _is_number(place) or not _VACANT <= place < len(workers):
            raise _refused(f"slot {slot} names worker {place!r} of {len(workers)}")
        if place != _VACANT:
            held[place] += 1
    for (worker, weight), slots in zip(workers, held):
        if weight != slots:
            raise _refused(f"worker {worker!r} of weight {weight} holds {slots} slots")
    return tuple(listed)
