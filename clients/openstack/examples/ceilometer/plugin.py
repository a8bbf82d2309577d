"""A pollster and a discovery for ceilometer's polling agents: what an agent polls, it writes down.

``POLLED_FILE`` names the file, one JSON object per line: ``{"cycle": <Unix seconds>}`` where a cycle
begins, ``{"polled": [...]}`` for what was polled in it, if anything was. ``RESOURCES_FILE`` names one
with a resource in each line, read anew in each cycle.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, Iterable, List, Optional

from ceilometer.polling import plugin_base


class Discovery(plugin_base.DiscoveryBase):  # type: ignore[misc]
    """All resources that there are; ceilometer keeps of them what belongs to the agent."""

    def discover(self, manager: Any, param: Optional[str] = None) -> List[str]:
        # ceilometer asks for it once in each cycle, before anything is polled.
        note({"cycle": time.time()})
        with open(os.environ["RESOURCES_FILE"], encoding="utf-8") as lines:
            return lines.read().split()


class Pollster(plugin_base.PollsterBase):  # type: ignore[misc]
    """Notes what is polled; there are no samples."""

    @property
    def default_discovery(self) -> str:
        return "roster_example"

    def get_samples(self, manager: Any, cache: Any, resources: Iterable[Any]) -> Iterable[Any]:
        note({"polled": sorted(map(str, resources))})
        return []


def note(what: Dict[str, Any]) -> None:
    with open(os.environ["POLLED_FILE"], "a", encoding="utf-8") as lines:
        lines.write(json.dumps(what) + "\n")
