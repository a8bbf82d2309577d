"""One request to the cluster, and its way to a node that answers it.

One rule decides what is sent again: after an unknown outcome, only what may be done twice.
"""

from __future__ import annotations

import functools
import json
import random
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, Union

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, NewConnectionError

from .errors import InvalidRequest, Outcome, RosterError, Unavailable, UnexpectedAnswer, refusal
from .rhythm import RETRY_AFTER_SECONDS_MAX

# More are a mistake in the list.
ENDPOINTS_MAX = 64

# The nodes are near.
_CONNECT_SECONDS = 1.5

# While others can still be asked, a node gets its share of a call's time, but at least this. Beyond
# the time for a connection: else one that is never made would look like an unknown outcome.
_SHARE_SECONDS_MIN = 2.0

# What a try gets that begins when the call's time is nearly over.
_LATE_TRY_SECONDS_MIN = 0.25

_PAUSE_SECONDS_MIN = 0.1
_PAUSE_SECONDS_MAX = 5.0

# Idle connections that are kept per node; more calls at once open more, which are closed after.
_CONNECTIONS_KEPT = 16

# A longer answer is not read: the largest page that nodes give is smaller.
_ANSWER_BYTES_MAX = 256 * 1024 * 1024

Query = Sequence[Tuple[str, Union[str, bytes, int]]]


def path(*segments: str) -> str:
    """A path of these segments, each percent-encoded: ``path("v1", "a/b")`` is ``/v1/a%2Fb``.

    Raises :class:`InvalidRequest` for one that is empty, ``.`` or ``..``: URLs cannot carry it."""
    for segment in segments:
        if not isinstance(segment, str) or segment in ("", ".", ".."):
            raise InvalidRequest(f"{segment!r} cannot stand in the path of a URL")
    try:
        return "".join("/" + urllib.parse.quote(segment, safe="") for segment in segments)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"an id has no UTF-8 encoding: {error}") from error


class Cancellation:
    """Lets another thread end a call that waits for its answer: the call's connection is closed, and
    the call fails with :class:`Unavailable`, of unknown outcome. It is good for one call; one that is
    cancelled before it begins sends nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._socket: Optional[socket.socket] = None

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Ends the call, if it has not ended yet."""
        with self._lock:
            self._cancelled = True
            if self._socket is not None:
                _shut(self._socket)

    def connected(self, connection: socket.socket) -> None:
        """The call goes over this connection from here on."""
        with self._lock:
            self._socket = connection
            if self._cancelled:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    try:
        # Unlike a close, a shutdown wakes whoever waits for the answer. On a handle of its own, so that
        # TLS takes it for a connection that broke, not for one that is no more TLS.
        with socket.fromfd(connection.fileno(), connection.family, connection.type) as handle:
            handle.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It was closed already.
        pass


@dataclass(frozen=True)
class Call:
    """A request. ``repeatable``: doing it twice is the same as doing it once."""

    method: str
    path: str
    query: Query = ()
    body: Optional[bytes] = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    patience: Optional[float] = None
    """Seconds for all nodes together, instead of the client's timeout."""
    share_min: Optional[float] = None
    """Seconds that each node gets at least, instead of what the client gives."""
    wait: float = 0.0
    """Seconds that a node is asked to hold its answer back: each gets them on top."""
    cancellation: Optional[Cancellation] = None
    """What ends it from another thread. Such a call has a connection of its own to each node."""

    @property
    def target(self) -> str:
        try:
            query = urllib.parse.urlencode(list(self.query), quote_via=urllib.parse.quote)
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"a parameter has no UTF-8 encoding: {error}") from error
        return f"{self.path}?{query}" if query else self.path


def json_body(value: object) -> bytes:
    """Raises :class:`InvalidRequest` for what cannot be written as JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body cannot be written as JSON: {error}") from error


@dataclass(frozen=True)
class Answer:
    """A success. ``revision`` is that of the answer, if it names one."""

    status: int
    revision: Optional[int]
    body: bytes
    endpoint: str

    def json(self) -> Dict[str, Any]:
        """Raises :class:`UnexpectedAnswer` if it is no JSON object. A write was done all the same."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise self.not_understood(f"no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.not_understood(f"a {type(value).__name__} instead of an object")
        return value

    def not_understood(self, why: str) -> UnexpectedAnswer:
        detail = f"{self.endpoint} does not answer like a Roster node: {why}"
        return UnexpectedAnswer(detail, status=self.status, outcome=Outcome.UNKNOWN)


class Node:
    """One node's address and the connections to it."""

    def __init__(self, text: str, tls: Optional[ssl.SSLContext] = None) -> None:
        host, port = _address(text)
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._new_pool = functools.partial(_pool, host, port, tls)
        try:
            self._pool = self._new_pool()
        except LocationValueError as error:
            raise InvalidRequest(f"endpoint {text!r} is not HOST:PORT ({error})") from error

    def open(self, call: Call, seconds: float) -> urllib3.BaseHTTPResponse:
        """Sends a call and gives the beginning of a success back; each silence of the node, now and
        while the answer is read, may last ``seconds``."""
        timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, seconds), read=seconds)
        if call.cancellation is not None and call.cancellation.is_cancelled:
            raise Unavailable("the call was cancelled before it was sent")
        try:
            response = self._pool_of(call).urlopen(
                call.method,
                call.target,
                body=call.body,
                headers=dict(call.headers),
                retries=False,
                redirect=False,
                timeout=timeout,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self.no_answer(call, error) from error
        if 200 <= response.status < 300:
            return response
        raise self._refusal(call, response)

    def ask(self, call: Call, seconds: float) -> Answer:
        """Sends a call and reads the whole of its success."""
        response = self.open(call, seconds)
        body = self._read(call, response)
        revision = response.headers.get("roster-revision", "")
        number = int(revision) if revision.isascii() and revision.isdigit() else None
        return Answer(response.status, number, body, self.name)

    def no_answer(self, call: Call, error: Exception) -> Unavailable:
        not_sent = isinstance(error, (NewConnectionError, ConnectTimeoutError))
        nothing = not_sent or call.method == "GET"
        outcome = Outcome.NONE if nothing else Outcome.UNKNOWN
        if call.cancellation is not None and call.cancellation.is_cancelled:
            return Unavailable(f"{self.name}: the call was cancelled", outcome=outcome)
        return Unavailable(f"{self.name}: no answer: {error}", outcome=outcome, retryable=True)

    def close(self) -> None:
        self._pool.close()

    def _pool_of(self, call: Call) -> urllib3.HTTPConnectionPool:
        if call.cancellation is None:
            return self._pool
        # A pool for this call alone, so that nobody else's connection is closed with it.
        pool = self._new_pool()
        pool.ConnectionCls = _noted(call.cancellation, isinstance(pool, urllib3.HTTPSConnectionPool))
        return pool

    def _refusal(self, call: Call, response: urllib3.BaseHTTPResponse) -> RosterError:
        if response.status < 400:
            response.close()
            detail = f"{self.name} does not answer like a Roster node: status {response.status}"
            outcome = Outcome.NONE if call.method == "GET" else Outcome.UNKNOWN
            return UnexpectedAnswer(detail, status=response.status, outcome=outcome, retryable=True)
        seconds = response.headers.get("retry-after", "")
        retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else None
        error = refusal(self.name, response.status, self._read(call, response), retry_after)
        if call.method == "GET":
            error.outcome = Outcome.NONE
        return error

    def _read(self, call: Call, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            body = response.read(_ANSWER_BYTES_MAX + 1)
        except (HTTPError, OSError) as error:
            response.close()
            raise self.no_answer(call, error) from error
        if len(body) > _ANSWER_BYTES_MAX:
            response.close()
            detail = f"{self.name}: the answer is over the limit of {_ANSWER_BYTES_MAX} bytes"
            raise UnexpectedAnswer(detail, outcome=Outcome.UNKNOWN)
        response.release_conn()
        return body


def _noted(
    cancellation: Cancellation, tls: bool
) -> Union[Type[HTTPConnection], Type[HTTPSConnection]]:
    """Connections that a cancellation hears of."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            cancellation.connected(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            cancellation.connected(self.sock)

    return Secure if tls else Plain


def _pool(host: str, port: int, tls: Optional[ssl.SSLContext]) -> urllib3.HTTPConnectionPool:
    if tls is None:
        return urllib3.HTTPConnectionPool(
            host, port, maxsize=_CONNECTIONS_KEPT, block=False, retries=False
        )
    return urllib3.HTTPSConnectionPool(
        host,
        port,
        maxsize=_CONNECTIONS_KEPT,
        block=False,
        retries=False,
        ssl_context=tls,
        # The context decides; urllib3 would otherwise decide once more.
        assert_hostname=None if tls.check_hostname else False,
        cert_reqs=tls.verify_mode,
    )


def _address(text: str) -> Tuple[str, int]:
    def wrong(why: str) -> InvalidRequest:
        return InvalidRequest(f"endpoint {text!r} {why}, such as 127.0.0.1:7401")

    if text.startswith("https://"):
        raise wrong("asks for TLS; give HOST:PORT, and the client a TLS context")
    address = text[len("http://") :] if text.startswith("http://") else text
    try:
        parts = urllib.parse.urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(f"is not HOST:PORT ({error})") from error
    if not host or not port or parts.username is not None or parts.path not in ("", "/"):
        raise wrong("is not HOST:PORT")
    return host, port


class Transport:
    """The nodes of one cluster, and the one that calls go to. Threads may share it."""

    def __init__(
        self,
        endpoints: Union[str, Iterable[str]],
        timeout: float,
        share_min: float = _SHARE_SECONDS_MIN,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        self.nodes: List[Node] = [Node(text.strip(), tls) for text in texts if text.strip()]
        if not 1 <= len(self.nodes) <= ENDPOINTS_MAX:
            raise InvalidRequest(f"{len(self.nodes)} endpoints; 1 to {ENDPOINTS_MAX} are needed")
        if not timeout > 0:
            raise InvalidRequest(f"a timeout of {timeout!r} seconds leaves no time for an answer")
        self.timeout = timeout
        self._share_min = share_min
        self._current = 0
        self._lock = threading.Lock()

    def current(self) -> int:
        """The place of the node that calls are sent to."""
        return self._current

    def leave(self, failed: int) -> int:
        """Goes on to the next node, unless another call has left the failed one already; gives the
        place of the node after the failed one."""
        following = (failed + 1) % len(self.nodes)
        with self._lock:
            if self._current == failed:
                self._current = following
        return following

    def send(self, call: Call) -> Answer:
        """Sends a call to one node after the other until one answers it, or says no, or the call's
        time is over. Each node is asked once before one is asked again.

        Raises what the last node said; its outcome takes all tries into account."""
        patience = self.timeout if call.patience is None else call.patience
        until = time.monotonic() + patience
        share = self.share(patience, call.share_min) if call.repeatable else patience
        pauses = Pauses(len(self.nodes))
        place, unknown = self.current(), False
        seconds = share
        while True:
            try:
                return self.nodes[place].ask(call, seconds + call.wait)
            except RosterError as error:
                unknown = unknown or error.outcome is Outcome.UNKNOWN
                if error.retryable:
                    # Also where this call ends: the next one may be better off elsewhere.
                    place = self.leave(place)
                may_repeat = error.outcome is Outcome.NONE or call.repeatable
                if unknown:
                    error.outcome = Outcome.UNKNOWN
                if not (error.retryable and may_repeat):
                    raise
                pause = pauses.after_failure(error.retry_after)
                if time.monotonic() + pause >= until:
                    raise
            time.sleep(pause)
            # A try that begins late must not make the call much longer than its time.
            left = until - time.monotonic()
            seconds = min(share, max(left, _LATE_TRY_SECONDS_MIN))

    def share(self, patience: float, share_min: Optional[float] = None) -> float:
        """The seconds that one node gets, so that one that hangs leaves time for the others."""
        least = self._share_min if share_min is None else share_min
        return min(max(patience / len(self.nodes), least), patience)

    def names(self) -> str:
        return ", ".join(node.name for node in self.nodes)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


class Pauses:
    """The pauses of one row of failures. Each is a random part of its limit, so that the clients of
    a node that died do not all come to the next one at once; the limit grows with each round over
    all nodes."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._failures = 0

    def reset(self) -> None:
        """Things go well again."""
        self._failures = 0

    @property
    def all_were_tried(self) -> bool:
        return self._failures >= self._nodes

    def after_failure(self, retry_after: Optional[float] = None) -> float:
        """Seconds. What a node asked for counts once all were tried: until then the next one may be
        better off."""
        self._failures += 1
        rounds = min(self._failures // self._nodes, 16)
        limit = min(_PAUSE_SECONDS_MIN * (1 << rounds), _PAUSE_SECONDS_MAX)
        pause = limit * random.uniform(0.5, 1.0)
        if retry_after is not None and rounds:
            pause = max(pause, min(retry_after, RETRY_AFTER_SECONDS_MAX))
        return pause
