"""How nova comes to know this driver.

Nova picks its driver from a fixed table, by an option with fixed choices. Both must be added to before
the option is read, in every service. Nova has no door for that, but ``oslo.config``, which reads
``nova.conf``, has: ``config_source`` names groups whose ``driver`` is loaded by entry point while the
files are read. So these lines are all that is needed, and nothing of nova is changed on disk::

    [DEFAULT]
    config_source = roster
    servicegroup_driver = roster

    [roster]
    driver = roster
    endpoints = 10.0.0.1:7401,10.0.0.2:7401,10.0.0.3:7401

If it fails, ``servicegroup_driver = roster`` is refused as an unknown choice and the service does not
start: it never runs on another driver than the one it was given.

This module may be loaded before eventlet's monkey patching: it imports nothing that minds.
"""

from __future__ import annotations

import importlib
from typing import Any, List, Optional, Tuple

from oslo_config import cfg, sources

from . import options

NAME = "roster"
_DRIVER = "roster_openstack.servicegroup.driver.RosterDriver"
_OPTION = "servicegroup_driver"


def enable(conf: Optional[Any] = None) -> None:
    """Makes ``servicegroup_driver = roster`` known to the nova of this process; again is no harm.
    For programs that use nova without its ``nova.conf``; before ``servicegroup.API()`` is made."""
    api = importlib.import_module("nova.servicegroup.api")
    table = api._driver_name_class_mapping
    choices = importlib.import_module("nova.conf.servicegroup").SERVICEGROUP_OPTS[0].type.choices
    table[NAME] = _DRIVER
    choices[NAME] = "Roster ServiceGroup driver"
    options.register(api.CONF if conf is None else conf)


class _Nothing(sources.ConfigurationSource):
    """A source of settings that has none."""

    def get(
        self, group_name: Optional[str], option_name: str, opt: cfg.Opt
    ) -> Tuple[Any, Optional[cfg.LocationInfo]]:
        return sources._NoValue, None


class ConfigSource(sources.ConfigurationSourceDriver):
    """What ``driver = roster`` in a group of ``config_source`` loads."""

    def open_source_from_opt_group(
        self, conf: cfg.ConfigOpts, group_name: str
    ) -> sources.ConfigurationSource:
        # Others read nova.conf too: nova itself once before it has patched the process, to see
        # whether it is to. Nova must not be imported then.
        if _OPTION in conf:
            enable(conf)
        return _Nothing()

    def list_options_for_discovery(self) -> List[Any]:
        return []
