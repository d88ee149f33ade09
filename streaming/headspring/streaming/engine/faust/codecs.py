"""Bytes on both sides: entries of the state table, and records out of Faust's messages.

Neither passes through Faust's own codecs: keys and values stay the bytes they are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from headspring.proto.errors import ContractError
from headspring.streaming.log.kafka import records
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.port import StoredRecord

_FORMAT = 1
_SEPARATOR = "\x1f"
_LENGTH_BYTES = 4
_COMPRESSION = 1
"""Snapshots are mostly JSON, which zlib's fastest level shrinks to a fifth or less."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table holds of one stage and partition number: a snapshot and what it reflects, in one record."""

    epoch: int = 0
    """Which owner wrote it; every takeover counts on by one, so an owner that was passed over can be told."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Topic (our name of it) → offset of the first record that the snapshot does not reflect."""
    state: bytes = b""


def key_of(stage: str, partition: int) -> bytes:
    """The table's key."""
    return f"{stage}{_SEPARATOR}{partition}".encode()


def encode(entry: Entry) -> bytes:
    head = json.dumps(
        {"format": _FORMAT, "epoch": entry.epoch, "positions": dict(entry.positions)}, separators=(",", ":")
    ).encode()
    return len(head).to_bytes(_LENGTH_BYTES, "big") + head + zlib.compress(entry.state, _COMPRESSION)


def decode(data: bytes) -> Entry:
    """
    Raises:
        ContractError: not written by `encode`, or by a release with another format.
    """
    head, rest = _head(data)
    try:
        return Entry(
            epoch=int(head["epoch"]),
            positions={str(topic): int(offset) for topic, offset in head["positions"].items()},
            state=zlib.decompress(rest),
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
        raise ContractError(f"{len(data)} bytes of the state table are no snapshot: {error!r}") from error


def epoch_of(data: bytes) -> int:
    """The entry's epoch without unpacking its state; raises as `decode` does."""
    head, _ = _head(data)
    return int(head.get("epoch", 0))


def _head(data: bytes) -> tuple[dict[str, Any], bytes]:
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    try:
        head = json.loads(data[_LENGTH_BYTES:start])
    except ValueError as error:
        raise ContractError(f"{len(data)} bytes of the state table are no snapshot: {error}") from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        found = head.get("format") if isinstance(head, dict) else head
        raise ContractError(f"a snapshot in the state table has format {found!r}; this release reads {_FORMAT}")
    return head, data[start:]


class _AsConfluent:
    """A message of Faust's consumer, as far as our log's own reader of messages looks at it."""

    __slots__ = ("_message",)

    def __init__(self, message: Any) -> None:
        self._message = message

    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        return self._message.headers or ()

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, round(self._message.timestamp * 1000)

    def partition(self) -> int:
        return int(self._message.partition)

    def offset(self) -> int:
        return int(self._message.offset)

    def key(self) -> bytes | None:
        return cast("bytes | None", self._message.key)

    def value(self) -> bytes | None:
        return cast("bytes | None", self._message.value)


def stored(topic: str, message: Any, schema: Schema) -> StoredRecord:
    """The record in a message of Faust's, under our name of its topic; the same as our log makes of it."""
    return records.stored(topic, [cast(Message, _AsConfluent(message))], schema)[0]
