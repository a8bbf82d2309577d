"""A partitioner whose ring always has the members that the coordinator remembers.

tooz's own lists the members and registers its watches after, so that who joins between the two is
never in its ring, and makes every later run of the watchers fail when it leaves. It also changes its
ring in place while other threads look keys up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, NamedTuple, Union

from tooz import coordination, hashring, partitioner, utils

from .encoding import to_bytes
from .members import unpacked

if TYPE_CHECKING:
    from .tooz_driver import RosterDriver

DEFAULT_PARTITION_NUMBER = partitioner.Partitioner.DEFAULT_PARTITION_NUMBER


Weights = Dict[bytes, int]


class _Built(NamedTuple):
    of: Weights
    ring: hashring.HashRing


class RosterPartitioner(partitioner.Partitioner):
    """Shares objects out among a group's members. Threads may look up while it changes."""

    def __init__(
        self, driver: RosterDriver, group_id: bytes, partitions: int = DEFAULT_PARTITION_NUMBER
    ) -> None:
        # Not tooz's own initialization: it is the one with the gap.
        self.partitions = partitions
        self.group_id = group_id
        self._coord: RosterDriver = driver
        with driver.watching(to_bytes(group_id)) as members:
            self._weights = {member: _weight(payload) for member, payload in members.items()}
            self._built = self._ring_of(self._weights)
            driver.watch_join_group(group_id, self._on_member_join)
            driver.watch_leave_group(group_id, self._on_member_leave)

    @property
    def ring(self) -> hashring.HashRing:  # type: ignore[override]
        """The ring of the members that are remembered. It is never changed: there is a new one."""
        weights = self._weights
        if self._built.of is not weights:
            # Many that come at once are one new ring.
            self._built = self._ring_of(weights)
        return self._built.ring

    def _on_member_join(self, event: coordination.MemberJoinedGroup) -> None:
        payload = self._coord.payload_seen(event.group_id, event.member_id)
        self._weights = {**self._weights, event.member_id: _weight(payload)}

    def _on_member_leave(self, event: coordination.MemberLeftGroup) -> None:
        left = event.member_id
        self._weights = {member: w for member, w in self._weights.items() if member != left}

    def _ring_of(self, weights: Weights) -> _Built:
        ring = hashring.HashRing([], partitions=self.partitions)
        for weight in sorted(set(weights.values())):
            ring.add_nodes(sorted(m for m, own in weights.items() if own == weight), weight)
        return _Built(weights, ring)


def _weight(payload: Union[bytes, None]) -> int:
    try:
        capabilities = unpacked(payload or b"")
    except utils.SerializationError:
        # Not of tooz: it takes part like anybody else.
        return 1
    weight = capabilities.get("weight", 1) if isinstance(capabilities, dict) else 1
    return weight if isinstance(weight, int) and weight >= 0 else 1
