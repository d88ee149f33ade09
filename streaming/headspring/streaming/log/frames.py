"""The bytes of the embedded log: a frame is one batch of records, found whole or not at all.

A frame is a header, then its records. The header carries a checksum over everything that follows it,
so a frame that was only half written, or damaged later, is noticed. Each record carries its distance
from the frame's first offset: after compaction offsets have holes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headspring.streaming.log.port import Record

MAGIC = b"HSB1"
_HEADER = struct.Struct("<4sIIIQQq")
"""Magic, payload bytes, crc32 of the rest, records, first offset, last offset, newest record time (ns)."""
HEADER_BYTES = _HEADER.size
_CRC_FROM = 12
"""The checksum covers the header from here on, and the payload."""
_RECORD = struct.Struct("<IIIIq")
"""Offset minus first offset, bytes of key, value and headers, record time (ns)."""
_MAX_DISTANCE = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    payload_bytes: int
    crc: int
    count: int
    first: int
    last: int
    newest_ns: int

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_BYTES + self.payload_bytes


def record_bytes(record: Record) -> int:
    """About what a record takes in a frame; headers count by their characters."""
    size = _RECORD.size + len(record.key) + len(record.value)
    for name, text in record.headers.items():
        size += len(name) + len(text) + 8
    return size


def encode_frame(records: Sequence[tuple[int, Record]]) -> bytes:
    """One frame of records with rising offsets.

    Raises:
        ValueError: no records, or offsets more than 2^32 apart.
    """
    if not records:
        raise ValueError("a frame needs at least one record")
    first, last = records[0][0], records[-1][0]
    if last - first > _MAX_DISTANCE:
        raise ValueError(f"offsets {first} and {last} are too far apart for one frame")
    parts: list[bytes] = []
    newest = records[0][1].time_ns
    for offset, record in records:
        headers = json.dumps(dict(record.headers), separators=(",", ":")).encode() if record.headers else b""
        parts.append(_RECORD.pack(offset - first, len(record.key), len(record.value), len(headers), record.time_ns))
        parts += (record.key, record.value, headers)
        newest = max(newest, record.time_ns)
    payload = b"".join(parts)
    header = _HEADER.pack(MAGIC, len(payload), 0, len(records), first, last, newest)
    crc = zlib.crc32(payload, zlib.crc32(header[_CRC_FROM:]))
    return b"".join((_HEADER.pack(MAGIC, len(payload), crc, len(records), first, last, newest), payload))


def read_header(data: bytes | memoryview, position: int = 0) -> FrameHeader | None:
    """The header at `position`; None where there is none (nothing is verified but the magic)."""
    if len(data) - position < HEADER_BYTES:
        return None
    magic, size, crc, count, first, last, newest = _HEADER.unpack_from(data, position)
    if magic != MAGIC or last < first or count < 1:
        return None
    return FrameHeader(payload_bytes=size, crc=crc, count=count, first=first, last=last, newest_ns=newest)


def is_whole(frame: bytes | memoryview, header: FrameHeader) -> bool:
    """True if `frame` (header and payload) is complete and has the checksum its header names."""
    if len(frame) != header.size:
        return False
    view = memoryview(frame)
    return zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[_CRC_FROM:HEADER_BYTES])) == header.crc


def decode_records(frame: bytes | memoryview, header: FrameHeader) -> Iterator[tuple[int, Record]]:
    """Offsets and records of a frame that `is_whole`."""
    position = HEADER_BYTES
    for _ in range(header.count):
        distance, key_size, value_size, headers_size, time_ns = _RECORD.unpack_from(frame, position)
        start = position + _RECORD.size
        value_at, headers_at = start + key_size, start + key_size + value_size
        position = headers_at + headers_size
        headers = json.loads(bytes(frame[headers_at:position])) if headers_size else {}
        yield (
            header.first + distance,
            Record(
                key=bytes(frame[start:value_at]),
                value=bytes(frame[value_at:headers_at]),
                time_ns=time_ns,
                headers=headers,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a file holds."""

    frames: tuple[tuple[int, FrameHeader], ...]
    """Position and header of every whole frame, in order."""
    good_bytes: int
    """The file is sound up to here; what follows is the torn tail."""
    damaged: int
    """Places before the tail that no whole frame covers."""


def scan(data: bytes | memoryview, *, from_offset: int = 0) -> Scan:
    """Finds every whole frame. Damage between whole frames is stepped over and counted; after the last one it
    is a torn tail. Frames that go back in offsets are damage."""
    view = memoryview(data)
    frames: list[tuple[int, FrameHeader]] = []
    position, good, damaged, expected = 0, 0, 0, from_offset
    raw = bytes(data) if not isinstance(data, bytes) else data
    lost = False
    while position < len(view):
        header = read_header(view, position)
        if (
            header is not None
            and header.first >= expected
            and is_whole(view[position : position + header.size], header)
        ):
            damaged += lost
            lost = False
            frames.append((position, header))
            position += header.size
            good, expected = position, header.last + 1
            continue
        lost = True
        position = raw.find(MAGIC, position + 1)
        if position < 0:
            break
    return Scan(frames=tuple(frames), good_bytes=good, damaged=damaged)
