"""The driver that nova calls."""

from __future__ import annotations

import datetime
import functools
import logging
import os
import random
from typing import Any, List, Mapping, Optional

import nova.conf
from nova import exception, version
from nova.servicegroup import api
from nova.servicegroup.drivers import base
from oslo_config import cfg
from oslo_utils import timeutils
from roster_client import InvalidRequest, Registration, RosterError

from . import options, process
from .group import GroupUnknown
from .presence import Member, Presence

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class ServiceGroupUnavailable(exception.ServiceUnavailable):  # type: ignore[misc]
    """Nobody can tell which services are up. It is not said of them that they are down. Nova shows
    its text to users, so the reason, with Roster's addresses, is only its cause, and in the log."""

    msg_fmt = "It cannot be told at this time which services are up."
    code = 503


class RosterDriver(base.Driver):  # type: ignore[misc]
    """Nova's service groups on Roster; see :mod:`roster_openstack.servicegroup`.

    Raises :class:`oslo_config.cfg.ConfigFileValueError` for settings that cannot be meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._settings = options.read(CONF)
        try:
            self._process()
        except InvalidRequest as error:
            raise cfg.ConfigFileValueError(f"[roster] endpoints: {error}") from error

    def join(self, member: str, group: str, service: Any = None) -> None:
        """Registers the service ``service`` of the host ``member`` at once, and renews it from the
        service's timer. Where Roster does not answer, the service starts all the same, and the
        timer goes on trying."""
        if service is None:
            raise RuntimeError("service is a mandatory argument for the Roster ServiceGroup driver")
        if not service.report_interval:
            LOG.warning(
                "The service %s on host %s has no report_interval: it does not report and is down "
                "for all who ask.",
                group,
                member,
            )
            return
        here = self._process()
        presence = here.presence(member)
        joined = here.member(member, group, self._registration(member, group, service))
        if self._settings.leave_on_stop:
            _leave_after_stop(service, presence, joined)
        self._report_state(service, presence, joined)
        service.tg.add_timer_args(
            service.report_interval,
            self._report_state,
            args=[service, presence, joined],
            # As nova's own drivers; but what was registered just now must not expire before.
            initial_delay=min(api.INITIAL_REPORTING_DELAY, service.report_interval),
        )

    def leave(self, member: str, group: str) -> None:
        """Ends what this process joined: the host is down at once unless other processes of it are
        in the group. Nothing happens if it did not join."""
        here = self._process()
        joined = here.joined(member, group)
        if joined is not None:
            _leave(here.presence(member), joined)

    def is_up(self, service_ref: Mapping[str, Any]) -> bool:
        """Whether any process of the service's host is in its group. Asks nobody.

        Raises :class:`ServiceGroupUnavailable` if that cannot be told."""
        group, host = service_ref["topic"], service_ref["host"]
        try:
            up = self._process().group(group).is_up(host)
        except GroupUnknown as error:
            raise ServiceGroupUnavailable() from error
        if not up:
            LOG.debug("Seems service %s on host %s is down", service_ref.get("binary"), host)
        return up

    def updated_time(self, service_ref: Mapping[str, Any]) -> Optional[datetime.datetime]:
        """When the service was last heard of, or its row last changed, whichever is later; in UTC.
        The first may be up to 5 s behind what the cluster knows."""
        in_row = _in_utc(service_ref["updated_at"])
        heard = self._process().times(service_ref["topic"]).of(service_ref["host"])
        if heard is None or in_row is None:
            return heard or in_row
        return max(heard, in_row)

    get_updated_time = updated_time

    def get_all(self, group: str) -> List[str]:
        """The hosts of a group that are up, by name.

        Raises :class:`ServiceGroupUnavailable` if that cannot be told."""
        try:
            return self._process().group(group).hosts()
        except GroupUnknown as error:
            raise ServiceGroupUnavailable() from error

    def get_one(self, group: str) -> Optional[str]:
        """Any one of :meth:`get_all`; ``None`` if there is none or that cannot be told."""
        try:
            hosts = self.get_all(group)
        except ServiceGroupUnavailable:
            return None
        return random.choice(hosts) if hosts else None

    def _process(self) -> process.Process:
        return process.of(self._settings)

    def _registration(self, host: str, group: str, service: Any) -> Registration:
        return Registration(
            ip=CONF.my_ip,
            port=0,
            hostname=host,
            version=version.version_string_with_package(),
            zone=self._zone(group),
            metadata={
                "servicegroup": "nova",
                "binary": str(service.binary),
                "topic": group,
                "host": host,
                "pid": str(os.getpid()),
            },
        )

    def _zone(self, group: str) -> str:
        if self._settings.zone is not None:
            return self._settings.zone
        if group == "compute":
            return str(CONF.default_availability_zone)
        return str(CONF.internal_service_availability_zone)

    def _report_state(self, service: Any, presence: Presence, member: Member) -> None:
        """Never raises: that would end the timer. A loss and its end are logged once each."""
        patience = min(self._settings.timeout, float(service.report_interval))
        try:
            registered = presence.beat(member, patience)
        except Exception as error:
            if not getattr(service, "model_disconnected", False):
                service.model_disconnected = True
                told = isinstance(error, RosterError)
                LOG.warning(
                    "Lost connection to Roster for reporting service status: %s",
                    error if told else repr(error),
                    exc_info=not told,
                )
            return
        if registered:
            LOG.info("Joined the service group %s as %s", member.app, member.id)
        if getattr(service, "model_disconnected", False):
            service.model_disconnected = False
            LOG.info("Recovered connection to Roster for reporting service status.")


def _leave_after_stop(service: Any, presence: Presence, member: Member) -> None:
    """Once the service has stopped, and not when it begins to: until then it finishes its work and
    is up for those who wait for that. Stopping is the only moment that every way of running a
    service passes: workers end without the interpreter's exit handlers."""
    stop = service.stop

    @functools.wraps(stop)
    def stop_and_leave(*args: Any, **kwargs: Any) -> Any:
        try:
            return stop(*args, **kwargs)
        finally:
            _leave(presence, member)

    service.stop = stop_and_leave


def _leave(presence: Presence, member: Member) -> None:
    try:
        presence.leave(member)
    except RosterError as error:
        LOG.warning(
            "Could not leave the service group %s as %s (%s): down after service_down_time",
            member.app,
            member.id,
            error,
        )


def _in_utc(time: object) -> Optional[datetime.datetime]:
    """The time of a row; over RPC it comes as text."""
    if isinstance(time, str):
        time = timeutils.parse_isotime(time)
    if not isinstance(time, datetime.datetime):
        return None
    if time.tzinfo is None:
        return time.replace(tzinfo=datetime.timezone.utc)
    return time.astimezone(datetime.timezone.utc)
