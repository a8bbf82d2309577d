"""What calls take and give, as plain values."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, TypeVar

from .durations import format_duration, parse_duration
from .transport import Answer

T = TypeVar("T")


@dataclass(frozen=True)
class Registration:
    """What an instance says of itself. The limits are the API's: a node refuses what is over them."""

    ip: str
    port: int
    hostname: str = ""
    version: str = ""
    zone: str = ""
    weight: int = 1
    """1 to 1,024: its share of a ring or a shard set."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    payload: bytes = b""
    ttl: Optional[float] = None
    """Seconds that it stays without a heartbeat, 1 s to 24 h; the app's default, if not given. Not
    together with a session."""
    session: Optional[str] = None
    """The session that it hangs off; one of its own, if not given."""

    def body(self) -> Dict[str, Any]:
        body: Dict[str, Any] = {
            "ip": self.ip,
            "port": self.port,
            "hostname": self.hostname,
            "version": self.version,
            "zone": self.zone,
            "weight": self.weight,
            "metadata": dict(self.metadata),
            "payload": base64.b64encode(self.payload).decode("ascii"),
        }
        if self.ttl is not None:
            body["ttl"] = format_duration(self.ttl)
        if self.session is not None:
            body["session"] = self.session
        return body


@dataclass(frozen=True)
class Registered:
    """The answer to a registration. Times are seconds."""

    app: str
    id: str
    incarnation: int
    """This life of the instance: the revision that began it."""
    session: str
    ttl: float
    heartbeat_every: float
    revision: int


@dataclass(frozen=True)
class Renewed:
    """The answer to a heartbeat. Times are seconds."""

    ttl: float
    heartbeat_every: float
    revision: int
    settled: Mapping[str, int] = field(default_factory=dict)
    """App to the epoch that all live workers of its ring have adopted; only to a heartbeat that says
    what was adopted."""


@dataclass(frozen=True)
class Session:
    """A session that was opened. Times are seconds."""

    session: str
    ttl: float
    heartbeat_every: float


@dataclass(frozen=True)
class Owner:
    """A worker that owns a key, and where it is."""

    id: str
    ip: str
    port: int
    incarnation: int


@dataclass(frozen=True)
class KeyOwners:
    """The owners of one key under one epoch, the first is the primary."""

    epoch: int
    owners: Tuple[Owner, ...]


@dataclass(frozen=True)
class ManyOwners:
    """The ids of the owners of each key, in the order of the keys, all under one epoch."""

    epoch: int
    owners: Tuple[Tuple[str, ...], ...]


@dataclass(frozen=True)
class Held:
    """A shard that a worker holds."""

    shard: str
    grant: int
    """The revision at which it was granted: the fencing token of the work on it."""
    release: bool
    """It must be let go."""


@dataclass(frozen=True)
class WorkerView:
    """All that one worker of a shard set holds."""

    epoch: int
    worker: str
    shards: Tuple[Held, ...]
    revision: int
    """What this answer shows: the next long poll's ``index``."""


@dataclass(frozen=True)
class Released:
    """What became of one shard of a release; ``code`` is empty if it was let go."""

    shard: str
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Acquired:
    """A lock that was won."""

    name: str
    token: int
    """The revision at which it was won: the fencing token of what is done under it."""
    mode: str
    """``exclusive`` or ``shared``."""
    revision: int


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock: an owner on a session."""

    owner: str
    session: str
    token: int
    mode: str
    """``exclusive`` or ``shared``."""


@dataclass(frozen=True)
class LockView:
    """Who holds a lock, and how many wait for it."""

    name: str
    holders: Tuple[LockHolder, ...]
    waiting: int
    revision: int


@dataclass(frozen=True)
class Campaigned:
    """The answer to a campaign. Who does not lead stays a candidate, in its place."""

    name: str
    leader: bool
    token: Optional[int]
    """The revision at which it was won; ``None`` for a candidate."""
    revision: int


@dataclass(frozen=True)
class Candidate:
    """A session that waits to lead."""

    session: str
    value: str


@dataclass(frozen=True)
class ElectionView:
    """Who leads, and who waits to."""

    name: str
    leader: Optional[str]
    """The session that leads."""
    value: str
    """What the leader told of itself."""
    token: Optional[int]
    candidates: Tuple[Candidate, ...]
    """The first that wait, in order; at most 100."""
    waiting: int
    revision: int


def read(answer: Answer, reader: Callable[[Dict[str, Any]], T]) -> T:
    """Reads an answer's body.

    Raises :class:`UnexpectedAnswer` if it has another shape."""
    body = answer.json()
    try:
        return reader(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise answer.not_understood(f"{type(error).__name__} {error} in {body!r:.200}") from error


def registered(body: Dict[str, Any]) -> Registered:
    return Registered(
        app=_text(body["app"]),
        id=_text(body["id"]),
        incarnation=_number(body["incarnation"]),
        session=_text(body["session"]),
        ttl=parse_duration(body["ttl"]),
        heartbeat_every=parse_duration(body["heartbeat_every"]),
        revision=_number(body["revision"]),
    )


def renewed(body: Dict[str, Any]) -> Renewed:
    settled = body.get("settled") or {}
    return Renewed(
        ttl=parse_duration(body["ttl"]),
        heartbeat_every=parse_duration(body["heartbeat_every"]),
        revision=_number(body["revision"]),
        settled={_text(app): _number(epoch) for app, epoch in settled.items()},
    )


def session(body: Dict[str, Any]) -> Session:
    return Session(
        session=_text(body["session"]),
        ttl=parse_duration(body["ttl"]),
        heartbeat_every=parse_duration(body["heartbeat_every"]),
    )


def key_owners(body: Dict[str, Any]) -> KeyOwners:
    def owner(entry: Dict[str, Any]) -> Owner:
        return Owner(
            id=_text(entry["id"]),
            ip=_text(entry["ip"]),
            port=_number(entry["port"]),
            incarnation=_number(entry["incarnation"]),
        )

    return KeyOwners(_number(body["epoch"]), tuple(owner(entry) for entry in body["owners"]))


def many_owners(body: Dict[str, Any]) -> ManyOwners:
    owners = (tuple(_text(owner) for owner in result["owners"]) for result in body["results"])
    return ManyOwners(_number(body["epoch"]), tuple(owners))


def worker_view(body: Dict[str, Any], revision: Optional[int]) -> WorkerView:
    epoch = _number(body["epoch"])
    shards = (
        Held(_text(entry["shard"]), _number(entry["grant"]), entry["release"] is True)
        for entry in body["shards"]
    )
    at = epoch if revision is None else revision
    return WorkerView(epoch, _text(body["worker"]), tuple(shards), at)


def released(body: Dict[str, Any]) -> Tuple[Released, ...]:
    return tuple(
        Released(_text(result["shard"]), result.get("code") or "", result.get("detail") or "")
        for result in body["results"]
    )


def acquired(body: Dict[str, Any]) -> Acquired:
    return Acquired(
        name=_text(body["name"]),
        token=_number(body["token"]),
        mode=_text(body["mode"]),
        revision=_number(body["revision"]),
    )


def lock(body: Dict[str, Any]) -> LockView:
    holders = (
        LockHolder(
            owner=_text(holder["owner"]),
            session=_text(holder["session"]),
            token=_number(holder["token"]),
            mode=_text(holder["mode"]),
        )
        for holder in body["holders"]
    )
    return LockView(
        name=_text(body["name"]),
        holders=tuple(holders),
        waiting=_number(body["waiting"]),
        revision=_number(body["revision"]),
    )


def campaigned(body: Dict[str, Any]) -> Campaigned:
    leads = body["leader"] is True
    return Campaigned(
        name=_text(body["name"]),
        leader=leads,
        token=_number(body["token"]) if leads else None,
        revision=_number(body["revision"]),
    )


def election(body: Dict[str, Any]) -> ElectionView:
    leader, token = body.get("leader"), body.get("token")
    candidates = (
        Candidate(_text(candidate["session"]), candidate.get("value") or "")
        for candidate in body["candidates"]
    )
    return ElectionView(
        name=_text(body["name"]),
        leader=None if leader is None else _text(leader),
        value=body.get("value") or "",
        token=None if token is None else _number(token),
        candidates=tuple(candidates),
        waiting=_number(body["waiting"]),
        revision=_number(body["revision"]),
    )


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no integer")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
