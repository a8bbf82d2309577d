"""The replicated side of a ring, as small as it can be: it makes the descriptions that the vectors
only tell by their operations."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple


class RingModel:
    def __init__(self, group: str, seed: int, replicas: int) -> None:
        self.group, self.seed, self.replicas, self.epoch = group, seed, replicas, 0
        self.slots: List[str] = []  # "" is vacant
        self.holes: List[Tuple[int, str]] = []

    def apply(self, index: int, operations: List[List[Any]]) -> bool:
        changes = [self._operation(*operation) for operation in operations]
        if any(changes):
            self.epoch = index
        return any(changes)

    def describe(self) -> Dict[str, Any]:
        workers = sorted(self._weights().items(), key=lambda worker: worker[0].encode())
        places = {worker: place for place, (worker, _) in enumerate(workers)}
        return {
            "v": 1,
            "kind": "jump-probe-1",
            "group": self.group,
            "epoch": self.epoch,
            "seed": self.seed,
            "replicas": self.replicas,
            "workers": [[worker, weight] for worker, weight in workers],
            "slots": [places.get(worker, -1) for worker in self.slots],
        }

    def _operation(self, name: str, *arguments: Any) -> bool:
        if name == "join":
            return self._join(*arguments)
        if name == "leave":
            return self._vacate(arguments[0], self._weights().get(arguments[0], 0))
        assert name == "compact", name
        return self._compact()

    def _weights(self) -> Dict[str, int]:
        return {worker: self.slots.count(worker) for worker in self.slots if worker}

    def _join(self, worker: str, weight: int) -> bool:
        old = self._weights().get(worker, 0)
        others = sum(self._weights().values()) - old
        if not 1 <= weight <= 1024 or others + weight > 1 << 20 or weight == old:
            return False
        for _ in range(weight - old):
            self._take(worker)
        return self._vacate(worker, old - weight) or weight > old

    def _take(self, worker: str) -> None:
        own = [place for place, (_, last) in enumerate(self.holes) if last == worker]
        if own or self.holes:
            slot, _ = self.holes.pop(own[-1] if own else 0)
            self.slots[slot] = worker
        else:
            self.slots.append(worker)

    def _vacate(self, worker: str, count: int) -> bool:
        if count <= 0:
            return False
        held = [slot for slot, holder in enumerate(self.slots) if holder == worker]
        for slot in held[-count:]:
            self.slots[slot] = ""
            self.holes.append((slot, worker))
        return True

    def _compact(self) -> bool:
        changed = bool(self.holes)
        held = sum(1 for worker in self.slots if worker)
        while "" in self.slots[:held]:
            highest = max(slot for slot, worker in enumerate(self.slots) if worker)
            lowest = self.slots.index("")
            self.slots[lowest], self.slots[highest] = self.slots[highest], ""
        self.slots, self.holes = self.slots[:held], []
        return changed
