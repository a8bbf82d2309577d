"""tooz's coordination on Roster: groups are apps, members are instances, and all that one coordinator
has (memberships, locks, candidacies) hangs off one session.

- A quiet :meth:`RosterDriver.run_watchers` is one small request, whatever the number of groups.
- A coordinator whose session was lost opens another one, joins its groups again with the same
  capabilities and stands again for what it stood for; its locks are lost, and say so.
- Threads may share a coordinator, also green ones.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, TypeVar, Union

import tooz
from tooz import coordination, partitioner, utils

from roster_client import Client, NotFound, RosterError

from . import members as stored
from .election import Elections
from .encoding import Ids, encode, to_bytes
from .errors import callback_named, translated
from .locks import RosterLock
from .members import Groups
from .partition import DEFAULT_PARTITION_NUMBER, RosterPartitioner
from .presence import Presence, not_started
from .session import CALL_SECONDS, Session
from .times import time_of
from .url import Settings, settings_of
from .watchers import Watched

LOG = logging.getLogger(__name__)

T = TypeVar("T")

# What one node gets at least, where many are named.
_SHARE_SECONDS_MIN = 0.5

# Of a heartbeat's interval: tooz's heart beats at half of what it is told.
_BEATS_PER_INTERVAL = 2

# A heartbeat comes at most so much sooner or later than the cluster asks for.
_JITTER = 0.1

# What is left for the end of the session of a stop that had to wait for the heart.
_CLOSE_SECONDS_MIN = 0.3


class RosterDriver(
    coordination.CoordinationDriverCachedRunWatchers,
    coordination.CoordinationDriverWithExecutor,
):
    """A coordinator.

    The URL names the nodes, and the next one is tried where one does not answer::

        roster://host1:7400,host2:7400,host3:7400/?timeout=15

    ``roster+https`` speaks TLS, for a proxy in front of the nodes. Options, besides tooz's own
    ``executor``:

    =========  =======  ====================================================================
    Name       Default  Meaning
    =========  =======  ====================================================================
    timeout    15       seconds, from 1: who is not heard of for so long is gone, with its
                        locks and leaderships
    namespace           what names of groups and locks begin with on the server, to keep
                        deployments apart that share a cluster
    ca_cert             file with the certificates to trust, instead of the system's
    cert_cert           file with the certificate to show
    cert_key            file with its key
    verify     true     ``false``: believe any certificate
    =========  =======  ====================================================================
    """

    CHARACTERISTICS = (
        coordination.Characteristics.DISTRIBUTED_ACROSS_THREADS,
        coordination.Characteristics.DISTRIBUTED_ACROSS_PROCESSES,
        coordination.Characteristics.DISTRIBUTED_ACROSS_HOSTS,
        coordination.Characteristics.LINEARIZABLE,
    )

    def __init__(
        self, member_id: Union[str, bytes], parsed_url: Any, options: Dict[str, Any]
    ) -> None:
        super().__init__(to_bytes(member_id), parsed_url, options)
        self._settings = settings_of(parsed_url, utils.collapse(options))
        self.ids = Ids(self._settings.namespace)
        # Of now, or of before the stop.
        self._presence: Optional[Presence] = None
        self._stop_until = 0.0
        # Guards what is remembered of groups and elections: _watched, _elections, and tooz's
        # _group_members and hooks. Callbacks run under it.
        self._watch_lock = threading.RLock()

    # Life

    def start(self, start_heart: bool = False) -> None:
        was_started = self._started
        try:
            super().start(start_heart)
        except BaseException:
            if not was_started:
                self._executor.stop()
            raise

    def _start(self) -> None:
        super()._start()
        settings = self._settings
        with translated():
            client = Client(
                settings.endpoints,
                timeout=CALL_SECONDS,
                share_min=_SHARE_SECONDS_MIN,
                tls=settings.tls,
            )
            groups = Groups(client, self.ids, _share_of(settings))
            try:
                self._presence = Presence(
                    client, groups, self._member_id, lambda: self._opened(client)
                )
            except BaseException:
                client.close()
                raise
        self._groups = groups
        self._watched = Watched(client, groups, self.ids)
        self._elections = Elections(client, self.ids, self._member_id)
        for group in list(self._group_members):
            # Watched before a stop: told again from what it knew then.
            self._watched.members[group] = dict.fromkeys(self._group_members[group], b"")
            self._watched.news[group] = None

    def _opened(self, client: Client) -> Session:
        return Session(client, self._settings.timeout, f"tooz {encode(self._member_id)[:200]}")

    def stop(self) -> None:
        self._stop_until = time.monotonic() + CALL_SECONDS
        if self._started and self._presence is not None:
            # From here on a heart that cannot reach the cluster gives up, and no session is opened
            # again.
            self._presence.end()
            self._stop_heart()
        super().stop()

    def _stop_heart(self) -> None:
        """As tooz does, but a heart that is in the middle of a beat while nodes hang is not waited
        for: it ends by itself."""
        if self.heart.is_alive():
            self.heart.stop()
            if self.heart.wait(CALL_SECONDS):
                # Another one, for who starts the coordinator again before that.
                self.heart = coordination.Heart(self)

    def _stop(self) -> None:
        super()._stop()
        presence = self._presence
        if presence is None:
            return
        try:
            presence.close(max(self._stop_until - time.monotonic(), _CLOSE_SECONDS_MIN))
        except NotFound:
            pass
        except RosterError as error:
            LOG.warning(
                "Roster was not told that this coordinator stops, so its memberships and locks end "
                "in %.0f seconds: %s",
                self._settings.timeout,
                error,
            )
        finally:
            presence.client.close()

    @property
    def client(self) -> Client:
        """The connection to the cluster. Raises :class:`ToozError` if there is none."""
        return self._here().client

    def _here(self) -> Presence:
        presence = self._presence
        if presence is None or presence.is_over:
            raise not_started()
        return presence

    @property
    def _joined_groups(self) -> Set[bytes]:
        # Where tooz looks for what a stop is to leave one by one: nothing, since the end of the session
        # leaves all groups in one write.
        presence = self._presence
        return set() if presence is None or presence.is_over else presence.joined()

    @_joined_groups.setter
    def _joined_groups(self, _: Set[bytes]) -> None:
        pass

    # The session

    def session(self) -> Session:
        """The session of now. Raises :class:`ToozError` if there is none."""
        return self._here().session()

    def heartbeat(self) -> float:
        """Renews the session, or opens another one and joins again. Gives the seconds until the next
        heartbeat is due at the latest."""
        presence = self._presence
        if presence is not None and presence.is_over:
            return self._settings.timeout
        with translated():
            session = self._here().heartbeat()
        # Agents that began together, or lost the cluster together, drift apart.
        jitter = random.uniform(1.0 - _JITTER, 1.0 + _JITTER)
        return session.heartbeat_every * _BEATS_PER_INTERVAL * jitter

    def reopened(self, lost: Session) -> Session:
        """The session that follows a lost one; see :meth:`Presence.reopened`."""
        return self._here().reopened(lost)

    def _on_session(self, act: Callable[[Session], T]) -> T:
        """Does what needs a session, once more with another one if the first was lost."""
        session = self.session()
        try:
            return act(session)
        except NotFound as error:
            if error.code != "unknown-session":
                raise
            return act(self.reopened(session))

    @contextlib.contextmanager
    def kept_alive(self, seconds: Optional[float]) -> Iterator[None]:
        """Keeps the session while a call waits for so long, ``None`` for without end, where no heart
        beats that does."""
        every = self.session().heartbeat_every
        patient = seconds is None or seconds > every
        if not patient or self.heart.is_alive():
            yield
            return
        over = threading.Event()

        def beat() -> None:
            pause = every
            while not over.wait(pause):
                try:
                    pause = self.heartbeat() / _BEATS_PER_INTERVAL
                except tooz.ToozError as error:
                    LOG.warning("A heartbeat during a wait failed: %s", error)
                    pause = random.uniform(0.5, 1.5)

        beating = threading.Thread(target=beat, name="roster-wait", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()

    # Groups

    def _later(self, act: Callable[..., T], *arguments: Any) -> coordination.CoordinatorResult[T]:
        def acted() -> T:
            # What was asked for before a stop does not hold it up.
            self.session()
            with translated():
                return act(*arguments)

        return coordination.CoordinatorResult(self._executor.submit(acted))

    def create_group(self, group_id: Union[str, bytes]) -> coordination.CoordinatorResult[None]:
        return self._later(self._groups_now().create, to_bytes(group_id))

    def delete_group(self, group_id: Union[str, bytes]) -> coordination.CoordinatorResult[None]:
        return self._later(self._groups_now().delete, to_bytes(group_id))

    def get_groups(self) -> coordination.CoordinatorResult[List[bytes]]:
        return self._later(self._groups_now().names)

    def _groups_now(self) -> Groups:
        self.session()
        return self._groups

    # Members

    def join_group(
        self,
        group_id: Union[str, bytes],
        capabilities: Optional[coordination.Capabilities] = None,
    ) -> coordination.CoordinatorResult[None]:
        return self._later(self._here().join, to_bytes(group_id), stored.packed(capabilities))

    def join_group_create(
        self,
        group_id: Union[str, bytes],
        capabilities: Optional[coordination.Capabilities] = None,
    ) -> None:
        group = to_bytes(group_id)
        super().join_group_create(group, capabilities)
        self._here().creates(group)

    def leave_group(self, group_id: Union[str, bytes]) -> coordination.CoordinatorResult[None]:
        return self._later(self._here().leave, to_bytes(group_id))

    def update_capabilities(
        self, group_id: Union[str, bytes], capabilities: Optional[coordination.Capabilities]
    ) -> coordination.CoordinatorResult[None]:
        return self._later(self._here().update, to_bytes(group_id), stored.packed(capabilities))

    def get_members(
        self, group_id: Union[str, bytes]
    ) -> coordination.CoordinatorResult[Set[bytes]]:
        groups = self._groups_now()
        return self._later(lambda: set(groups.listed(to_bytes(group_id)).members))

    def get_members_with_capabilities(
        self, group_id: Union[str, bytes]
    ) -> coordination.CoordinatorResult[Dict[bytes, Optional[coordination.Capabilities]]]:
        groups = self._groups_now()

        def read() -> Dict[bytes, Optional[coordination.Capabilities]]:
            members = groups.listed(to_bytes(group_id)).members
            return {member: stored.unpacked(payload) for member, payload in members.items()}

        return self._later(read)

    def get_member_capabilities(
        self, group_id: Union[str, bytes], member_id: Union[str, bytes]
    ) -> coordination.CoordinatorResult[Optional[coordination.Capabilities]]:
        groups = self._groups_now()

        def read() -> Optional[coordination.Capabilities]:
            instance = groups.member(to_bytes(group_id), to_bytes(member_id))
            return stored.unpacked(stored.payload_of(instance))

        return self._later(read)

    def get_member_info(
        self, group_id: Union[str, bytes], member_id: Union[str, bytes]
    ) -> coordination.CoordinatorResult[Dict[str, Any]]:
        """``created_at`` is when the member joined, ``updated_at`` when it was last heard of; dates in
        UTC."""
        groups = self._groups_now()

        def read() -> Dict[str, Any]:
            instance = groups.member(to_bytes(group_id), to_bytes(member_id))
            joined = time_of(instance.get("registered_at"))
            return {
                "capabilities": stored.unpacked(stored.payload_of(instance)),
                "created_at": joined,
                "updated_at": time_of(instance.get("last_heartbeat")) or joined,
            }

        return self._later(read)

    def join_partitioned_group(
        self,
        group_id: Union[str, bytes],
        weight: int = 1,
        partitions: int = DEFAULT_PARTITION_NUMBER,
    ) -> partitioner.Partitioner:
        group = to_bytes(group_id)
        self.join_group_create(group, capabilities={"weight": weight})
        with translated():
            return RosterPartitioner(self, group, partitions=partitions)

    # Watchers

    def watch_join_group(self, group_id: Union[str, bytes], callback: Any) -> None:
        with self._watch_lock:
            super().watch_join_group(to_bytes(group_id), callback)

    def unwatch_join_group(self, group_id: Union[str, bytes], callback: Any) -> None:
        with self._watch_lock, callback_named(to_bytes(group_id), callback):
            super().unwatch_join_group(to_bytes(group_id), callback)
            self._drop_unwatched(to_bytes(group_id))

    def watch_leave_group(self, group_id: Union[str, bytes], callback: Any) -> None:
        with self._watch_lock:
            super().watch_leave_group(to_bytes(group_id), callback)

    def unwatch_leave_group(self, group_id: Union[str, bytes], callback: Any) -> None:
        with self._watch_lock, callback_named(to_bytes(group_id), callback):
            super().unwatch_leave_group(to_bytes(group_id), callback)
            self._drop_unwatched(to_bytes(group_id))

    def _init_watch_group(self, group_id: bytes) -> None:
        if group_id in self._group_members:
            return
        self.session()
        with translated():
            listed = self._watched.begin(group_id)
        self._watched.members[group_id] = listed.members
        self._group_members[group_id] = set(listed.members)

    def _drop_unwatched(self, group: bytes) -> None:
        if not self._has_hooks_for_group(group):
            self._group_members.pop(group, None)
            self._watched.members.pop(group, None)
            self._watched.news.pop(group, None)

    @contextlib.contextmanager
    def watching(self, group: bytes) -> Iterator[Dict[bytes, bytes]]:
        """Gives the members of a group, with their capabilities, as the next run of the watchers will
        take them for known; nothing is told inside."""
        with self._watch_lock:
            try:
                self._init_watch_group(group)
                yield dict(self._watched.members[group])
            finally:
                self._drop_unwatched(group)

    def payload_seen(self, group: bytes, member: bytes) -> Optional[bytes]:
        """The capabilities of a member whose joining is being told."""
        return self._watched.members.get(group, {}).get(member)

    def run_watchers(self, timeout: Optional[float] = None) -> List[Any]:
        """Tells what happened since the last run: it sees all that was acknowledged before it was
        called, by anyone. With nothing new it is one small request."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._turn(until):
            self.session()
            results: List[Any] = []
            self._ask(until)
            for group in sorted(self._watched.news):
                # A callback may have ended the watching of another group.
                if group in self._watched.news:
                    results.extend(self._tell(group, until))
            results.extend(self._run_elections(until))
            return results

    @contextlib.contextmanager
    def _turn(self, until: Optional[float]) -> Iterator[None]:
        """Waits for the threads that run the watchers just now."""
        seconds = -1.0 if until is None else max(until - time.monotonic(), 0.0)
        if not self._watch_lock.acquire(timeout=seconds):
            raise _time_is_over()
        try:
            yield
        finally:
            self._watch_lock.release()

    def run_elect_coordinator(self) -> None:
        with self._watch_lock:
            self.session()
            self._ask(None)
            self._run_elections(None)

    def _ask(self, until: Optional[float]) -> None:
        with translated():
            self._watched.ask(self._elections.stood_for(), _left(until))

    def _tell(self, group: bytes, until: Optional[float]) -> List[Any]:
        """Calls back for what is new in one group, and then remembers it."""
        before = self._group_members.get(group, set())
        with translated():
            now = self._watched.now(group, lambda: _left(until))
            if self._here().has_joined(group) and self._member_id not in now:
                now = self._booted_out_or_back(group, now, until)
        self._watched.members[group] = now
        results: List[Any] = []
        for member in sorted(set(now) - before):
            joined = coordination.MemberJoinedGroup(group, member)
            results.extend(_hooks(self._hooks_join_group, group).run(joined))
        for member in sorted(before - set(now)):
            left = coordination.MemberLeftGroup(group, member)
            results.extend(_hooks(self._hooks_leave_group, group).run(left))
        # Only now: what a callback that raises did not take is told again.
        self._watched.news.pop(group, None)
        if group in self._group_members:
            self._group_members[group] = set(now)
        self._drop_unwatched(group)
        return results

    def _booted_out_or_back(
        self, group: bytes, now: Dict[bytes, bytes], until: Optional[float]
    ) -> Dict[bytes, bytes]:
        if not self._here().is_still_member(group):
            return now
        self._watched.news[group] = None
        return self._watched.now(group, lambda: _left(until))

    # Elections

    def watch_elected_as_leader(self, group_id: Union[str, bytes], callback: Any) -> None:
        group = to_bytes(group_id)
        with self._watch_lock:
            with translated():
                self._groups_now().check(group)
            super().watch_elected_as_leader(group, callback)

    def unwatch_elected_as_leader(self, group_id: Union[str, bytes], callback: Any) -> None:
        group = to_bytes(group_id)
        with self._watch_lock, callback_named(group, callback):
            callbacks = _hooks(self._hooks_elected_leader, group)
            if callback not in callbacks:
                raise coordination.WatchCallbackNotFound(group, callback)
            if len(callbacks) == 1 and self._presence is not None and not self._presence.is_over:
                # Whoever leads goes on; who waits would be elected without hearing of it. Before the
                # callback is forgotten, so that this can be called again where it fails.
                with translated():
                    self._elections.withdraw(group)
            super().unwatch_elected_as_leader(group, callback)

    def stand_down_group_leader(self, group_id: Union[str, bytes]) -> bool:
        with self._watch_lock, translated():
            return self._elections.stand_down(to_bytes(group_id), self.session())

    def get_leader(  # type: ignore[override]
        self, group_id: Union[str, bytes]
    ) -> coordination.CoordinatorResult[Optional[bytes]]:
        self.session()
        return self._later(self._elections.leader, to_bytes(group_id))

    def _run_elections(self, until: Optional[float]) -> List[Any]:
        results: List[Any] = []
        for group in sorted(self._hooks_elected_leader):
            if group in self._hooks_elected_leader:
                results.extend(self._run_election(group, until))
        return results

    def _run_election(self, group: bytes, until: Optional[float]) -> List[Any]:
        with translated():
            won = self._on_session(
                lambda session: self._elections.won(group, session, self._watched, _left(until))
            )
        if won is None:
            return []
        elected = coordination.LeaderElected(group, self._member_id)
        results = _hooks(self._hooks_elected_leader, group).run(elected)
        # Only now: what a callback that raises did not take is told again.
        self._elections.told(group, won)
        return results

    # Locks

    def get_lock(self, name: Union[str, bytes]) -> RosterLock:
        return RosterLock(self, name)  # type: ignore[arg-type]

    def abandon(self, latch: str, session: Session, owner: str) -> None:
        """Gives a lock back that may have been won without an answer: with the next heartbeat, since the
        cluster has just not answered, and whoever asked for the lock wants to hear of it."""
        self._here().abandon(latch, session, owner)


def _share_of(settings: Settings) -> float:
    """The seconds that one node gets of a call."""
    return max(CALL_SECONDS / len(settings.endpoints), _SHARE_SECONDS_MIN)


def _hooks(hooks: Dict[bytes, coordination.Hooks], group: bytes) -> coordination.Hooks:
    """The callbacks of a group, as they are now: they may change while they are called."""
    return coordination.Hooks(hooks.get(group, ()))


def _left(until: Optional[float]) -> Optional[float]:
    """What is left of a time limit, for one request."""
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise _time_is_over()
    return min(left, CALL_SECONDS)


def _time_is_over() -> coordination.OperationTimedOut:
    return coordination.OperationTimedOut("The watchers were not run within the given time")
