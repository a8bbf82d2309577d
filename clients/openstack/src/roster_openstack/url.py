"""What a URL of the driver says: ``roster://host1:7401,host2:7402/?timeout=15``."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Tuple
from urllib.parse import SplitResult

from tooz import coordination

from roster_client import Client, InvalidRequest

from .encoding import to_bytes

LOG = logging.getLogger(__name__)

PORT_DEFAULT = 7400
"""Where a node's API listens unless told otherwise."""

TIMEOUT_SECONDS_DEFAULT = 15.0
_TIMEOUT_SECONDS_MIN = 1.0
_TIMEOUT_SECONDS_MAX = 86_400.0

_NAMESPACE_BYTES_MAX = 256

_OPTIONS = frozenset(
    ("ca_cert", "cert_cert", "cert_key", "executor", "namespace", "timeout", "verify")
)


@dataclass(frozen=True)
class Settings:
    """A URL and its options, checked."""

    endpoints: Tuple[str, ...]
    """``host:port`` of each node."""
    timeout: float
    """Seconds after which a member that is not heard of is gone, with its locks."""
    namespace: str
    """What the names of apps, elections and locks begin with."""
    tls: Optional[ssl.SSLContext]
    """How to make connections with TLS, if at all."""


def settings_of(url: Any, options: Mapping[str, Any]) -> Settings:
    """Reads a URL that was split, and options, one value each.

    Raises :class:`ToozConnectionError` for what cannot be meant."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        LOG.warning(
            "These options of the coordination URL mean nothing to Roster: %s", ", ".join(unknown)
        )
    if url.path not in ("", "/"):
        # Not refused: URLs of other drivers have one, and so do those of tooz's own suite.
        LOG.warning(
            "The path %r of the coordination URL means nothing to Roster; namespace= is an option",
            url.path[:40],
        )
    namespace = str(options.get("namespace", ""))
    # What is printable has an encoding.
    if not namespace.isprintable() or len(to_bytes(namespace)) > _NAMESPACE_BYTES_MAX:
        raise wrong(
            f"namespace={namespace[:40]!r} is no text of at most {_NAMESPACE_BYTES_MAX} bytes"
        )
    return Settings(
        endpoints=_endpoints(url),
        timeout=_timeout(options.get("timeout", TIMEOUT_SECONDS_DEFAULT)),
        namespace=namespace,
        tls=_tls(options) if url.scheme.endswith("+https") else None,
    )


def wrong(why: str) -> coordination.ToozConnectionError:
    """The error of a URL that cannot be meant."""
    return coordination.ToozConnectionError(
        f"The coordination URL is wrong: {why}. It looks like "
        "roster://host1:7400,host2:7400,host3:7400/?timeout=15"
    )


def _endpoints(url: Any) -> Tuple[str, ...]:
    if "@" in url.netloc:
        raise wrong("it names a user, and Roster knows none")
    endpoints = tuple(_endpoint(text.strip()) for text in url.netloc.split(",") if text.strip())
    if not endpoints:
        raise wrong("it names no host")
    try:
        # It connects to nobody yet.
        Client(endpoints).close()
    except InvalidRequest as error:
        raise wrong(error.detail) from error
    return endpoints


def _endpoint(text: str) -> str:
    parts = SplitResult("", text, "", "", "")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong(f"{text!r} is not HOST:PORT ({error})") from error
    if not host or port == 0 or text.endswith(":"):
        raise wrong(f"{text!r} is not HOST:PORT")
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port or PORT_DEFAULT}"


def _timeout(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not _TIMEOUT_SECONDS_MIN <= seconds <= _TIMEOUT_SECONDS_MAX:
        raise wrong(f"timeout={value} is no number of seconds from 1 to 86400")
    return seconds


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    verify = str(options.get("verify", "true")).lower()
    if verify not in ("true", "false", "1", "0", "yes", "no"):
        raise wrong(f"verify={verify} is neither true nor false")
    certificate, key = options.get("cert_cert"), options.get("cert_key")
    try:
        context = ssl.create_default_context(cafile=options.get("ca_cert"))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise wrong(f"its certificates cannot be read: {error}") from error
    if verify in ("false", "0", "no"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
