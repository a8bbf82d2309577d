"""What a process under eventlet does with the client; run by a test, with the endpoints as argument.

Prints one JSON line. Everything runs in green threads of one process."""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import List  # noqa: E402

from roster_client import Client, Registration, RingWatcher  # noqa: E402


def main() -> None:
    ticks: List[int] = []

    def tick() -> None:
        while True:
            ticks.append(1)
            time.sleep(0.01)

    eventlet.spawn(tick)
    client = Client(sys.argv[1])
    keep = client.keep_alive("pay", "a", Registration(ip="10.0.0.1", port=8719))
    watcher = RingWatcher(client, "fetchers")
    view = watcher.wait_for(timeout=20)
    changed = watcher.wait_for(9, timeout=20)
    watch = client.watch(from_revision=4)
    event = next(watch)
    before = len(ticks)
    eventlet.spawn_after(0.1, watch.close)
    rest = len(list(watch))
    ticked = len(ticks) > before
    watcher.stop()
    safe = keep.is_safe()
    keep.leave()
    epochs = [view.epoch if view else None, changed.epoch if changed else None]
    print(
        json.dumps({"epochs": epochs, "id": event.id, "rest": rest, "safe": safe, "ticked": ticked})
    )


main()
