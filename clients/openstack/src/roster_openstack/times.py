"""Times of the API, as both drivers read them."""

from __future__ import annotations

import datetime
from typing import Optional


def time_of(text: object) -> Optional[datetime.datetime]:
    """A time such as ``2026-11-22T07:53:36.902Z``; ``None`` for what is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
