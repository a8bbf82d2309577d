"""Nodes that answer what a test tells them to."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Optional, Type, Union

PATIENCE_SECONDS = 20.0


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Fails if it does not come about."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.005)


@dataclass
class Request:
    method: str
    path: str
    query: Dict[str, List[str]]
    headers: Dict[str, str]
    raw_body: bytes
    target: str

    @property
    def body(self) -> Any:
        return json.loads(self.raw_body)

    def one(self, name: str) -> Optional[str]:
        return self.query.get(name, [None])[0]


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: Dict[str, str] = field(default_factory=dict)


def problem(status: int, code: str, **more: Any) -> Reply:
    retryable = status in (429, 503, 504)
    document = {"code": code, "detail": f"told {code}", "outcome": "none", "retryable": retryable}
    headers = {"content-type": "application/problem+json"}
    return Reply({**document, "status": status, **more}, status, headers)


@dataclass
class Drop:
    """The connection breaks before any answer."""


@dataclass
class Stream:
    """Lines of a watch. A callable is called in its place (to wait for something); at the end the
    stream ends cleanly or, if ``breaks``, in the middle."""

    lines: Iterable[Union[Dict[str, Any], str, Callable[[], None]]]
    breaks: bool = False


Script = Callable[[Request], Union[Reply, Drop, Stream]]


class ScriptedServer:
    """One node. ``script`` is asked in a thread per connection; ``requests`` has all that came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: List[Request] = []
        self.over = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, ValueError):
                    self.close_connection = True

            def answer(self) -> None:
                owner.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_over(self) -> None:
        """Waits until the test is done with this node."""
        self.over.wait()

    def asked(self, method: str, ending: str = "") -> List[Request]:
        """The requests of a method whose path ends so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urllib.parse.urlsplit(handler.path)
        request = Request(
            method=handler.command,
            path=parts.path,
            query=urllib.parse.parse_qs(parts.query, encoding="latin-1"),
            headers={name.lower(): value for name, value in handler.headers.items()},
            raw_body=handler.rfile.read(int(handler.headers.get("content-length") or 0)),
            target=handler.path,
        )
        self.requests.append(request)
        reply = self.script(request)
        if isinstance(reply, Drop):
            self._break(handler)
        elif isinstance(reply, Stream):
            self._stream(handler, reply)
        else:
            self._reply(handler, reply)

    def _reply(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    def _stream(self, handler: BaseHTTPRequestHandler, stream: Stream) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/x-ndjson")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for line in stream.lines:
            if callable(line):
                line()
                continue
            raw = (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
            handler.wfile.flush()
        if stream.breaks:
            self._break(handler)
        else:
            handler.wfile.write(b"0\r\n\r\n")

    def _break(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)


def closed_endpoint() -> str:
    """An address at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return f"127.0.0.1:{port}"


def never(request: Request) -> Reply:
    raise AssertionError(f"nobody should ask for {request.method} {request.target}")


REGISTERED: Dict[str, Any] = {
    "app": "pay",
    "id": "a",
    "incarnation": 7,
    "session": "3",
    "ttl": "15s",
    "heartbeat_every": "5s",
    "revision": 7,
}
