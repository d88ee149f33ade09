"""One stage at one partition number, from a takeover to the next hand-over: a `StatefulLog` whose consumers Faust feeds
and whose commits go to the state table. `StageRunner` does the rest as it does on every other log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from headspring.proto.clock import Clock
from headspring.proto.errors import Unavailable
from headspring.streaming.engine.faust.codecs import Entry
from headspring.streaming.engine.faust.inbox import Inbox, InboxConsumer
from headspring.streaming.engine.health import StageHealth
from headspring.streaming.engine.port import Stage
from headspring.streaming.engine.runner import StageRunner
from headspring.streaming.log.port import Consumer, EventLog, Record, StoredRecord

_LOG = logging.getLogger(__name__)


class Table(Protocol):
    """Where snapshots are kept."""

    def entry(self, stage: str, partition: int) -> Entry | None:
        """What was recovered or written last.

        Raises:
            ContractError: it cannot be read by this release.
        """
        ...

    async def write(self, stage: str, partition: int, entry: Entry) -> None:
        """Durable on return.

        Raises:
            Unavailable: Kafka does not take it now; it may still have been written.
            Rejected: it is too large.
        """
        ...


class PartitionSession:
    """See the module. `start`, then records by `deliver`, then `stop`. One event loop."""

    def __init__(
        self,
        stage: Stage,
        partition: int,
        *,
        log: EventLog,
        table: Table,
        clock: Clock,
        back_off_s: float,
        highwater: Callable[[str, int], int | None],
        released: Callable[[Inbox], None],
    ) -> None:
        """
        Args:
            stage: Of this session alone.
            partition: The number it owns of every input.
            log: Where outputs go.
            table: Where its snapshots are.
            clock: Of the runner.
            back_off_s: First wait after a failure, in seconds.
            highwater: By topic (our name) and partition, the offset that a next record will get, as far as known.
            released: Told of an inbox that has room again.

        Raises:
            ContractError: its snapshot cannot be read by this release.
        """
        self.stage = stage
        self.partition = partition
        self._log = log
        self._table = table
        self._released = released
        before = table.entry(stage.name, partition)
        self._epoch = before.epoch + 1 if before is not None else 1
        self._state = before.state if before is not None else b""
        self._positions: dict[str, int] = dict(before.positions) if before is not None else {}
        self.inboxes = {
            topic: Inbox(topic, partition, highwater=lambda topic=topic: highwater(topic, partition))  # type: ignore[misc] # binds the loop's value
            for topic in stage.inputs
        }
        for topic, position in self._positions.items():
            if topic in self.inboxes:
                self.inboxes[topic].next = position
        self._ended = False
        self._runner = StageRunner(stage, self, clock=clock, back_off_s=back_off_s)
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """All that came has been processed and committed."""
        return self._runner.idle and all(inbox.empty for inbox in self.inboxes.values())

    def health(self) -> StageHealth:
        return self._runner.health()

    def position(self, topic: str) -> int | None:
        """The first offset that the committed snapshot does not reflect; None where nothing was committed."""
        return self._positions.get(topic)

    def start(self) -> None:
        self._task = asyncio.create_task(self._runner.run(), name=f"stage:{self.stage.name}:{self.partition}")

    def deliver(self, record: StoredRecord, acknowledge: Callable[[], object]) -> Inbox:
        """The next record of one of the inputs. What the snapshot reflects already is acknowledged at once; what came
        before and waits is not taken twice."""
        inbox = self.inboxes[record.topic]
        if record.offset < self._positions.get(record.topic, 0):
            acknowledge()
        elif inbox.next is None or record.offset >= inbox.next:
            inbox.put(record, acknowledge)
        return inbox

    async def stop(self, within_s: float) -> None:
        """Ends after the call under way, with a commit; after `within_s` without one."""
        self._runner.stop()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=within_s)
            if not self._task.done():
                _LOG.warning(
                    "stage did not end in time, goes on from its last commit: stage=%s partition=%d within_s=%.1f",
                    self.stage.name, self.partition, within_s,
                )  # fmt: skip
                self._task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._task
        self._ended = True

    # StatefulLog

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        await self._log.append(topic, records)

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> Consumer:
        return InboxConsumer(self.inboxes[topic], self._positions.get(topic))

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        return await self._log.latest_by_key(topic)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return await self._log.end_offsets(topic)

    async def close(self) -> None:
        """Nothing of its own: the log is the engine's."""

    async def load_state(self, group: str) -> bytes:
        return self._state

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        """Writes snapshot and positions as one entry, then acknowledges to Faust what it reflects.

        Raises:
            Unavailable: Kafka does not take it now, or the partition is somebody else's already.
            Rejected: the snapshot is too large.
        """
        if self._ended:
            raise Unavailable(f"partition {self.partition} of {self.stage.name} was handed on")
        moved = {
            topic: by_partition[self.partition]
            for topic, by_partition in positions.items()
            if self.partition in by_partition
        }
        merged = {**self._positions, **moved}
        kept = self._state if state is None else state
        await self._table.write(self.stage.name, self.partition, Entry(self._epoch, merged, kept))
        self._positions, self._state = merged, kept
        for topic, position in moved.items():
            inbox = self.inboxes[topic]
            inbox.release(position)
            if inbox.low:
                self._released(inbox)
