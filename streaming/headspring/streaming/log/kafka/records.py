"""Our records as Kafka's messages and back.

Kafka keeps milliseconds, so the exact time travels in the header `hs-time-ns`; `hs-schema` says in which version of
our messages the value is written. Both are taken off on the way back. A message of somebody else, which has neither,
gets Kafka's time and counts as current. An empty value on a compacted topic is Kafka's null, which deletes the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from headspring.proto.errors import Rejected
from headspring.proto.topics import BY_NAME, partition_of
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.port import Record, StoredRecord

TIME_HEADER = "hs-time-ns"
SCHEMA_HEADER = "hs-schema"
_NS_PER_MS = 1_000_000
_MAX_NS = 2**63 - 1


class Outbound(NamedTuple):
    """A message on its way to Kafka."""

    partition: int
    key: bytes
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    time_ms: int


def outbound(topic: str, records: Iterable[Record], *, partitions: int, schema: Schema) -> list[Outbound]:
    """Messages for `topic`, our name of it.

    Raises:
        Rejected: key or value is not bytes, a header not text, or the time not in 64 bits.
    """
    known = BY_NAME.get(topic)
    deletes = known is not None and known.compacted
    version = (SCHEMA_HEADER, b"%d" % schema.written)
    places: dict[bytes, int] = {}
    out: list[Outbound] = []
    try:
        for record in records:
            time_ns, key = record.time_ns, bytes(record.key)
            if not -_MAX_NS <= time_ns <= _MAX_NS:
                raise ValueError(f"time {time_ns} does not fit into 64 bits")
            partition = places.get(key)
            if partition is None:
                partition = places[key] = partition_of(topic, key, partitions)
            headers: list[tuple[str, str | bytes | None]] = [version, (TIME_HEADER, b"%d" % time_ns)]
            for name, text in record.headers.items():
                headers.append((name, text.encode()))
            value = None if deletes and not record.value else bytes(record.value)
            # 0 would mean "now" to the client; from 1970 on is all that Kafka takes.
            out.append(Outbound(partition, key, value, headers, time_ns // _NS_PER_MS if time_ns >= _NS_PER_MS else 1))
    except (TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"a record for {topic} is not bytes with text headers and a 64-bit time: {error}") from error
    return out


def stored(topic: str, messages: Sequence[Message], schema: Schema) -> list[StoredRecord]:
    """Records of messages without errors, under our name of their topic."""
    out: list[StoredRecord] = []
    current = b"%d" % schema.version
    for message in messages:
        # A list, although the type also allows the dict that `produce` takes.
        raw = cast("list[tuple[str, bytes | None]]", message.headers() or [])
        headers: dict[str, str] = {}
        time_ns: int | None = None
        unreadable = ""
        for name, data in raw:
            if name == TIME_HEADER:
                time_ns = _number(data)
            elif name == SCHEMA_HEADER:
                if data != current:
                    version = _number(data)
                    unreadable = schema.unreadable(version) if version is not None else ""
            else:
                headers[name] = data.decode(errors="replace") if data else ""
        if time_ns is None:
            kind, time_ms = message.timestamp()
            time_ns = 0 if kind == TIMESTAMP_NOT_AVAILABLE else time_ms * _NS_PER_MS
        record = Record(key=message.key() or b"", value=message.value() or b"", time_ns=time_ns, headers=headers)
        out.append(
            StoredRecord(
                topic=topic, partition=message.partition() or 0, offset=message.offset() or 0, record=record,
                unreadable=unreadable,
            )
        )  # fmt: skip
    return out


def _number(data: bytes | None) -> int | None:
    """What a header of ours says; None where it is somebody else's of the same name."""
    try:
        return int(data or b"")
    except ValueError:
        return None
