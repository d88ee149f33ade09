"""Kafka's consumer of the port: positions over all partitions of a topic that one member reads."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from headspring.streaming.log.kafka.reader import End, Reader
from headspring.streaming.log.port import StoredRecord


class KafkaConsumer:
    """`Consumer` over `Reader`. One task at a time."""

    def __init__(
        self, reader: Reader, *, topic: str, group: str, starts: Mapping[int, int],
        commit: Callable[[Mapping[int, int]], Awaitable[None]], own_end: Callable[[int], int],
        closed: Callable[[KafkaConsumer], None],
    ) -> None:  # fmt: skip
        """
        Args:
            starts: Per partition, where the reader starts.
            commit: Commits positions of this topic for the group.
            own_end: Per partition, the end that this process knows of because it wrote it.
            closed: Called once, when it is closed.
        """
        self.topic = topic
        self.group = group
        self._reader = reader
        self._positions = dict(starts)
        self._commit = commit
        self._own_end = own_end
        self._closed = closed
        self._ends: dict[int, int] = {}
        self._open = True

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        """The next records, of one partition in order, of several as they came.

        Raises:
            PlatformError: reading is not possible in a way that waiting does not help. A broker that is away is no
                error: nothing comes until it is back.
        """
        deadline_s = time.monotonic() + max_wait_s
        while True:
            records: list[StoredRecord] = []
            for item in self._reader.take(max_records):
                if isinstance(item, End):
                    self._positions[item.partition] = max(self._positions[item.partition], item.offset)
                else:
                    self._positions[item.partition] = item.offset + 1
                    records.append(item)
            left_s = deadline_s - time.monotonic()
            if records or left_s <= 0:
                return records
            await self._reader.wait(left_s)

    def positions(self) -> Mapping[int, int]:
        return dict(self._positions)

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._commit(positions)

    async def seek(self, positions: Mapping[int, int]) -> None:
        """Partitions that are not named stay where they are."""
        self._positions |= {partition: max(0, offset) for partition, offset in positions.items()}
        self._reader.seek(self._positions)

    def lag(self) -> int:
        """By the ends that are known: of the last fetch, of own appends, and of the log's look every few seconds."""
        return sum(max(0, self._end(partition) - position) for partition, position in self._positions.items())

    def saw_ends(self, ends: Mapping[int, int]) -> None:
        """Where the partitions end, as somebody asked."""
        self._ends |= ends

    async def close(self) -> None:
        """The position stays where it was last committed. Idempotent."""
        if self._open:
            self._open = False
            self._closed(self)
        await self._reader.close()

    def _end(self, partition: int) -> int:
        return max(self._reader.high(partition), self._own_end(partition), self._ends.get(partition, 0))
