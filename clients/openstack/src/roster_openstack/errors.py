"""Errors of the client as tooz's."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import tooz
from tooz import coordination
from urllib3.exceptions import ReadTimeoutError

from roster_client import RosterError, Unavailable, UnexpectedAnswer

from .encoding import shown


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What the client raises inside is raised as tooz's errors."""
    try:
        yield
    except RosterError as error:
        raise tooz_error(error) from error


@contextlib.contextmanager
def callback_named(group: bytes, callback: Any) -> Iterator[None]:
    """tooz's error of a callback that is not there takes no group that is not UTF-8: what it makes of
    that is raised as the error that was meant."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise coordination.WatchCallbackNotFound(shown(group), callback) from error  # type: ignore[arg-type]


def tooz_error(error: RosterError) -> tooz.ToozError:
    """The error of tooz that says the same to its callers."""
    text = f"Roster: {error}"
    if isinstance(error, Unavailable):
        slow = error.code == "timeout" or isinstance(error.__cause__, ReadTimeoutError)
        return (coordination.OperationTimedOut if slow else coordination.ToozConnectionError)(text)
    if isinstance(error, UnexpectedAnswer):
        return coordination.ToozConnectionError(text)
    return tooz.ToozError(text)
