"""Ids of any bytes, as Roster's texts."""

from __future__ import annotations

import pytest
import tooz

from roster_openstack.encoding import Ids, decode, encode, shown, to_bytes


@pytest.mark.parametrize(
    ("id", "text"),
    [
        (b"central-global", "central-global"),
        (b"a/b %2F", "a/b %2F"),
        ("größer".encode(), "größer"),
        (b"\xff\x00", "b64:_wA"),
        (b"a\x00b", "b64:YQBi"),
        (b"a\nb", "b64:YQpi"),
        ("a\x85b".encode(), "b64:YcKFYg"),
        (b"b64:YQ", "b64:YjY0OllR"),
        (b"", "b64:"),
        (b".", "b64:Lg"),
        (b"..", "b64:Li4"),
    ],
)
def test_an_id_travels_as_it_is_where_it_can_and_comes_back_unchanged(id: bytes, text: str) -> None:
    assert encode(id) == text
    assert decode(text) == id


def test_all_bytes_come_back_unchanged() -> None:
    for first in range(256):
        for second in (0, 47, 128, 255):
            id = bytes([first, second])
            assert decode(encode(id)) == id


def test_names_that_others_gave_stand_for_their_own_text() -> None:
    for text in ("b64:!", "b64:YQ==", "b64:Y", "b64:YR", "b64:YWI"):
        assert decode(text) == text.encode()


def test_text_is_its_utf_8_and_anything_else_is_refused() -> None:
    assert to_bytes("größer") == "größer".encode()
    assert to_bytes(b"\xff") == b"\xff"
    with pytest.raises(TypeError):
        to_bytes(7)  # type: ignore[arg-type]
    with pytest.raises(tooz.ToozError, match="no UTF-8"):
        to_bytes("\ud800")


def test_an_id_over_the_limit_of_the_cluster_is_refused_in_words() -> None:
    ids = Ids("cloud/")
    assert len(ids.group(b"a" * 1_018)) == 1_024
    with pytest.raises(tooz.ToozError, match="1025 bytes long for Roster; at most 1024"):
        ids.group(b"a" * 1_019)
    with pytest.raises(tooz.ToozError, match="at most 1024"):
        ids.member(b"\xff" * 800)


def test_a_namespace_keeps_the_groups_of_others_out() -> None:
    ids = Ids("cloud/")
    assert ids.group(b"a") == "cloud/a"
    assert ids.group(b"\xff") == "cloud/b64:_w"
    assert ids.group_of("cloud/b64:_w") == b"\xff"
    assert ids.group_of("other/a") is None


def test_an_id_is_shown_whatever_its_bytes_are() -> None:
    assert shown(b"a\xff") == "a\\xff"
