"""The event log port: how stages meet.

Contract (proved by `headspring.streaming.testing.EventLogContract` on every backend):

- **Durable on return.** When `append` returns, the records survive `kill -9` and power loss.
- **Order.** Records of one key keep the order in which `append` was called, because a key stays in one partition
  (`headspring.proto.topics.partition_of`). Partitions are read in order each, and in no order among each other; the
  embedded backend has one, so there a whole topic has one order. Offsets of a partition grow; by one with each
  record, unless compaction or somebody's transactions leave holes.
- **At least once.** A consumer gets every record after its group's committed position; after a crash
  it may get records again that it processed but did not commit.
- **Positions** belong to (group, topic); a new group starts at the oldest record, unless told `latest`.
- **Concurrency.** One event loop; any number of tasks may append and poll at once. One consumer
  object is used by one task at a time.
- **Errors.** `Unavailable` when it cannot accept now (disk full, broker away; nothing was written
  that will show up later as acknowledged), `Rejected` for a record over the size limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a producer hands over."""

    key: bytes
    value: bytes
    time_ns: int
    """When it was made, unix nanoseconds; retention counts from here."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """What a consumer gets."""

    topic: str
    partition: int
    offset: int
    record: Record
    unreadable: str = ""
    """Why the value must not be decoded: a release wrote it whose messages this one does not know. An engine puts such
    a record into the dead letter instead of giving it to its stage. "" for all others."""


class Consumer(Protocol):
    """A member of a group that reads one topic."""

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        """The next records, of each partition in order; an empty sequence when none came within `max_wait_s`."""
        ...

    def positions(self) -> Mapping[int, int]:
        """Per partition, the offset that follows the last record polled."""
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Durable on return: a later consumer of the group starts at these offsets."""
        ...

    async def seek(self, positions: Mapping[int, int]) -> None:
        """The next `poll` starts at these offsets, and where it was in partitions that are not named; nothing is
        committed."""
        ...

    def lag(self) -> int:
        """Records in the topic that were not polled yet: exact for those appended here, others are noticed within
        seconds."""
        ...

    async def close(self) -> None: ...


class EventLog(Protocol):
    """See the module's contract."""

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        """Writes all records; durable on return."""
        ...

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> Consumer: ...

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        """The newest record of every key of a compacted topic, of each partition in offset order; empty values are
        gone."""
        ...

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """Per partition, the offset that the next record will get."""
        ...

    async def close(self) -> None: ...
