"""Durations as the API writes them: ``"10s"``, ``"500ms"``, ``"1m 30s"``. Here they are seconds."""

from __future__ import annotations

import math
import re

from .errors import InvalidRequest

_SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "h": 3_600.0,
    "d": 86_400.0,
    "day": 86_400.0,
    "days": 86_400.0,
}
_PART = re.compile(r"(\d+)(ms|s|m|h|days|day|d)\s*")


def parse_duration(text: str) -> float:
    """The seconds that a text stands for.

    Raises :class:`ValueError` if it is no duration."""
    seconds, end = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != end:
            break
        seconds += int(part.group(1)) * _SECONDS[part.group(2)]
        end = part.end()
    if not text or end != len(text):
        raise ValueError(f'{text!r} is no duration such as "10s" or "500ms"')
    return seconds


def format_duration(seconds: float) -> str:
    """The text of a span, in whole milliseconds.

    Raises :class:`InvalidRequest` for a negative or endless one."""
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidRequest(f"{seconds!r} seconds is no duration")
    milliseconds = round(seconds * 1_000)
    return f"{milliseconds // 1_000}s" if milliseconds % 1_000 == 0 else f"{milliseconds}ms"
