"""The settings in ``nova.conf``, group ``[roster]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from oslo_config import cfg

GROUP = "roster"

# Where a node's API listens unless told otherwise.
_PORT_DEFAULT = 7400

_HOST_ALONE = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")

OPTIONS: List[Any] = [
    cfg.ListOpt(
        "endpoints",
        default=[],
        help="The API addresses of Roster's nodes, such as 10.0.0.1:7400,10.0.0.2:7400,"
        "10.0.0.3:7400. A port that is not given is 7400. The next one is tried where one does not "
        "answer.",
    ),
    cfg.StrOpt(
        "prefix",
        default="nova.",
        help="What the names of the groups begin with in Roster: the group compute is the app "
        "nova.compute. The same in all services of a cloud; another one for each region that "
        "shares a Roster with others. It may be empty.",
    ),
    cfg.StrOpt(
        "zone",
        help="The zone that this host's services are shown in by Roster. Not given: "
        "default_availability_zone for nova-compute, internal_service_availability_zone for "
        "others, as nova does for hosts that are in no aggregate with a zone. Nova does not read "
        "it.",
    ),
    cfg.BoolOpt(
        "leave_on_stop",
        default=True,
        help="A service that was stopped is down at once. With false it is down after "
        "service_down_time, as with nova's own drivers: a quick restart is not seen then.",
    ),
    cfg.FloatOpt(
        "timeout",
        default=5.0,
        min=0.5,
        help="Seconds for one call to Roster, all nodes together.",
    ),
]


@dataclass(frozen=True)
class Settings:
    """What a driver goes by. Times are seconds."""

    endpoints: Tuple[str, ...]
    prefix: str
    zone: Optional[str]
    leave_on_stop: bool
    timeout: float
    service_down_time: float
    report_interval: float

    def app(self, group: str) -> str:
        """The app of a group."""
        return f"{self.prefix}{group}"


def list_opts() -> List[Tuple[str, List[Any]]]:
    """For oslo.config's generator of sample files."""
    return [(GROUP, OPTIONS)]


def register(conf: Any) -> None:
    """Makes the settings known; again is no harm."""
    conf.register_opts(OPTIONS, group=GROUP)


def read(conf: Any) -> Settings:
    """The settings of a service.

    Raises :class:`oslo_config.cfg.ConfigFileValueError` where Roster's addresses are missing."""
    register(conf)
    given: Dict[str, Any] = {option.dest: conf[GROUP][option.dest] for option in OPTIONS}
    if not given["endpoints"]:
        raise cfg.ConfigFileValueError(
            "servicegroup_driver = roster needs the addresses of Roster's nodes: set endpoints in "
            "[roster], such as endpoints = 10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400"
        )
    given["endpoints"] = tuple(map(with_port, given["endpoints"]))
    return Settings(
        **given,
        # Nova has seen to it that it is longer than the interval.
        service_down_time=float(conf.service_down_time),
        report_interval=float(conf.report_interval or 0),
    )


def with_port(address: str) -> str:
    """An address with the port that a host alone stands for; what is no address stays as it is."""
    return f"{address}:{_PORT_DEFAULT}" if _HOST_ALONE.fullmatch(address) else address
