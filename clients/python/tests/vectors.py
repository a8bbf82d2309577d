"""The vectors that every implementation of the ring is held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

PATH = Path(__file__).parent / "../../../storage/tests/vectors/ring.json"
VECTORS: Dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))


def key_of(entry: Dict[str, str]) -> bytes:
    return bytes.fromhex(entry["hex"]) if "hex" in entry else entry["utf8"].encode("utf-8")


KEYS: List[bytes] = [key_of(entry) for entry in VECTORS["keys"]]
