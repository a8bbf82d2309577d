"""When the next heartbeat is due: pure, chance and times are arguments.

A fleet that starts, or loses its cluster, or is told another pace, must not beat as one from then on. So
after a beginning, after failures, and where heartbeats are wanted more often than before, the first pause
is a random part of the usual one, which spreads those who began together evenly. Later pauses vary by a
tenth, so that what chance or a stall brings together drifts apart."""

from __future__ import annotations

import math
from typing import Optional

EVERY_SECONDS_MIN = 0.01
"""Heartbeats are not sent more often than this, whatever a node says."""

EVERY_SECONDS_MAX = 24 * 60 * 60.0
"""Nor more seldom than this, which is the longest TTL there is: no clock waits for just any time."""

RETRY_AFTER_SECONDS_MAX = 30.0
"""No node's ``Retry-After`` is followed beyond this."""

# A pause is at most so much shorter or longer than asked for.
_JITTER = 0.1

# The first pause is at least this part of the usual one.
_FIRST_MIN = 0.1

# An answer that took longer than this part of the usual time came to many at one moment, as at the end of
# an outage.
_LATE_PART = 0.1

# A heartbeat that nobody answered is followed by the next one within this part of the usual time, and
# within so many seconds: an outage that ends is noticed soon, whatever the TTL. Each further one may take
# twice as long, up to the usual time.
_FIRST_RETRY_PART = 0.1
_FIRST_RETRY_SECONDS_MAX = 1.0

# Of the time for which the lease is safe yet, no pause takes more than this part after a failure, whatever
# a node asks for: one more try is made while it counts. Once that time is over, no pause takes more than so
# many of the usual ones, which is half of the TTL: a new leader gives every lease its TTL, so who comes that
# soon is heard while that counts.
_SAFE_PART = 0.5
_FAILING_PAUSES_MAX = 1.5


class Rhythm:
    """The rhythm of one kept registration or session; begins with the answer to a registration, which
    says after how many seconds a heartbeat is wanted. All times are in seconds."""

    def __init__(self, every: float) -> None:
        self._every = _bounded(every)
        # How often before the last answer said otherwise.
        self._before = self._every
        self._fresh = True
        self._failures = 0
        self._retry_after: Optional[float] = None

    @property
    def every(self) -> float:
        """How often nodes want to hear of it."""
        return self._every

    @property
    def is_failing(self) -> bool:
        """Whether nobody acknowledged the last heartbeat."""
        return self._failures > 0

    def answered(self, every: float, took: float) -> None:
        """A heartbeat was answered after it ``took`` so long, and the next ones are wanted so often."""
        sooner = _bounded(every) < self._every
        self._fresh = sooner or self.is_failing or took > self._every * _LATE_PART
        self._before, self._every = self._every, _bounded(every)
        self._failures, self._retry_after = 0, None

    def failed(self, retry_after: Optional[float] = None) -> None:
        """Nobody acknowledged it; the last node may have said when to come back."""
        self._failures += 1
        self._retry_after = retry_after

    def pause(self, safe_for: float, chance: float) -> float:
        """How long to wait before the next one: after an answer counted from when that heartbeat was
        sent, after a failure from now. The lease is safe for ``safe_for`` yet; ``chance`` is evenly
        spread over 0 to 1."""
        if self._failures:
            pause = self._after_failures(safe_for, chance)
        elif self._fresh:
            pause = self._every * (_FIRST_MIN + chance * (1.0 - _FIRST_MIN))
        else:
            # What lies behind the digits that choose the turn.
            drift = math.fmod(chance * 1_000.0, 1.0)
            pause = self._turn(chance) * (1.0 - _JITTER + 2.0 * _JITTER * drift)
        return max(pause, EVERY_SECONDS_MIN)

    def _turn(self, chance: float) -> float:
        """Those who are told to come half as often must not all leave out the same turn: each waits for
        another number of the turns that it used to take."""
        turns = max(math.ceil(self._every / self._before), 1)
        return min(self._before * (math.floor(chance * turns) + 1), self._every)

    def _after_failures(self, safe_for: float, chance: float) -> float:
        """A random part of a limit that doubles. What a node asked for comes first, and a part of the
        limit on top, since it asks many for the same."""
        first = min(self._every * _FIRST_RETRY_PART, _FIRST_RETRY_SECONDS_MAX)
        limit = min(first * (1 << min(self._failures - 1, 16)), self._every)
        pause = min(self._retry_after or 0.0, RETRY_AFTER_SECONDS_MAX) + limit * chance
        most = self._every * _FAILING_PAUSES_MAX
        if safe_for <= 0 and pause > most:
            # Many who may not wait for as long as they were asked to do not come back as one either.
            return most * (0.5 + chance / 2)
        return min(pause, safe_for * _SAFE_PART) if safe_for > 0 else pause


def _bounded(every: float) -> float:
    return min(max(every, EVERY_SECONDS_MIN), EVERY_SECONDS_MAX)
