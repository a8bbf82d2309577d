"""Errors of the client as tooz's."""

from __future__ import annotations

import contextlib
from typing import Iterator

import tooz
from tooz import coordination
from urllib3.exceptions import ReadTimeoutError

from roster_client import RosterError, Unavailable, UnexpectedAnswer


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What the client raises inside is raised as tooz's errors."""
    try:
        yield
    except RosterError as error:
        raise tooz_error(error) from error


def tooz_error(error: RosterError) -> tooz.ToozError:
    """The error of tooz that says the same to its callers."""
    text = f"Roster: {error}"
    if isinstance(error, Unavailable):
        slow = error.code == "timeout" or isinstance(error.__cause__, ReadTimeoutError)
        return (coordination.OperationTimedOut if slow else coordination.ToozConnectionError)(text)
    if isinstance(error, UnexpectedAnswer):
        return coordination.ToozConnectionError(text)
    return tooz.ToozError(text)
