"""The calls of a cluster, each on whichever node answers it."""

from __future__ import annotations

import ssl
import time
import uuid
from types import TracebackType
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Type, Union

from . import shapes
from .durations import format_duration
from .errors import Compacted, InvalidRequest, Outcome, Unavailable
from .keep_alive import KeepAlive
from .ring import Key, RingView, checked_replicas, key_bytes
from .shapes import (
    Acquired,
    Campaigned,
    ElectionView,
    KeyOwners,
    LockView,
    ManyOwners,
    Registered,
    Registration,
    Released,
    Renewed,
    Session,
    WorkerView,
)
from .transport import Answer, Call, Cancellation, Pauses, Transport, json_body, path
from .watch import Watch

_JSON = {"Content-Type": "application/json"}

# The largest page that nodes give.
_PAGE = 10_000

# A waiting call that lasted so long reached a node that served it.
_STOOD_SECONDS = 1.0


class Client:
    """A client of one cluster. Threads may share it; make it after a fork, not before.

    ``endpoints`` are the API addresses of the nodes, ``"host1:7401,host2:7402"`` or a list of such
    texts. A node that does not answer or cannot serve is left for the next one. ``timeout`` is how
    many seconds a call is tried on one node after the other, ``share_min`` what one node gets of them
    at least. ``tls`` makes the connections with TLS, where something in front of the nodes speaks it.

    Every call raises a :class:`RosterError`; its ``outcome`` says whether anything may have been
    done. A call of unknown outcome is sent again only if doing it twice is the same as doing it
    once. Times are seconds.
    """

    def __init__(
        self,
        endpoints: Union[str, Iterable[str]],
        timeout: float = 10.0,
        *,
        share_min: float = 2.0,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._transport = Transport(endpoints, timeout, share_min, tls)

    def close(self) -> None:
        """Closes the idle connections. What runs on this client (watches, kept registrations) is to
        be stopped before."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    # Instances

    def register(
        self,
        app: str,
        instance: str,
        registration: Registration,
        *,
        takeover: bool = False,
        if_absent: bool = False,
        create_app: bool = True,
    ) -> Registered:
        """Registers an instance or updates it. ``takeover`` replaces a live one of the same id at
        once; ``if_absent`` refuses with ``instance-exists`` instead (:class:`PreconditionFailed`).
        Neither is sent again after an unknown outcome."""
        flags = [("takeover", takeover, False), ("create_app", create_app, True)]
        query = [(name, str(value).lower()) for name, value, usual in flags if value is not usual]
        headers = {**_JSON, "If-None-Match": "*"} if if_absent else _JSON
        call = Call(
            "PUT",
            _instance(app, instance),
            query=query,
            body=json_body(registration.body()),
            headers=headers,
            repeatable=not (takeover or if_absent),
        )
        return shapes.read(self.send(call), shapes.registered)

    def heartbeat(
        self,
        app: str,
        instance: str,
        *,
        incarnation: Optional[int] = None,
        adopted: Optional[int] = None,
        patience: Optional[float] = None,
        share_min: float = 0.25,
    ) -> Renewed:
        """Renews an instance's session. ``unknown-instance`` (:class:`NotFound`) means that it is to
        be registered again; with ``incarnation``, ``stale-incarnation`` (:class:`Conflict`) that
        somebody took over. ``patience`` is for all nodes together, ``share_min`` what one gets at
        least.

        ``adopted`` says up to which epoch of its app's ring this instance has stopped work on the
        keys that it lost, and speaks for this instance alone; the answer's ``settled`` says up to
        which epoch all workers have, so that gained keys can be begun."""
        call = Call(
            "PUT",
            _instance(app, instance) + "/heartbeat",
            query=_given(incarnation=incarnation, adopted=adopted),
            patience=patience,
            share_min=share_min,
        )
        return shapes.read(self.send(call), shapes.renewed)

    def deregister(self, app: str, instance: str, *, incarnation: Optional[int] = None) -> None:
        """Removes an instance, with its shard. With ``incarnation`` it cannot remove a successor."""
        query = _given(incarnation=incarnation)
        self.send(Call("DELETE", _instance(app, instance), query=query))

    def instance(self, app: str, instance: str) -> Dict[str, Any]:
        """An instance as the API shows it."""
        return self.send(Call("GET", _instance(app, instance))).json()

    def instances(
        self, app: str, *, filter: Optional[str] = None, heartbeats: bool = False
    ) -> List[Dict[str, Any]]:
        """All instances of an app, as the API shows them, of one revision. ``filter`` is a CEL
        expression over their fields; ``heartbeats`` adds ``last_heartbeat``, when the leader last
        heard of each."""
        target = path("v1", "apps", app, "instances")
        known = "true" if heartbeats else None
        return self._listed(target, "instances", filter=filter, heartbeats=known)

    def keep_alive(
        self,
        app: str,
        instance: str,
        registration: Registration,
        *,
        takeover: bool = False,
        margin: Optional[float] = None,
    ) -> KeepAlive:
        """Registers an instance and sends heartbeats from then on, see :class:`KeepAlive`."""
        return KeepAlive(self, app, instance, registration, takeover=takeover, margin=margin)

    # Sessions

    def open_session(self, *, ttl: Optional[float] = None, name: str = "") -> Session:
        """Opens a session that several instances can hang off. It is opened once, however often the
        call had to be sent."""
        body: Dict[str, Any] = {"name": name}
        if ttl is not None:
            body["ttl"] = format_duration(ttl)
        headers = {**_JSON, "Idempotency-Key": uuid.uuid4().hex}
        call = Call("POST", "/v1/sessions", body=json_body(body), headers=headers)
        return shapes.read(self.send(call), shapes.session)

    def session_heartbeat(
        self,
        session: str,
        adopted: Optional[Mapping[str, int]] = None,
        *,
        patience: Optional[float] = None,
        share_min: float = 0.25,
    ) -> Renewed:
        """Renews a session. ``adopted`` says for each app up to which epoch of its ring work has
        stopped on the keys that were lost, for *all* instances of that app that hang off the session:
        only who knows of all of them may say so. :meth:`heartbeat` speaks for one alone. The answer's
        ``settled`` says up to which epoch all workers have, so that gained keys can be begun."""
        call = Call(
            "PUT",
            path("v1", "sessions", session) + "/heartbeat",
            body=None if adopted is None else json_body({"adopted": dict(adopted)}),
            headers={} if adopted is None else _JSON,
            patience=patience,
            share_min=share_min,
        )
        return shapes.read(self.send(call), shapes.renewed)

    def session(
        self,
        session: str,
        *,
        patience: Optional[float] = None,
        share_min: Optional[float] = None,
    ) -> Dict[str, Any]:
        """A session and what hangs off it, as the API shows it. ``patience`` is for all nodes
        together, ``share_min`` what one gets at least."""
        target = path("v1", "sessions", session)
        return self.send(Call("GET", target, patience=patience, share_min=share_min)).json()

    def close_session(self, session: str) -> None:
        """Ends a session; all that hung off it is gone when this returns."""
        self.send(Call("DELETE", path("v1", "sessions", session)))

    # Rings

    def put_ring(self, app: str, *, seed: int = 0, replicas: int = 1) -> None:
        """Switches the ring over an app's live instances on, or changes it."""
        body = json_body({"seed": seed, "replicas": checked_replicas(replicas)})
        self.send(Call("PUT", _ring(app), body=body, headers=_JSON))

    def delete_ring(self, app: str) -> None:
        """Switches a ring off."""
        self.send(Call("DELETE", _ring(app)))

    def ring(
        self, app: str, *, index: Optional[int] = None, wait: Optional[float] = None
    ) -> RingView:
        """The ring of an app. With ``index`` and ``wait`` the answer comes when the ring has changed
        after that revision, else unchanged when the wait is over.

        Raises :class:`RingError` if it cannot be used."""
        return RingView.from_description(self._poll(_ring(app), index, wait).json())

    def ring_owners(
        self,
        app: str,
        key: Key,
        *,
        replicas: Optional[int] = None,
        epoch: Optional[int] = None,
    ) -> KeyOwners:
        """The owners of a key, computed by a node, with their addresses. Where the ring is not at
        ``epoch`` any more, ``stale-epoch`` (:class:`Conflict`)."""
        query = _given(key=key_bytes(key), replicas=replicas, epoch=epoch)
        return shapes.read(self.send(Call("GET", _ring(app) + "/owners", query)), shapes.key_owners)

    def ring_owners_of(
        self, app: str, keys: Iterable[str], *, replicas: Optional[int] = None
    ) -> ManyOwners:
        """The owners of up to 10,000 keys, computed by a node under one epoch."""
        body = {
            "keys": _texts("keys", keys),
            **({} if replicas is None else {"replicas": replicas}),
        }
        # It only reads, so it may be sent twice.
        call = Call("POST", _ring(app) + "/owners", body=json_body(body), headers=_JSON)
        return shapes.read(self.send(call), shapes.many_owners)

    # Shard sets

    def put_shard_set(
        self,
        name: str,
        *,
        workers: str,
        apps: Iterable[str],
        copies: int = 1,
        scaling: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Makes or changes a shard set: the instances of the app ``workers`` share the shards of
        ``apps`` (``["*"]``: all but the workers' own)."""
        body: Dict[str, Any] = {"workers": workers, "apps": _texts("apps", apps), "copies": copies}
        if scaling is not None:
            body["scaling"] = dict(scaling)
        self.send(Call("PUT", _set(name), body=json_body(body), headers=_JSON))

    def shard_set(self, name: str) -> Dict[str, Any]:
        """A shard set with its counts, as the API shows it."""
        return self.send(Call("GET", _set(name))).json()

    def delete_shard_set(self, name: str) -> None:
        """Deletes a shard set; the shards themselves stay."""
        self.send(Call("DELETE", _set(name)))

    def worker_view(
        self,
        name: str,
        worker: str,
        *,
        index: Optional[int] = None,
        wait: Optional[float] = None,
    ) -> WorkerView:
        """What a worker of a shard set holds and must let go; a long poll with ``index`` (the
        ``revision`` of the view that is known) and ``wait``."""
        answer = self._poll(_worker(name, worker), index, wait)
        return shapes.read(answer, lambda body: shapes.worker_view(body, answer.revision))

    def release(
        self, name: str, worker: str, shards: Iterable[Tuple[str, int]]
    ) -> Tuple[Released, ...]:
        """Lets shards go, each with its grant, at most 10,000 in one call (:class:`TooLarge`). A
        grant names one holder for ever, so that this may be sent twice; what is not held under its
        grant is answered ``stale-token``."""
        listed = [{"shard": shard, "grant": grant} for shard, grant in shards]
        call = Call(
            "POST",
            _worker(name, worker) + "/release",
            body=json_body({"shards": listed}),
            headers=_JSON,
        )
        return shapes.read(self.send(call), shapes.released)

    # Locks

    def acquire_lock(
        self,
        name: str,
        session: str,
        *,
        owner: str = "",
        shared: bool = False,
        wait: float = 0.0,
        cancellation: Optional[Cancellation] = None,
    ) -> Acquired:
        """Acquires a lock for ``owner`` on a session, or waits for it in its queue, at most ``wait``
        seconds (up to ten minutes); :class:`LockHeld` if it was not free by then. The lock ends with
        the session.

        The same owner asking again gets the same token, so this is sent again, for what is left of
        the wait, where a node breaks off. After a failure of unknown outcome
        :meth:`abandon_lock` gives back what may have been won; also after a ``cancellation``, with
        which another thread can end the wait."""
        until = time.monotonic() + wait
        pauses = Pauses(len(self._transport.nodes))
        while True:
            left = max(until - time.monotonic(), 0.0)
            began = time.monotonic()
            try:
                return self._acquire_once(name, session, owner, shared, left, cancellation)
            except Unavailable as error:
                lost = error.outcome is Outcome.UNKNOWN and error.retryable and left > 0
                if time.monotonic() - began > _STOOD_SECONDS:
                    pauses.reset()
                pause = pauses.after_failure(error.retry_after)
                if not lost or pauses.all_were_tried:
                    raise
            time.sleep(min(pause, max(until - time.monotonic(), 0.0)))

    def _acquire_once(
        self,
        name: str,
        session: str,
        owner: str,
        shared: bool,
        wait: float,
        cancellation: Optional[Cancellation],
    ) -> Acquired:
        body = {
            "session": session,
            "owner": owner,
            "mode": "shared" if shared else "exclusive",
            "wait": format_duration(wait),
        }
        call = Call(
            "POST",
            _lock(name) + "/acquire",
            body=json_body(body),
            headers=_JSON,
            # One that waits is sent again with what is left of the wait.
            repeatable=wait == 0,
            wait=wait,
            cancellation=cancellation,
        )
        return shapes.read(self.send(call), shapes.acquired)

    def release_lock(
        self, name: str, token: int, *, session: Optional[str] = None, owner: Optional[str] = None
    ) -> None:
        """Releases what was won under a token; :class:`StaleToken` if nobody holds it any more, and
        then nobody is harmed. Shared holders can have one token in common: they are told apart by
        ``session`` and ``owner``. It is done once, however often the call had to be sent."""
        self._once(_lock(name) + "/release", _put(token=token, session=session, owner=owner))

    def abandon_lock(self, name: str, session: str, owner: str = "") -> None:
        """Gives up a place in a lock's queue, or what was won without hearing of it;
        :class:`StaleToken` if there is neither."""
        self._once(_lock(name) + "/release", {"session": session, "owner": owner})

    def check_lock(
        self, name: str, token: int, *, session: Optional[str] = None, owner: Optional[str] = None
    ) -> bool:
        """Whether a token still holds its lock."""
        query = _given(token=token, session=session, owner=owner)
        answer = self.send(Call("GET", _lock(name) + "/check", query=query))
        return answer.json().get("holds") is True

    def break_lock(self, name: str, *, token: Optional[int] = None) -> None:
        """Takes a lock from all who hold it, or from the holders of one token; who waits next gets
        it. ``unknown-latch`` (:class:`NotFound`) if nobody holds it. Without ``token`` it is not sent
        again after an unknown outcome: it would take the lock from the next holder too."""
        query = _given(token=token)
        self.send(Call("DELETE", _lock(name), query=query, repeatable=token is not None))

    def get_lock(
        self, name: str, *, index: Optional[int] = None, wait: Optional[float] = None
    ) -> LockView:
        """Who holds a lock; a long poll with ``index`` and ``wait``. ``unknown-latch``
        (:class:`NotFound`) if nobody holds it or waits."""
        return shapes.read(self._poll(_lock(name), index, wait), shapes.lock)

    def list_locks(self) -> List[LockView]:
        """All locks that somebody holds or waits for, of one revision."""
        return [shapes.lock(lock) for lock in self._listed("/v1/locks", "locks")]

    # Elections

    def campaign(
        self, name: str, session: str, *, value: str = "", wait: float = 0.0
    ) -> Campaigned:
        """Stands for leader, with a ``value`` that the election shows to everybody, and waits at
        most ``wait`` seconds. Who does not lead by then stays a candidate, in its place, until it
        resigns or its session ends. Asking again is harmless; with another value it changes the
        value, also while leading."""
        body = {"session": session, "value": value, "wait": format_duration(wait)}
        target = _election(name) + "/campaign"
        call = Call("POST", target, body=json_body(body), headers=_JSON, wait=wait)
        return shapes.read(self.send(call), shapes.campaigned)

    def resign(
        self, name: str, *, token: Optional[int] = None, session: Optional[str] = None
    ) -> None:
        """Gives up leading (``token``), or whatever a session has in the election (``session``).
        :class:`StaleToken` if there is nothing to give up."""
        self._once(_election(name) + "/resign", _put(token=token, session=session))

    def check_election(self, name: str, token: int) -> bool:
        """Whether the leader of this token still leads."""
        answer = self.send(Call("GET", _election(name) + "/check", query=_given(token=token)))
        return answer.json().get("holds") is True

    def break_election(self, name: str, *, token: Optional[int] = None) -> None:
        """Takes the leadership away; the next candidate leads. Without ``token`` it is not sent again
        after an unknown outcome."""
        query = _given(token=token)
        self.send(Call("DELETE", _election(name), query=query, repeatable=token is not None))

    def get_election(
        self, name: str, *, index: Optional[int] = None, wait: Optional[float] = None
    ) -> ElectionView:
        """Who leads and who waits to; a long poll with ``index`` and ``wait``. ``unknown-latch``
        (:class:`NotFound`) if nobody stands."""
        return shapes.read(self._poll(_election(name), index, wait), shapes.election)

    def list_elections(self) -> List[ElectionView]:
        """All elections in which somebody stands, of one revision."""
        return [shapes.election(one) for one in self._listed("/v1/elections", "elections")]

    # Watches

    def watch(
        self,
        *,
        apps: Iterable[str] = (),
        kinds: Iterable[str] = (),
        filter: Optional[str] = None,
        from_revision: Optional[int] = None,
        restart: bool = True,
    ) -> Watch:
        """Watches changes, see :class:`Watch`. Without ``apps`` and ``kinds`` all; ``filter`` is a
        CEL expression over instances. ``from_revision``: all after it, else a snapshot comes first.
        ``restart``: begin again with a snapshot where what comes next is not kept any more, instead
        of raising :class:`Compacted`. Nothing is sent before the first event is asked for."""
        query: List[Tuple[str, Union[str, bytes, int]]] = [
            ("app", app) for app in _texts("apps", apps)
        ]
        query += _given(kind=",".join(_texts("kinds", kinds)) or None, filter=filter)
        return Watch(self._transport, query, from_revision, restart)

    # Anything else

    def send(self, call: Call) -> Answer:
        """Sends a call that has no method here, on the same way as those that have one."""
        return self._transport.send(call)

    def _once(self, target: str, body: Mapping[str, Any]) -> None:
        headers = {**_JSON, "Idempotency-Key": uuid.uuid4().hex}
        self.send(Call("POST", target, body=json_body(dict(body)), headers=headers))

    def _listed(self, target: str, name: str, **query: Optional[str]) -> List[Dict[str, Any]]:
        for _ in range(3):
            try:
                return list(self._pages(target, name, query))
            except Compacted:
                # The revision of the first page is not kept any more: a longer list than fits on one
                # page and a node that went away meanwhile.
                continue
        return list(self._pages(target, name, query))

    def _pages(
        self, target: str, name: str, asked: Mapping[str, Optional[str]]
    ) -> Iterator[Dict[str, Any]]:
        cursor: Optional[str] = None
        while True:
            query = _given(limit=_PAGE, cursor=cursor, **asked)
            page = self.send(Call("GET", target, query=query)).json()
            yield from page.get(name, ())
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _poll(self, target: str, index: Optional[int], wait: Optional[float]) -> Answer:
        if index is None:
            return self.send(Call("GET", target))
        seconds = 30.0 if wait is None else wait
        query = _given(index=index, wait=format_duration(seconds))
        return self.send(Call("GET", target, query=query, wait=seconds))


def _given(**parameters: Union[None, str, bytes, int]) -> List[Tuple[str, Union[str, bytes, int]]]:
    return [(name, value) for name, value in parameters.items() if value is not None]


def _put(**fields: Union[None, str, int]) -> Dict[str, Union[str, int]]:
    return {name: value for name, value in fields.items() if value is not None}


def _texts(name: str, texts: Iterable[str]) -> List[str]:
    if isinstance(texts, (str, bytes)):
        raise InvalidRequest(f"{name} is a list of texts, not {texts!r}: its letters are not meant")
    return list(texts)


def _instance(app: str, instance: str) -> str:
    return path("v1", "apps", app, "instances", instance)


def _ring(app: str) -> str:
    return path("v1", "apps", app, "ring")


def _set(name: str) -> str:
    return path("v1", "shard-sets", name)


def _worker(name: str, worker: str) -> str:
    return path("v1", "shard-sets", name, "workers", worker)


def _lock(name: str) -> str:
    return path("v1", "locks", name)


def _election(name: str) -> str:
    return path("v1", "elections", name)
