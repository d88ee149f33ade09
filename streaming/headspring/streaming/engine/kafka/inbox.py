"""Records of one partition between the thread that reads Kafka and the task that takes them; bounded together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from headspring.proto.errors import PlatformError
from headspring.streaming.log.port import StoredRecord

_OVERHEAD_BYTES = 400
"""Of a record's objects."""


class Room:
    """What all inboxes of a reader may hold."""

    def __init__(self, budget_bytes: int) -> None:
        self.lock = threading.Lock()
        """Guards the inboxes too."""
        self.budget_bytes = budget_bytes
        self.held_bytes = 0

    @property
    def full(self) -> bool:
        return self.held_bytes >= self.budget_bytes


class Source(Protocol):
    """Who fills inboxes; called on the event loop."""

    def wanted(self, inbox: Inbox) -> None:
        """Somebody takes from an inbox that nothing is read for: read on from its position."""
        ...

    def open(self, topic: str, partition: int, position: int, *, bell: asyncio.Event | None) -> Inbox:
        """A new inbox."""
        ...

    def made_room(self) -> None:
        """Records were taken."""
        ...

    def forget(self, inbox: Inbox) -> None:
        """Nobody takes from it any more."""
        ...


class Inbox:
    """The reading thread puts, one task takes. Kafka's offsets; before the first record is known, its logical ones."""

    def __init__(
        self, room: Room, source: Source, topic: str, partition: int, position: int, bell: asyncio.Event | None = None
    ) -> None:
        """
        Args:
            room: Shared with its neighbours.
            source: Who fills it.
            topic: Our name of it.
            partition: Of the topic.
            position: Where to start.
            bell: Rung when something arrives; for who waits for several.
        """
        self.topic = topic
        self.partition = partition
        self.start = position
        self.attached = False
        """The thread reads for it."""
        self.arrived = asyncio.Event()
        """There is a reason to take: records, a failure to tell, or records that gave way and can be had again."""
        self.bell = bell
        self._room = room
        self._source = source
        self._records: deque[tuple[int, StoredRecord]] = deque()
        """With their sizes."""
        self._held_bytes = 0
        self._position = position
        self._expected = position
        self._end = 0
        self._hungry = True
        self._taken_s = time.monotonic()
        self._failure: PlatformError | None = None
        self._fresh = True

    # For the task that takes

    @property
    def position(self) -> int:
        """Next offset to hand out."""
        return self._position

    @property
    def fresh(self) -> bool:
        """Nothing was taken of it, and it was not closed."""
        return self._fresh

    async def take(self, max_records: int, max_wait_s: float) -> list[StoredRecord]:
        """The next records; none if none came in time.

        Raises:
            PlatformError: the partition cannot be read.
        """
        records = self._pop(max_records)
        if not records and max_wait_s > 0:
            try:
                async with asyncio.timeout(max_wait_s):
                    await self.arrived.wait()
            except TimeoutError:
                return []
            records = self._pop(max_records)
        return records

    def lag(self) -> int:
        """Records up to the end known last that were not taken."""
        with self._room.lock:
            if self._records:
                return max(0, self._end - self._records[0][1].offset)
            return max(0, self._end - max(0, self._expected))

    def reopened(self, position: int) -> Inbox:
        """Reads the same partition from another place; this one gets nothing more."""
        return self._source.open(self.topic, self.partition, position, bell=self.bell)

    def close(self) -> None:
        self._fresh = False
        self._source.forget(self)

    def _pop(self, max_records: int) -> list[StoredRecord]:
        records: list[StoredRecord] = []
        freed = 0
        self._fresh = False
        with self._room.lock:
            self._taken_s = time.monotonic()
            failure, self._failure = self._failure, None
            while failure is None and self._records and len(records) < max_records:
                size, record = self._records.popleft()
                records.append(record)
                freed += size
            self._held_bytes -= freed
            self._room.held_bytes -= freed
            if records:
                self._position = records[-1].offset + 1
            if not self._records:
                self._position = self._expected
                self.arrived.clear()
            self._hungry = not records
            evicted = not self.attached and not self._records
        if failure is not None:
            raise failure
        if evicted:
            self._source.wanted(self)
        elif freed:
            self._source.made_room()
        return records

    # For the thread that reads

    @property
    def expected(self) -> int:
        """Next offset to come."""
        return self._expected

    @property
    def hungry(self) -> bool:
        """Its owner waits for a record."""
        return self._hungry

    @property
    def full_since_s(self) -> float | None:
        """Since when, on the monotonic clock, nobody took of what it holds; None if it is empty."""
        return self._taken_s if self._held_bytes else None

    def attach(self) -> int:
        """Where to read from."""
        self.attached = True
        self._expected = self._position
        self._taken_s = time.monotonic()
        return self._position

    def put(self, records: Sequence[StoredRecord]) -> None:
        """Under the lock. In order."""
        for record in records:
            size = _OVERHEAD_BYTES + len(record.record.value) + len(record.record.key)
            self._records.append((size, record))
            self._held_bytes += size
            self._room.held_bytes += size
        self._expected = records[-1].offset + 1
        self._end = max(self._end, self._expected)

    def put_end(self, offset: int) -> None:
        """Under the lock. There is nothing before `offset` but what was put."""
        self._expected = self._end = offset

    def learn_end(self, end: int) -> None:
        """Under the lock."""
        self._end = max(end, self._expected, 0)

    def fail(self, failure: PlatformError) -> None:
        """Under the lock. Told to whoever takes next."""
        self._failure = failure

    def empty(self) -> None:
        """Under the lock. What it holds is read again when it is wanted."""
        self._room.held_bytes -= self._held_bytes
        self._records.clear()
        self._held_bytes = 0
        self._expected = self._position

    def notice(self) -> None:
        """On the event loop: wakes who waits, if there is a reason to."""
        if self._records or self._failure is not None or not self.attached:
            self.arrived.set()
            if self.bell is not None:
                self.bell.set()
