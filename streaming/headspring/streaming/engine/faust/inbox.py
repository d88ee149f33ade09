"""Records between Faust's stream and a stage: kept until the snapshot that reflects them is in the changelog."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from headspring.proto.errors import Rejected
from headspring.streaming.log.port import StoredRecord

HIGH_RECORDS = 1000
"""From here on nothing more is fetched for the inbox; what is on its way still comes, one fetch of each kind."""
HIGH_BYTES = 4 * 1024 * 1024
LOW_FRACTION = 0.4
"""Fetching goes on when so much is left."""
GATHER_S = 0.2
"""Longest wait of a poll for more of what is there already."""
_GATHER_LOOK_S = 0.005


class Inbox:
    """Of one topic and partition, for one stage. One event loop."""

    def __init__(self, topic: str, partition: int, *, highwater: Callable[[], int | None]) -> None:
        """
        Args:
            topic: Our name of it.
            partition: Its number.
            highwater: The offset that the next record of the partition will get, as far as known.
        """
        self.topic = topic
        self.partition = partition
        self.next: int | None = None
        """Offset that a next record has at least; None before the first."""
        self._highwater = highwater
        self._items: deque[tuple[StoredRecord, Callable[[], object]]] = deque()
        """Records and how each is acknowledged, oldest first, all of them not acknowledged yet."""
        self._taken = 0
        """How many of them the consumer has polled."""
        self._bytes = 0
        self.arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._items) >= HIGH_RECORDS or self._bytes >= HIGH_BYTES

    @property
    def low(self) -> bool:
        return len(self._items) <= HIGH_RECORDS * LOW_FRACTION and self._bytes <= HIGH_BYTES * LOW_FRACTION

    @property
    def empty(self) -> bool:
        """Everything that came is acknowledged."""
        return not self._items

    def put(self, record: StoredRecord, acknowledge: Callable[[], object]) -> None:
        """Offsets must grow from call to call."""
        self._items.append((record, acknowledge))
        self._bytes += len(record.record.value)
        self.next = record.offset + 1
        self.arrived.set()

    def release(self, position: int) -> None:
        """Acknowledges and forgets all records before `position`."""
        while self._items and self._items[0][0].offset < position:
            record, acknowledge = self._items.popleft()
            acknowledge()
            self._bytes -= len(record.record.value)
            self._taken = max(0, self._taken - 1)

    def rewind(self) -> None:
        """The next `take` begins with the oldest record that is not acknowledged."""
        self._taken = 0
        if self._items:
            self.arrived.set()

    def take(self, max_records: int) -> list[StoredRecord]:
        found = [record for record, _ in islice(self._items, self._taken, self._taken + max_records)]
        self._taken += len(found)
        if self._taken == len(self._items):
            self.arrived.clear()
        return found

    async def gather(self, max_records: int, within_s: float) -> None:
        """Waits while less than `max_records` can be taken and more is known to be there.

        Faust hands records over one by one, and only while no stage computes; a stage that took what has come so far
        would work off a backlog in small batches, each with a snapshot of its own.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while loop.time() < deadline and self._more(max_records):  # noqa: ASYNC110 — an event would come per record
            await asyncio.sleep(_GATHER_LOOK_S)

    def lag(self) -> int:
        """Records of the partition that were not taken: here, and on the broker as far as known."""
        return self._waiting + self._to_come()

    def _more(self, wanted: int) -> bool:
        return self._waiting < wanted and not self.full and self._to_come() > 0

    @property
    def _waiting(self) -> int:
        return len(self._items) - self._taken

    def _to_come(self) -> int:
        highwater = self._highwater()
        return max(0, highwater - self.next) if highwater is not None and self.next is not None else 0


class InboxConsumer:
    """`Consumer` over an inbox; a new one begins with what is not committed. Commits go through the engine."""

    def __init__(self, inbox: Inbox, position: int | None) -> None:
        """
        Args:
            position: What was committed; None for nothing yet.
        """
        self._inbox = inbox
        self._position = position
        inbox.rewind()

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        try:
            async with asyncio.timeout(max_wait_s):
                await self._inbox.arrived.wait()
        except TimeoutError:
            return ()
        await self._inbox.gather(max_records, min(GATHER_S, max_wait_s))
        found = self._inbox.take(max_records)
        if found:
            self._position = found[-1].offset + 1
        return found

    def positions(self) -> Mapping[int, int]:
        return {} if self._position is None else {self._inbox.partition: self._position}

    async def commit(self, positions: Mapping[int, int]) -> None:
        """
        Raises:
            Rejected: always; a stage's positions and its snapshot are committed together, by `commit_with_state`.
        """
        raise Rejected("positions of a stage on Faust are committed together with its snapshot")

    async def seek(self, positions: Mapping[int, int]) -> None:
        """
        Raises:
            Rejected: always; a stage goes on from its last commit.
        """
        raise Rejected("a stage on Faust goes on from its last commit; it cannot seek")

    def lag(self) -> int:
        return self._inbox.lag()

    async def close(self) -> None:
        """Nothing to release: what was not committed stays in the inbox."""
