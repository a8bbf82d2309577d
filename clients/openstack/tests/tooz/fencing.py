"""One of several processes that write under a lock; run by a test.

Arguments: endpoints, lock, file, how many times. Under the lock it reads the file twice, some time
apart, and appends its token: nobody may have written between."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import tooz
from tooz import coordination


def main() -> None:
    endpoints, name, file, times = sys.argv[1:]
    coordinator = coordination.get_coordinator(f"roster://{endpoints}/?timeout=5", b"process")
    coordinator.start(start_heart=True)
    lock = coordinator.get_lock(name.encode())
    done = 0
    while done < int(times):
        try:
            if not lock.acquire(timeout=5):
                continue
        except tooz.ToozError:
            # The cluster elects a leader.
            time.sleep(0.05)
            continue
        if write(Path(file), lock.token):  # type: ignore[attr-defined]
            done += 1
        try:
            lock.release()
        except tooz.ToozError:
            time.sleep(0.05)
    coordinator.stop()


def write(file: Path, token: int) -> bool:
    before = file.read_text()
    time.sleep(0.005)
    if file.read_text() != before:
        sys.exit(f"somebody wrote while token {token} held the lock")
    with file.open("a") as lines:
        lines.write(f"{token}\n")
    return True


main()
