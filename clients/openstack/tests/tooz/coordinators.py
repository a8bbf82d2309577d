"""Coordinators on a real cluster, and what they ask it."""

from __future__ import annotations

import uuid
from typing import Any, Iterator, List, Tuple, Type

import pytest
import urllib3
from tooz import coordination

from roster_client import Client
from roster_openstack.tooz_driver import RosterDriver

from ..cluster import ENDPOINT


def fresh(what: str) -> bytes:
    return f"{what}-{uuid.uuid4().hex}".encode()


class Coordinators:
    """Makes coordinators, and stops them at the end."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = Client(endpoint)
        self._made: List[RosterDriver] = []

    def __call__(self, member: Any = None, **options: Any) -> RosterDriver:
        driver = coordination.get_coordinator(
            f"roster://{self.endpoint}/", member or fresh("member"), **options
        )
        assert isinstance(driver, RosterDriver)
        driver.start()
        self._made.append(driver)
        return driver

    def lose_session(self, driver: RosterDriver) -> None:
        """Ends a coordinator's session behind its back, as the cluster does with one that is
        silent."""
        self.client.close_session(driver.session().id)

    def stop(self) -> None:
        for driver in self._made:
            if driver.is_started:
                driver.stop()
        self.client.close()


@pytest.fixture
def coordinators() -> Iterator[Coordinators]:
    made = Coordinators(ENDPOINT)
    try:
        yield made
    finally:
        made.stop()


Requests = List[Tuple[str, str]]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Method and target of every request that this process sends."""
    sent: Requests = []
    send = urllib3.HTTPConnectionPool.urlopen

    def noted(pool: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        sent.append((method, url))
        return send(pool, method, url, *arguments, **named)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", noted)
    return sent


class Noted:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self.events: List[Any] = []
        self.__name__ = "noted"

    def __call__(self, event: Any) -> int:
        self.events.append(event)
        return len(self.events)

    def members(self, kind: Type[Any]) -> List[bytes]:
        return [event.member_id for event in self.events if isinstance(event, kind)]
