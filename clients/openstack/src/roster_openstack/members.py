"""A group's members as the instances of an app: the calls, in tooz's words."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from tooz import coordination, utils

from roster_client import (
    Call,
    Client,
    Compacted,
    Conflict,
    NotFound,
    Outcome,
    PreconditionFailed,
    Registration,
    path,
)

from .encoding import Ids, decode, shown

_JSON = {"Content-Type": "application/json"}

# The largest page that nodes give.
_PAGE = 10_000

# How often a list is begun.
_TRIES = 3


class Listed(NamedTuple):
    """A group at one revision."""

    revision: int
    members: Dict[bytes, bytes]
    """Member id to its capabilities as they are stored."""


def packed(capabilities: Optional[coordination.Capabilities]) -> bytes:
    """Capabilities as they are stored; none are no bytes."""
    return b"" if capabilities is None else utils.dumps(capabilities)


def unpacked(payload: bytes) -> Optional[coordination.Capabilities]:
    """Raises :class:`SerializationError` for what no driver stored."""
    return utils.loads(payload) if payload else None


class Groups:
    """The calls about groups and members. They raise tooz's errors for what a caller can be told
    (a missing group, a member that has joined already), and the client's for all else."""

    def __init__(self, client: Client, ids: Ids, share: float) -> None:
        self._client = client
        self._ids = ids
        self._share = share
        self._hostname = socket.gethostname()

    def create(self, group: bytes) -> None:
        call = Call(
            "PUT", self._app(group), body=b"{}", headers={**_JSON, "If-None-Match": "*"}
        )
        try:
            self._client.send(call)
        except PreconditionFailed as error:
            raise coordination.GroupAlreadyExist(shown(group)) from error

    def delete(self, group: bytes) -> None:
        try:
            self._client.send(Call("DELETE", self._app(group)))
        except Conflict as error:
            if error.code != "app-not-empty":
                raise
            raise coordination.GroupNotEmpty(shown(group)) from error
        except NotFound as error:
            if not _done_by_an_earlier_try(error):
                raise coordination.GroupNotCreated(shown(group)) from error

    def check(self, group: bytes) -> None:
        """Raises :class:`GroupNotCreated` if it is missing."""
        try:
            self._client.send(Call("GET", self._app(group)))
        except NotFound as error:
            raise coordination.GroupNotCreated(shown(group)) from error

    def names(self) -> List[bytes]:
        pages = _all_pages(self._client, "/v1/apps", "apps", patience=None)
        names = (self._ids.group_of(app["app"]) for page in pages for app in page.entries)
        return [name for name in names if name is not None]

    def join(self, group: bytes, member: bytes, payload: bytes, session: str) -> None:
        """Raises :class:`MemberAlreadyExist` if the member is there, on whatever session."""
        body = Registration(
            ip="", port=0, hostname=self._hostname, payload=payload, session=session
        ).body()
        call = Call(
            "PUT",
            self._member(group, member),
            query=[("create_app", "false")],
            body=json.dumps(body).encode("utf-8"),
            headers={**_JSON, "If-None-Match": "*"},
            repeatable=False,
            patience=self._share,
        )
        try:
            self._client.send(call)
        except PreconditionFailed as error:
            raise coordination.MemberAlreadyExist(shown(group), shown(member)) from error
        except NotFound as error:
            raise self._missing(error, group, member) from error

    def leave(self, group: bytes, member: bytes) -> None:
        try:
            self._client.send(Call("DELETE", self._member(group, member)))
        except NotFound as error:
            if not _done_by_an_earlier_try(error):
                raise self._missing(error, group, member) from error

    def update(self, group: bytes, member: bytes, payload: bytes) -> None:
        body = {"payload": base64.b64encode(payload).decode("ascii")}
        call = Call(
            "PATCH",
            self._member(group, member),
            body=json.dumps(body).encode("utf-8"),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        try:
            self._client.send(call)
        except NotFound as error:
            raise self._missing(error, group, member) from error

    def member(
        self, group: bytes, member: bytes, patience: Optional[float] = None
    ) -> Dict[str, Any]:
        """A member's instance, as the API shows it."""
        call = Call("GET", self._member(group, member), patience=patience)
        try:
            return self._client.send(call).json()
        except NotFound as error:
            raise self._missing(error, group, member) from error

    def listed(self, group: bytes, patience: Optional[float] = None) -> Listed:
        """All members, of one revision. Raises :class:`GroupNotCreated`."""
        target = self._app(group) + "/instances"
        try:
            pages = _all_pages(self._client, target, "instances", patience)
        except NotFound as error:
            raise coordination.GroupNotCreated(shown(group)) from error
        members = {decode(one["id"]): payload_of(one) for page in pages for one in page.entries}
        return Listed(pages[0].revision, members)

    def _app(self, group: bytes) -> str:
        return path("v1", "apps", self._ids.group(group))

    def _member(self, group: bytes, member: bytes) -> str:
        return self._app(group) + "/instances" + path(self._ids.member(member))

    @staticmethod
    def _missing(error: NotFound, group: bytes, member: bytes) -> Exception:
        if error.code == "unknown-app":
            return coordination.GroupNotCreated(shown(group))
        if error.code == "unknown-instance":
            return coordination.MemberNotJoined(shown(group), shown(member))
        return error


def payload_of(instance: Dict[str, Any]) -> bytes:
    """An instance's capabilities as they are stored."""
    return base64.b64decode(instance.get("payload") or "")


class _Page(NamedTuple):
    revision: int
    entries: List[Dict[str, Any]]


def _all_pages(
    client: Client, target: str, name: str, patience: Optional[float]
) -> List[_Page]:
    """A list as the client reads them, and with it the revision, which the client does not tell."""
    for _ in range(_TRIES - 1):
        try:
            return list(_pages(client, target, name, patience))
        except Compacted:
            # The revision of the first page is not kept any more: a longer list than fits on one
            # page and a node that went away meanwhile.
            continue
    return list(_pages(client, target, name, patience))


def _pages(client: Client, target: str, name: str, patience: Optional[float]) -> Iterator[_Page]:
    cursor: Optional[str] = None
    while True:
        query: List[Tuple[str, Union[str, bytes, int]]] = [("limit", _PAGE)]
        if cursor:
            query.append(("cursor", cursor))
        page = client.send(Call("GET", target, query=query, patience=patience)).json()
        yield _Page(page["revision"], page[name])
        cursor = page.get("next_cursor")
        if not cursor:
            return


def _done_by_an_earlier_try(error: NotFound) -> bool:
    return error.outcome is Outcome.UNKNOWN
