"""XXH64, the published algorithm: the same 64-bit number in every language.

:func:`xxh64` is the package ``xxhash`` where that can be imported, else :func:`xxh64_pure`.
"""

from __future__ import annotations

import importlib
from typing import Callable

_MASK = 0xFFFFFFFFFFFFFFFF
_PRIME_1 = 0x9E3779B185EBCA87
_PRIME_2 = 0xC2B2AE3D27D4EB4F
_PRIME_3 = 0x165667B19E3779F9
_PRIME_4 = 0x85EBCA77C2B2AE63
_PRIME_5 = 0x27D4EB2F165667C5

_STRIPE = 32


def xxh64_pure(data: bytes, seed: int = 0) -> int:
    """The XXH64 hash of ``data`` with a seed of 0..2^64-1, in plain Python."""
    length = len(data)
    whole = length - length % _STRIPE
    if whole:
        accumulator = _stripes(data, whole, seed)
    else:
        accumulator = (seed + _PRIME_5) & _MASK
    return _avalanche(_rest(data, whole, (accumulator + length) & _MASK))


def _stripes(data: bytes, end: int, seed: int) -> int:
    lanes = [
        (seed + _PRIME_1 + _PRIME_2) & _MASK,
        (seed + _PRIME_2) & _MASK,
        seed,
        (seed - _PRIME_1) & _MASK,
    ]
    for stripe in range(0, end, _STRIPE):
        for lane in range(4):
            at = stripe + 8 * lane
            lanes[lane] = _round(lanes[lane], int.from_bytes(data[at : at + 8], "little"))
    a, b, c, d = lanes
    merged = (_rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)) & _MASK
    for lane_value in lanes:
        merged = ((merged ^ _round(0, lane_value)) * _PRIME_1 + _PRIME_4) & _MASK
    return merged


def _rest(data: bytes, at: int, accumulator: int) -> int:
    end = len(data)
    while at + 8 <= end:
        accumulator ^= _round(0, int.from_bytes(data[at : at + 8], "little"))
        accumulator = (_rotate(accumulator, 27) * _PRIME_1 + _PRIME_4) & _MASK
        at += 8
    if at + 4 <= end:
        accumulator ^= (int.from_bytes(data[at : at + 4], "little") * _PRIME_1) & _MASK
        accumulator = (_rotate(accumulator, 23) * _PRIME_2 + _PRIME_3) & _MASK
        at += 4
    for byte in data[at:]:
        accumulator ^= (byte * _PRIME_5) & _MASK
        accumulator = (_rotate(accumulator, 11) * _PRIME_1) & _MASK
    return accumulator


def _avalanche(accumulator: int) -> int:
    accumulator ^= accumulator >> 33
    accumulator = (accumulator * _PRIME_2) & _MASK
    accumulator ^= accumulator >> 29
    accumulator = (accumulator * _PRIME_3) & _MASK
    return accumulator ^ (accumulator >> 32)


def _round(accumulator: int, lane: int) -> int:
    return (_rotate((accumulator + lane * _PRIME_2) & _MASK, 31) * _PRIME_1) & _MASK


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _fastest() -> Callable[[bytes, int], int]:
    try:
        fast: Callable[[bytes, int], int] = importlib.import_module("xxhash").xxh64_intdigest
    except (ImportError, AttributeError):
        return xxh64_pure
    return fast


xxh64: Callable[[bytes, int], int] = _fastest()
"""The XXH64 hash of bytes with a seed of 0..2^64-1, as fast as can be had here."""
