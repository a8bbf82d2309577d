"""What a process under eventlet does with a coordinator; run by a test, with the endpoints as
argument. Prints one JSON line. Everything runs in green threads of one process."""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import uuid  # noqa: E402
from typing import Any, List  # noqa: E402

from tooz import coordination  # noqa: E402


def started(member: bytes) -> Any:
    url = f"roster://{sys.argv[1]}/?timeout=5"
    coordinator = coordination.get_coordinator(url, member)
    coordinator.start(start_heart=True)
    return coordinator


def main() -> None:
    ticks: List[int] = []

    def tick() -> None:
        while True:
            ticks.append(1)
            time.sleep(0.01)

    eventlet.spawn(tick)
    name = uuid.uuid4().hex.encode()
    one, two = started(b"one"), started(b"two")
    partitioner = one.join_partitioned_group(name)
    two.join_partitioned_group(name)
    runs = [eventlet.spawn(one.run_watchers) for _ in range(5)]
    told = sum(len(run.wait()) for run in runs)
    held, wanted = one.get_lock(name), two.get_lock(name)
    held.acquire()
    waiter = eventlet.spawn(wanted.acquire)
    before, beats = len(ticks), one.heart.beats
    while one.heart.beats < beats + 1:
        time.sleep(0.01)
    ticked = len(ticks) > before
    held.release()
    won = waiter.wait()
    members = sorted(member.decode() for member in partitioner.ring.nodes)
    for coordinator in (one, two):
        coordinator.stop()
    print(json.dumps({"members": members, "told": told, "ticked": ticked, "won": won}))


main()
