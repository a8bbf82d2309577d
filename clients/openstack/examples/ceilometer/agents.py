"""ceilometer's own polling agents, each a process, with the example's pollster in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

HERE = Path(__file__).resolve().parent

_ENTRY_POINTS = """\
[ceilometer.discover.central]
roster_example = roster_ceilometer_example:Discovery

[ceilometer.poll.central]
roster.example = roster_ceilometer_example:Pollster
"""

_METADATA = "Metadata-Version: 2.1\nName: roster-ceilometer-example\nVersion: 1.0\n"


class Agents:
    """A folder with what agents need, and the agents that were started in it."""

    def __init__(
        self,
        folder: Path,
        url: str,
        resources: Sequence[str],
        *,
        interval: int = 1,
        static: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._url = url
        self._started: Dict[str, Agent] = {}
        self.set_resources(resources)
        self._write_plugin()
        self._write_configuration(interval, static)

    def set_resources(self, resources: Sequence[str]) -> None:
        """What the discovery finds from now on."""
        new = self.folder / "resources.new"
        new.write_text("".join(f"{resource}\n" for resource in resources))
        new.replace(self.folder / "resources")

    def _write_plugin(self) -> None:
        site = self.folder / "site"
        about = site / "roster_ceilometer_example-1.0.dist-info"
        about.mkdir(parents=True)
        (site / "roster_ceilometer_example.py").write_text((HERE / "plugin.py").read_text())
        (about / "METADATA").write_text(_METADATA)
        (about / "entry_points.txt").write_text(_ENTRY_POINTS)

    def _write_configuration(self, interval: int, static: Sequence[str]) -> None:
        source = {
            "name": "example",
            "interval": interval,
            "meters": ["roster.example"],
            "discovery": ["roster_example"],
            "resources": list(static),
        }
        (self.folder / "polling.yaml").write_text(json.dumps({"sources": [source]}))
        (self.folder / "ceilometer.conf").write_text(
            f"""\
[DEFAULT]
pollsters_definitions_dirs = {self.folder}/none
[coordination]
backend_url = {self._url}
[polling]
cfg_file = {self.folder}/polling.yaml
enable_notifications = false
[service_credentials]
auth_type = none
"""
        )

    def start(self, name: str) -> Agent:
        """Starts an agent. Its output and what it polls are in files of its name."""
        agent = Agent(self.folder, name)
        self._started[name] = agent
        return agent

    def stop_all(self) -> None:
        """Leaves no process behind."""
        for agent in self._started.values():
            agent.kill()


class Cycle(NamedTuple):
    """One polling cycle of an agent."""

    began: float
    """Unix seconds."""
    polled: List[str]


def shares(running: Sequence[Agent], began: float) -> Optional[Dict[str, List[str]]]:
    """What each agent polled in its last cycle, if all of these began after a time."""
    last: Dict[str, List[str]] = {}
    for agent in running:
        cycles = agent.cycles()
        if not cycles or cycles[-1].began < began:
            return None
        last[agent.name] = cycles[-1].polled
    return last


class Agent:
    """A process with ceilometer's polling manager."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._polled = folder / f"{name}.polled"
        self._polled.touch()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            # ceilometer names the group of static resources by their hash, which must be one in all.
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Entry points that were found are kept there.
            "XDG_CACHE_HOME": str(folder / "cache"),
            "POLLED_FILE": str(self._polled),
            "RESOURCES_FILE": str(folder / "resources"),
        }
        with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "agent.py"), str(folder / "ceilometer.conf")],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def cycles(self) -> List[Cycle]:
        """Its cycles that have ended, in order."""
        cycles: List[Cycle] = []
        for line in self._polled.read_text().rpartition("\n")[0].splitlines():
            noted = json.loads(line)
            if "cycle" in noted:
                cycles.append(Cycle(noted["cycle"], []))
            else:
                cycles[-1].polled.extend(noted["polled"])
        # The last one may go on still.
        return cycles[:-1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, patience: Optional[float] = 30.0) -> int:
        """Asks it to stop, and gives its exit code."""
        self.process.terminate()
        return self.process.wait(patience)

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
