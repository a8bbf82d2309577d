"""Ids of any bytes as Roster's ids, which are text.

Text travels as it is, so that people recognise it; what no id may be, or would be mistaken for the
other form, travels as ``b64:`` and base64url without padding.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from typing import Union

import tooz

ID_BYTES_MAX = 1_024
"""So long may an id of Roster be, prefix included."""

_ENCODED = "b64:"

# They cannot stand in the path of a URL.
_DOTS = (".", "..")


def to_bytes(id: Union[str, bytes]) -> bytes:
    """An id as its callers give it: bytes, or text that stands for its UTF-8.

    Raises :class:`ToozError` for text that has none (half of a surrogate pair)."""
    if isinstance(id, bytes):
        return id
    if isinstance(id, str):
        try:
            return id.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise tooz.ToozError(f"the id {id[:40]!r} has no UTF-8 encoding: {error}") from error
    raise TypeError(f"an id is bytes or text, not {id!r}")


def shown(id: bytes) -> str:
    """An id for people: messages, and tooz's errors, which cannot take all bytes."""
    return id.decode("utf-8", "backslashreplace")


class Ids:
    """Ids with a prefix that keeps the groups of one deployment apart from those of others."""

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace

    def group(self, id: bytes) -> str:
        """The name of a group's app, of its election, or of a lock."""
        return _checked(self._namespace + encode(id), id)

    def group_of(self, name: str) -> Union[bytes, None]:
        """The group of an app, ``None`` for an app of others."""
        if not name.startswith(self._namespace):
            return None
        return decode(name[len(self._namespace) :])

    @staticmethod
    def member(id: bytes) -> str:
        """The id of a member's instance."""
        return _checked(encode(id), id)


def encode(id: bytes) -> str:
    """The text of an id, of whatever length."""
    text = _plain(id)
    if text is not None:
        return text
    return _ENCODED + base64.urlsafe_b64encode(id).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The id of a text. A text that :func:`encode` never gives stands for its own UTF-8."""
    if text.startswith(_ENCODED):
        digits = text[len(_ENCODED) :]
        try:
            id = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return text.encode("utf-8")
        if encode(id) == text:
            return id
    return text.encode("utf-8")


def _plain(id: bytes) -> Union[str, None]:
    try:
        text = id.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not text or text in _DOTS or text.startswith(_ENCODED):
        return None
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return None
    return text


def _checked(text: str, id: bytes) -> str:
    length = len(text.encode("utf-8"))
    if length > ID_BYTES_MAX:
        raise tooz.ToozError(
            f"the id {shown(id)[:40]!r}... is {length} bytes long for Roster; at most {ID_BYTES_MAX}"
        )
    return text
