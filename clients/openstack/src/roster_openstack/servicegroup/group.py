"""One group as this process follows it: a thread that watches, and one that checks.

The watch alone cannot tell how old what it says is: a node that is cut off from the others goes on
with its bookmarks. So the check asks, and a majority of the nodes must answer, whether anything has
happened after what the copy has; nearly always one small answer says no.
"""

from __future__ import annotations

import datetime
import logging
import threading
from typing import Callable, Dict, List, NamedTuple, Optional

from roster_client import Call, Client, Event, RosterError, Watch
from roster_client.clock import lease_now

from ..times import time_of
from .local_copy import LocalCopy, host_of

LOG = logging.getLogger(__name__)

# Who asks first waits so long for the list, counted from the very first question.
FIRST_LIST_SECONDS_MAX = 5.0

# Checks come so often: a few of them may fail before the copy is too old.
_CHECKS_PER_LIMIT = 6
_CHECK_SECONDS_MAX = 10.0

# While somebody may wait for the first list.
_FIRST_CHECKS_SECONDS = 0.05

# What one node gets to answer a check: the others must have their turn before the copy is too old.
_CHECK_SHARE_SECONDS = 0.5

# A watch that has told nothing for so long of what has happened is on a node that hangs.
_BEHIND_SECONDS_MAX = 2.0

_PAUSE_SECONDS = 1.0

# The times of renewals are asked for no more often, and at least this often while somebody asks.
_TIMES_SECONDS_MAX = 5.0

# Who wants a time waits so long at most for the cluster; after a failure it is not asked for a while,
# so that nobody waits again.
TIMES_PATIENCE_SECONDS = 2.0
_TIMES_PAUSE_SECONDS = 30.0


class GroupUnknown(Exception):
    """Nobody can tell who is in the group: it is not known, or was for too long not known to be
    true."""


class _Behind(NamedTuple):
    position: int
    since: float


class Group:
    """A group, followed from when this is made. ``limit`` is for how many seconds the copy is
    believed without a check."""

    def __init__(self, client: Client, app: str, limit: float) -> None:
        self.app = app
        self._client = client
        self._limit = limit
        self._copy = LocalCopy()
        self._error: Optional[Exception] = None
        self._told_unknown = False
        self._watch: Optional[Watch] = None
        self._behind: Optional[_Behind] = None
        self._check_now = threading.Event()
        self._first_list = threading.Event()
        self._closed = threading.Event()
        self._wait_until = lease_now() + FIRST_LIST_SECONDS_MAX
        self._start(self._follow, "watch")
        self._start(self._check_again_and_again, "check")

    def is_up(self, host: str) -> bool:
        """Whether a process of this host is in the group.

        Raises :class:`GroupUnknown`, also after the first wait for the list."""
        self._believed()
        return self._copy.is_up(host)

    def hosts(self) -> List[str]:
        """All hosts that are up; raises as :meth:`is_up`."""
        self._believed()
        return self._copy.hosts()

    def close(self) -> None:
        """Ends both threads, soon."""
        self._closed.set()
        self._check_now.set()
        self._end_watch()

    def _believed(self) -> None:
        age = self._copy.age(lease_now())
        if age is None:
            self._first_list.wait(max(self._wait_until - lease_now(), 0.0))
            age = self._copy.age(lease_now())
        if age is not None and age <= self._limit:
            self._told_once(unknown=False, what=f"The service group {self.app} is known again")
            return
        known = "was never listed" if age is None else f"was last known {age:.0f} s ago"
        reason = f": {self._error}" if self._error is not None else ""
        what = f"The service group {self.app} {known}{reason}"
        self._told_once(unknown=True, what=what)
        raise GroupUnknown(what)

    def _told_once(self, unknown: bool, what: str) -> None:
        """A loss and its end are logged once each, however many ask meanwhile."""
        if self._told_unknown is not unknown:
            self._told_unknown = unknown
            LOG.log(logging.ERROR if unknown else logging.INFO, "%s", what)

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread_name = f"roster-{name}-{self.app}"
        threading.Thread(target=work, name=thread_name, daemon=True).start()

    def _follow(self) -> None:
        while not self._closed.is_set():
            try:
                self._watch = self._client.watch(apps=[self.app], kinds=["instance"])
                if self._closed.is_set():
                    return
                for event in self._watch:
                    self._take(event)
            except RosterError as error:
                self._error = error
                self._closed.wait(_PAUSE_SECONDS)
            except Exception as error:
                # A thread that ended would let the copy grow old for ever.
                LOG.exception("Unexpected error while watching the service group %s", self.app)
                self._error = error
                self._closed.wait(_PAUSE_SECONDS)

    def _take(self, event: Event) -> None:
        self._copy.take(event)
        if event.event == "snapshot-end":
            self._check_now.set()
        if not self._first_list.is_set():
            self._tell_who_waits()

    def _tell_who_waits(self) -> bool:
        known = self._copy.age(lease_now()) is not None
        if known:
            self._first_list.set()
        return known

    def _check_again_and_again(self) -> None:
        usual = min(self._limit / _CHECKS_PER_LIMIT, _CHECK_SECONDS_MAX)
        while not self._closed.is_set():
            self._check_now.wait(usual if self._tell_who_waits() else _FIRST_CHECKS_SECONDS)
            self._check_now.clear()
            try:
                self._check()
            except RosterError as error:
                self._error = error
            except Exception as error:
                LOG.exception("Unexpected error while checking the service group %s", self.app)
                self._error = error

    def _check(self) -> None:
        position = self._copy.position
        if position is None or self._closed.is_set():
            return
        asked_at = lease_now()
        answer = self._client.send(
            Call(
                "GET",
                "/v1/changes",
                query=[("app", self.app), ("kind", "instance"), ("index", position)],
                patience=min(self._limit, _CHECK_SECONDS_MAX),
                share_min=_CHECK_SHARE_SECONDS,
            )
        ).json()
        self._error = None
        if answer["changed"]:
            self._copy.behind(answer["revision"], asked_at)
            self._look_for_a_hanging_watch(position)
        else:
            self._copy.same_at(asked_at)
            self._behind = None

    def _look_for_a_hanging_watch(self, position: int) -> None:
        now = lease_now()
        if self._behind is None or self._behind.position != position:
            self._behind = _Behind(position, now)
        elif now - self._behind.since > _BEHIND_SECONDS_MAX:
            self._behind = None
            self._end_watch()

    def _end_watch(self) -> None:
        """The next one begins where calls are answered."""
        watch = self._watch
        if watch is not None:
            watch.close()


class RenewalTimes:
    """When each host of a group was last heard of, by the cluster's clock. The whole group is asked
    for at once, and again only when a question comes after ``every`` seconds, or after a longer pause
    where the cluster did not answer. Questions wait for ``client``, so its timeout is short."""

    def __init__(self, client: Client, app: str, every: float) -> None:
        self._client = client
        self._app = app
        self._every = min(every, _TIMES_SECONDS_MAX)
        self._lock = threading.Lock()
        self._asked_at: Optional[float] = None
        self._pause = self._every
        # Also of hosts that are gone: when they were last heard of stays true.
        self._times: Dict[str, datetime.datetime] = {}

    def of(self, host: str) -> Optional[datetime.datetime]:
        """In UTC; ``None``: nothing is known of this host. What was known is told while the cluster
        cannot be asked."""
        if self._due():
            # One asks; who has something to tell meanwhile does not wait.
            if self._lock.acquire(blocking=self._asked_at is None):
                try:
                    if self._due():
                        self._ask()
                finally:
                    self._lock.release()
        return self._times.get(host)

    def _due(self) -> bool:
        return self._asked_at is None or lease_now() - self._asked_at >= self._pause

    def _ask(self) -> None:
        times: Dict[str, datetime.datetime] = {}
        self._pause = _TIMES_PAUSE_SECONDS
        try:
            for instance in self._client.instances(self._app, heartbeats=True):
                heard = time_of(instance.get("last_heartbeat"))
                host = host_of(instance["id"], instance)
                if heard is not None:
                    times[host] = max(heard, times.get(host, heard))
            self._times = {**self._times, **times}
            self._pause = self._every
        except RosterError as error:
            LOG.debug("The times of the service group %s cannot be told: %s", self._app, error)
        finally:
            # Also where it failed: the next row must not wait for it again.
            self._asked_at = lease_now()
