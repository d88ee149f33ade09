"""Compacted topics: the newest record of each key is kept for ever, the ones before it are garbage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from headspring.streaming.log.frames import record_bytes
from headspring.streaming.log.port import Record, StoredRecord

TOMBSTONE_NS = 24 * 3600 * 1_000_000_000
"""How long an empty value stays, so that a consumer that was away for a day still learns of the deletion."""
_SMALL_BYTES = 1024 * 1024
"""Below this a rewrite is not worth its syncs."""


@dataclass(slots=True)
class Garbage:
    """How much of a topic is garbage. Keys are kept as hashes: a collision only misjudges the share."""

    live: dict[int, int] = field(default_factory=dict)
    """Hash of the key → bytes of its newest record."""
    live_bytes: int = 0
    total_bytes: int = 0

    def add(self, record: Record) -> None:
        size = record_bytes(record)
        key = hash(record.key)
        self.live_bytes += (size if record.value else 0) - self.live.get(key, 0)
        self.total_bytes += size
        if record.value:
            self.live[key] = size
        else:
            self.live.pop(key, None)

    def rewrote(self) -> None:
        self.total_bytes = self.live_bytes

    @property
    def due(self) -> bool:
        """More than half is garbage."""
        return self.total_bytes > max(2 * self.live_bytes, _SMALL_BYTES)


def newest_by_key(records: Iterable[StoredRecord]) -> dict[bytes, StoredRecord]:
    """The newest record of each key, tombstones too, in offset order."""
    newest: dict[bytes, StoredRecord] = {}
    for item in records:
        newest.pop(item.record.key, None)
        newest[item.record.key] = item
    return newest


def survivors(records: Iterable[StoredRecord], *, now_ns: int) -> list[StoredRecord]:
    """What a rewrite keeps, in offset order."""
    return [
        item
        for item in newest_by_key(records).values()
        if item.record.value or now_ns - item.record.time_ns < TOMBSTONE_NS
    ]
