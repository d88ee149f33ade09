"""The embedded log's consumer: a position in a topic."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from headspring.streaming.log.port import StoredRecord
from headspring.streaming.log.topic_files import PARTITION, TopicFiles


class _Source(Protocol):
    """What a consumer needs of its log."""

    def topic_files(self, topic: str) -> TopicFiles: ...

    async def read(self, topic: str, position: int, max_records: int) -> list[StoredRecord]: ...

    async def wait(self, topic: str, position: int, timeout_s: float) -> None: ...

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None: ...


class SegmentConsumer:
    """`Consumer` over a `SegmentLog`. One task at a time."""

    def __init__(self, log: _Source, topic: str, group: str, position: int) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._position = position

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        deadline = time.monotonic() + max_wait_s
        while True:
            end = self._log.topic_files(self._topic).end
            records = await self._log.read(self._topic, self._position, max_records)
            if records:
                self._position = records[-1].offset + 1
                return records
            # Compaction and retention leave holes: nothing to read below `end` means that there is nothing.
            self._position = max(self._position, end)
            left = deadline - time.monotonic()
            if left <= 0:
                return ()
            await self._log.wait(self._topic, self._position, left)

    def positions(self) -> Mapping[int, int]:
        return {PARTITION: self._position}

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._log.commit_with_state(self._group, {self._topic: dict(positions)})

    async def seek(self, positions: Mapping[int, int]) -> None:
        self._position = max(0, positions.get(PARTITION, self._position))

    def lag(self) -> int:
        return max(0, self._log.topic_files(self._topic).end - self._position)

    async def close(self) -> None:
        """Nothing to release; the position stays where it was last committed."""
