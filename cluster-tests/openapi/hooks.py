"""What schemathesis is told beside the document: names that are there, waits that end, and MessagePack."""

from __future__ import annotations

import re
from typing import Any

import msgpack
import schemathesis

# Names that `conformance.py` has made, so that not everything is about what is not there.
THERE = {
    "app": ("pay", "fetchers"),
    "id": ("a", "f1"),
    "set": ("main", "main"),
    "session": ("1", "2"),
}

# Waits of requests end after this.
SHORT = "20ms"

DURATION = re.compile(r"\s*([0-9]+\s*[a-z]+\s*)+")


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Every second name is one that is there."""
    for name, there in THERE.items():
        value = (path_parameters or {}).get(name)
        if isinstance(value, str) and len(value) % 3 != 2 and value not in (".", ".."):
            path_parameters[name] = there[len(value) % 3]
    return path_parameters


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """A revision that this node does not reach is answered 504 in the end, as the document says; it would be
    a server error to the check. A wait for a change that does not come would hold the run up."""
    query = case.query or {}
    for name in ("min_revision", "index"):
        if is_number(query.get(name)):
            query[name] = int(query[name]) % 8
    if "index" in query and ("wait" not in query or is_duration(query["wait"])):
        query["wait"] = SHORT
    if isinstance(case.body, dict) and is_duration(case.body.get("wait")):
        case.body["wait"] = SHORT


def is_number(value: Any) -> bool:
    return str(value).isdecimal() and str(value).isascii()


def is_duration(value: Any) -> bool:
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


@schemathesis.serializer("application/msgpack")
def to_msgpack(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return msgpack.packb(value)


@schemathesis.deserializer("application/msgpack")
def from_msgpack(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    return msgpack.unpackb(response.content)
