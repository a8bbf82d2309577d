"""The clock by which a lease is measured."""

from __future__ import annotations

import sys
import time


def lease_now() -> float:
    """Seconds that never jump. Where the system can tell, they go on while the machine sleeps: the
    cluster does not wait for it, so a lease must not look fresh to who was suspended."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
