"""What can go wrong, sorted by what a caller can do about it.

Every error is a :class:`RosterError` and says whether anything may have been done (``outcome``).
"""

from __future__ import annotations

import enum
import json
from typing import Any, Dict, Mapping, Optional, Tuple, Type

# So much of an answer that is no problem document is shown.
_SHOWN_CHARS_MAX = 200

# May pass by itself, also where something in between answered instead of a node.
_PASSING = (429, 502, 503, 504)

# What something in between says without a problem document and is meant for the caller. Whatever
# else has none comes from something that is no Roster node.
_UNDERSTOOD_WITHOUT_DOCUMENT = (*_PASSING, 413)


class Outcome(enum.Enum):
    """Whether a call that failed may have changed anything."""

    NONE = "none"
    """Nothing was done, and nothing will be."""
    UNKNOWN = "unknown"
    """It may have been done, or still be, once."""


class RosterError(Exception):
    """A call that got no success.

    ``detail`` says what happened, for people. ``code`` is the stable word of the API, such as
    ``unknown-instance``, ``http-<status>`` if the answer had none, and empty if there was no answer.
    ``outcome`` takes all tries of the call into account. ``retryable``: it may go better later.
    ``revision`` is what the node said to be at, ``incarnation`` the life that took over
    (``stale-incarnation``), ``restart_from`` from where to list again (``compacted``),
    ``retry_after`` the seconds that the node asked to wait, ``fields`` what is wrong with each field.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        status: Optional[int] = None,
        outcome: Outcome = Outcome.NONE,
        retryable: bool = False,
        revision: Optional[int] = None,
        incarnation: Optional[int] = None,
        restart_from: Optional[int] = None,
        retry_after: Optional[float] = None,
        fields: Tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.outcome = outcome
        self.retryable = retryable
        self.revision = revision
        self.incarnation = incarnation
        self.restart_from = restart_from
        self.retry_after = retry_after
        self.fields = fields

    def __str__(self) -> str:
        named = f"{self.code}: {self.detail}" if self.code else self.detail
        return f"{named} (it may have taken effect)" if self.outcome is Outcome.UNKNOWN else named


class InvalidRequest(RosterError, ValueError):
    """The request cannot be sent as it is (no ``status``), or a node refused it as malformed."""


class RingError(RosterError, ValueError):
    """A description of a ring that breaks the rules: no owner is computed from it."""


class Forbidden(RosterError):
    """Without the right to do so (401, 403)."""


class NotFound(RosterError):
    """What the call is about is not there (404)."""


class Conflict(RosterError):
    """The state of the cluster forbids it (409), such as ``stale-incarnation``."""


class LockHeld(Conflict):
    """Somebody else holds the lock (``lock-held``); the place in its queue was given up."""


class StaleToken(Conflict):
    """Nobody holds what this token stood for (``stale-token``); nothing was changed."""


class Compacted(RosterError):
    """The changes after the asked revision are not kept any more (410): list again."""


class PreconditionFailed(RosterError):
    """A condition of the call does not hold (412), such as ``instance-exists``."""


class TooLarge(RosterError):
    """More than the cluster, or this client, takes at once (413)."""


class Unavailable(RosterError):
    """No node could serve the call in time: no answer at all, or 429 and 5xx from each."""


class UnexpectedAnswer(RosterError):
    """An answer that no Roster node gives: something else listens there, or it is of another
    version. A write may have been done."""


_BY_STATUS: Dict[int, Type[RosterError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Compacted,
    412: PreconditionFailed,
    413: TooLarge,
    429: Unavailable,
}


_BY_CODE: Dict[str, Type[RosterError]] = {
    "lock-held": LockHeld,
    "stale-token": StaleToken,
}


def refusal(
    endpoint: str, status: int, body: bytes, retry_after: Optional[float] = None
) -> RosterError:
    """The error that an answer stands for; what it does not say is judged by its status."""
    document = _document(body)
    code = _text(document.get("code")) or f"http-{status}"
    by_status = _BY_STATUS.get(status, Unavailable if status >= 500 else InvalidRequest)
    kind = _BY_CODE.get(code, by_status)
    if "code" not in document and status not in _UNDERSTOOD_WITHOUT_DOCUMENT:
        return _from_another_server(endpoint, status, body)
    word = document.get("outcome")
    nothing = word == "none" if isinstance(word, str) else status < 500
    retryable = document.get("retryable")
    detail = document.get("detail")
    fields = document.get("errors")
    return kind(
        detail if isinstance(detail, str) else _shown(body),
        code=code,
        status=status,
        outcome=Outcome.NONE if nothing else Outcome.UNKNOWN,
        retryable=retryable if isinstance(retryable, bool) else status in _PASSING,
        revision=_number(document.get("revision")),
        incarnation=_number(document.get("incarnation")),
        restart_from=_number(document.get("restart_from")),
        retry_after=retry_after,
        fields=tuple(f for f in fields if isinstance(f, dict)) if isinstance(fields, list) else (),
    )


def _from_another_server(endpoint: str, status: int, body: bytes) -> UnexpectedAnswer:
    detail = f"{endpoint} does not answer like a Roster node: status {status}, {_shown(body)}"
    # The next node may be one.
    return UnexpectedAnswer(
        detail,
        code=f"http-{status}",
        status=status,
        outcome=Outcome.NONE if status < 500 else Outcome.UNKNOWN,
        retryable=True,
    )


def _document(body: bytes) -> Dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _shown(body: bytes) -> str:
    return body.decode("utf-8", "replace")[:_SHOWN_CHARS_MAX] or "an answer without a reason"


def _text(value: object) -> Optional[str]:
    return value if isinstance(value, str) else None


def _number(value: object) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
