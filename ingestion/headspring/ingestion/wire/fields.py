"""Protobuf fields in compiled code: where one begins and ends, every length checked.

Source: protobuf.dev/programming-guides/encoding. Groups, over-long varints and field number 0 are
malformed here; the plain path then decides what they are worth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headspring.ingestion.wire.hashing import load_u8
from headspring.ingestion.wire.jit import compiled, inlined

OK = 0
NOT_TAKEN = 1
"""Malformed, or a case that the plain path must do."""

_MAX_TAG = 0xFFFFFFFF
_TEN_BYTES = 10
"""A 64-bit varint has at most ten bytes, the last one 0 or 1."""


@inlined
def varint(buffer: Any, position: int, end: int) -> Any:
    """(value, position behind it); position -1 where it is malformed or leaves `end`."""
    if position < end:
        # Nearly all tags and lengths are one byte.
        first = load_u8(buffer, position)
        if first < 0x80:
            return np.uint64(first), position + 1
    return _long_varint(buffer, position, end)


@compiled
def _long_varint(buffer: Any, position: int, end: int) -> Any:
    value = np.uint64(0)
    for index in range(_TEN_BYTES):
        if position >= end:
            return value, -1
        byte = load_u8(buffer, position)
        position += 1
        if index == _TEN_BYTES - 1 and byte > 1:
            return value, -1
        value |= np.uint64(byte & np.uint8(0x7F)) << np.uint64(7 * index)
        if byte < 0x80:
            return value, position
    return value, -1


@inlined
def field(buffer: Any, position: int, end: int) -> Any:
    """(tag, start, stop) of the field at `position`: its payload is `buffer[start:stop]` and the next
    field begins at `stop`. stop = -1 where it is malformed or leaves `end`."""
    tag, start = varint(buffer, position, end)
    if start < 0 or tag > np.uint64(_MAX_TAG) or tag < np.uint64(8):
        return 0, 0, -1
    wire_type = tag & np.uint64(7)
    if wire_type == np.uint64(2):
        length, begin = varint(buffer, start, end)
        if begin < 0 or length > np.uint64(end - begin):
            return 0, 0, -1
        return np.int64(tag), begin, begin + np.int64(length)
    if wire_type == np.uint64(0):
        _, stop = varint(buffer, start, end)
        return np.int64(tag), start, stop
    if wire_type == np.uint64(1):
        return np.int64(tag), start, start + 8 if start + 8 <= end else -1
    if wire_type == np.uint64(5):
        return np.int64(tag), start, start + 4 if start + 4 <= end else -1
    return 0, 0, -1
