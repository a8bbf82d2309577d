"""A watch that survives its connection.

:class:`Revisions` decides, without a socket or a clock, what is given out and from where to resume.
Its position is the last revision of which everything was given out. Events of the next one are held
until its last one came, then given out together. So whenever a connection breaks, the position says
exactly what is still to come: nothing is lost, nothing comes twice, no revision is seen in half.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional

import urllib3
from urllib3.exceptions import HTTPError

from .durations import format_duration
from .errors import Compacted, RosterError, TooLarge, Unavailable, UnexpectedAnswer
from .transport import Call, Pauses, Query, Transport

_NDJSON = "application/x-ndjson"

# Nodes send a bookmark at least each 10 seconds: one that is silent for longer is gone.
_SILENCE_SECONDS_MAX = 20.0

# How long a node may take to reach the revision that a watch resumes from.
_WAIT_SECONDS = 5.0

# The events of one revision may take so much, as they are on the wire; so may one line.
HELD_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True)
class Event:
    """What a watch gives out.

    ``event`` is one of:

    - ``put``, ``delete``: a change; or, with ``listed``, a thing of the snapshot
    - ``snapshot-begin``: what is there follows; all that was known before is to be forgotten
    - ``snapshot-end``: the snapshot is complete, changes follow
    - ``bookmark``: everything up to this revision was given out
    - ``compacted``: some changes are not kept any more, a snapshot follows
    """

    event: str
    revision: int
    """The entry that changed it; of a listed thing its own last change."""
    kind: str = ""
    app: str = ""
    id: str = ""
    incarnation: Optional[int] = None
    value: Any = None
    """Of a ``put``: the whole thing as a read shows it."""
    reason: str = ""
    detail: str = ""
    listed: bool = False
    more: bool = False
    """Others of this revision follow. It is complete with the event that says no."""
    raw: Optional[Mapping[str, Any]] = None
    """All that the node sent, also what this client does not know."""


class OutOfOrder(Exception):
    """A message that cannot come here: the stream is not to be believed any more."""


class StreamEnded(Exception):
    """The node ended the stream (``bye``, ``lagging``): resume on another one."""


class NotKept(Exception):
    """The node does not have what comes after the position."""

    def __init__(self, restart_from: Optional[int], detail: str) -> None:
        super().__init__(detail)
        self.restart_from = restart_from
        self.detail = detail


class Revisions:
    """What is given out, and from where a watch resumes (``position``; ``None``: with a snapshot)."""

    def __init__(self, position: Optional[int]) -> None:
        self.position = position
        self._in_snapshot = False
        self._held: List[Event] = []
        self._held_bytes = 0

    def broken(self) -> None:
        """The stream broke: what was not given out will come again."""
        self._in_snapshot = False
        self._held, self._held_bytes = [], 0

    def start_over(self) -> None:
        """Everything begins again with a snapshot."""
        self.broken()
        self.position = None

    def take(self, line: bytes) -> List[Event]:
        """Takes a line of the stream; gives what can be given out now.

        Raises :class:`StreamEnded`, :class:`NotKept`, :class:`OutOfOrder`, and :class:`TooLarge`
        for a revision that would come again on every node."""
        message = _message(line)
        word = message["event"]
        if word in ("put", "delete"):
            event = _event(message)
            return [replace(event, listed=True)] if self._in_snapshot else self._change(event, line)
        if word == "snapshot-begin":
            self.start_over()
            self._in_snapshot = True
            return [_event(message)]
        if word == "snapshot-end":
            return self._snapshot_end(_event(message))
        if word == "bookmark":
            return self._bookmark(_event(message))
        if word in ("bye", "lagging"):
            self._stop(_event(message).revision)
            raise StreamEnded(f"{word}: {message.get('detail') or 'the node ended the stream'}")
        if word == "compacted":
            self.broken()
            restart_from = message.get("restart_from")
            known = restart_from if isinstance(restart_from, int) else None
            raise NotKept(known, str(message.get("detail") or word))
        # Of a newer node; nothing that this client must know.
        return []

    def _change(self, event: Event, line: bytes) -> List[Event]:
        if self.position is None:
            raise OutOfOrder(f"revision {event.revision} before any snapshot")
        if event.revision <= self.position:
            # It was given out already.
            return []
        released: List[Event] = []
        if self._held and self._held[-1].revision > event.revision:
            raise OutOfOrder(f"revision {event.revision} after {self._held[-1].revision}")
        if self._held and self._held[-1].revision < event.revision:
            # Events of one revision come together, so this one tells that the held are complete.
            released = self._release()
        self._held_bytes += len(line)
        if self._held_bytes > HELD_BYTES_MAX:
            raise TooLarge(
                f"the changes of revision {event.revision} take more than the {HELD_BYTES_MAX} bytes "
                "that a watch holds; watch fewer apps or kinds, or list again and watch from there"
            )
        self._held.append(event)
        return released if event.more else released + self._release()

    def _release(self) -> List[Event]:
        if not self._held:
            return []
        last = replace(self._held[-1], more=False)
        released = [*self._held[:-1], last]
        self.position = last.revision
        self._held, self._held_bytes = [], 0
        return released

    def _snapshot_end(self, event: Event) -> List[Event]:
        if not self._in_snapshot:
            raise OutOfOrder(f"the end of a snapshot at {event.revision} that never began")
        self._in_snapshot = False
        self.position = event.revision
        return [event]

    def _bookmark(self, event: Event) -> List[Event]:
        if self.position is None:
            raise OutOfOrder(f"bookmark {event.revision} before the end of a snapshot")
        if event.revision < self.position:
            return []
        if self._held and self._held[-1].revision > event.revision:
            return []
        released = self._release()
        self.position = event.revision
        return [*released, event]

    def _stop(self, revision: int) -> None:
        """What the node says of the last complete revision is only taken where nothing is half
        there: going back is always safe, going ahead is not."""
        if self.position is not None and not self._held and not self._in_snapshot:
            self.position = max(self.position, revision)
        self.broken()


def _message(line: bytes) -> Dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OutOfOrder(f"a line that is no JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("event"), str):
        raise OutOfOrder(f"a line that is no event: {line[:100]!r}")
    return message


def _event(message: Dict[str, Any]) -> Event:
    revision = message.get("revision")
    if not isinstance(revision, int) or isinstance(revision, bool):
        raise OutOfOrder(f"a {message['event']!r} without a revision")
    return Event(
        event=message["event"],
        revision=revision,
        kind=str(message.get("kind") or ""),
        app=str(message.get("app") or ""),
        id=str(message.get("id") or ""),
        incarnation=message.get("incarnation"),
        value=message.get("value"),
        reason=str(message.get("reason") or ""),
        detail=str(message.get("detail") or ""),
        more=message.get("more") is True,
        raw=message,
    )


class Watch:
    """Every change, in order, once: an iterator of :class:`Event`. It resumes by itself on the next
    node. One thread iterates; any thread may :meth:`close` it, which ends the iteration (with urllib3
    before 2.3 only when the next line comes, within some seconds).

    Iterating raises a :class:`RosterError` that the watch cannot get around: what makes no sense to
    repeat, such as an unknown kind; :class:`Compacted` after all nodes were asked (unless it may
    restart); and, if it could not begin within the client's timeout, why.
    """

    def __init__(
        self, transport: Transport, query: Query, position: Optional[int], restart: bool
    ) -> None:
        self._transport = transport
        self._query = query
        self._restart = restart
        self._position = position
        self._revisions = Revisions(position)
        self._ready: Deque[Event] = deque()
        self._node = transport.current()
        self._pauses = Pauses(len(transport.nodes))
        self._begun = False
        self._begin_until: Optional[float] = None
        self._compacted_nodes = 0
        self._response: Optional[urllib3.BaseHTTPResponse] = None
        self._lines: Iterator[bytes] = iter(())
        self._closed = threading.Event()

    @property
    def position(self) -> Optional[int]:
        """Everything up to here was given out: a new watch ``from_revision`` here misses nothing and
        repeats nothing. ``None`` before the first snapshot is complete."""
        return self._position

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Event:
        while not self._closed.is_set():
            if self._ready:
                return self._given(self._ready.popleft())
            try:
                if self._response is None:
                    self._connect()
                else:
                    self._read()
            except (OutOfOrder, StreamEnded, HTTPError, OSError) as why:
                self._broke(Unavailable(f"the stream broke: {why}", retryable=True))
            except NotKept as why:
                self._not_kept(why)
            except RosterError:
                self.close()
                raise
        self._drop()
        raise StopIteration

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread."""
        self._closed.set()
        response = self._response
        shutdown = getattr(response, "shutdown", None)
        if shutdown is not None:
            try:
                shutdown()
            except (OSError, ValueError, RuntimeError):
                # It has ended by itself.
                pass

    def _given(self, event: Event) -> Event:
        if event.event in ("snapshot-begin", "compacted"):
            self._position = None
        elif not event.listed and not event.more:
            self._position = event.revision
        return event

    def _connect(self) -> None:
        try:
            response = self._open()
        except Compacted as error:
            raise NotKept(error.restart_from, error.detail) from error
        except RosterError as error:
            self._not_begun(error)
            return
        self._begun = True
        self._response = response
        self._lines = _lines(response)
        if self._closed.is_set():
            self._drop()

    def _open(self) -> urllib3.BaseHTTPResponse:
        node = self._transport.nodes[self._node]
        call = Call("GET", "/v1/watch", query=self._asked(), headers={"Accept": _NDJSON})
        # A node's silence is allowed to last as long as that of a stream.
        response = node.open(call, _SILENCE_SECONDS_MAX)
        kind = response.headers.get("content-type", "")
        if not kind.startswith(_NDJSON):
            response.close()
            detail = f"{node.name} does not answer like a Roster node: a watch of type {kind!r}"
            raise UnexpectedAnswer(detail, retryable=True)
        return response

    def _asked(self) -> Query:
        position = self._revisions.position
        if position is None:
            return self._query
        wait = format_duration(_WAIT_SECONDS)
        return [*self._query, ("from", position), ("wait", wait)]

    def _read(self) -> None:
        line = next(self._lines, None)
        if line is None:
            raise StreamEnded("the connection ended")
        if line:
            self._ready.extend(self._revisions.take(line))
            self._pauses.reset()
            self._compacted_nodes = 0

    def _broke(self, error: RosterError) -> None:
        self._revisions.broken()
        self._drop()
        self._try_next(error)

    def _not_begun(self, error: RosterError) -> None:
        now = time.monotonic()
        if self._begin_until is None:
            self._begin_until = now + self._transport.timeout
        in_vain = not self._begun and self._pauses.all_were_tried and now >= self._begin_until
        if in_vain or not error.retryable:
            raise error
        self._try_next(error)

    def _try_next(self, error: RosterError) -> None:
        self._node = self._transport.leave(self._node)
        self._closed.wait(self._pauses.after_failure(error.retry_after))

    def _not_kept(self, why: NotKept) -> None:
        """Others may keep what this node does not."""
        self._revisions.broken()
        self._drop()
        self._compacted_nodes += 1
        if self._compacted_nodes < len(self._transport.nodes):
            self._node = self._transport.leave(self._node)
            return
        self._compacted_nodes = 0
        restart_from = why.restart_from
        if not self._restart:
            self.close()
            detail = f"what comes next is kept on no node any more ({why.detail}); list again"
            raise Compacted(detail, code="compacted", status=410, restart_from=restart_from)
        self._revisions.start_over()
        self._ready.append(Event("compacted", restart_from or 0, detail=why.detail))

    def _drop(self) -> None:
        response, self._response, self._lines = self._response, None, iter(())
        if response is not None:
            response.close()


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of a stream, without their ends."""
    parts: List[bytes] = []
    size = 0
    for chunk in response.stream(64 * 1024):
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            yield b"".join([*parts, end]).strip()
            parts, size = [], 0
        size += len(rest)
        if size > HELD_BYTES_MAX:
            raise OutOfOrder(f"a line of more than {HELD_BYTES_MAX} bytes")
        parts.append(rest)
