"""A stage of which every process takes everything: event streams to pages, caches of the newest.

One runner over all partitions, in no group: what it has read is remembered in memory only. A new process starts at the
end of each topic, or at what was written since a given time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from headspring.proto.clock import Clock
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.kafka.ground import Ground
from headspring.streaming.engine.kafka.inbox import Inbox
from headspring.streaming.engine.kafka.reader import Reader
from headspring.streaming.engine.kafka.report import ShareMetrics, plus
from headspring.streaming.engine.port import Stage
from headspring.streaming.engine.runner import StageRunner
from headspring.streaming.log.port import Record, StoredRecord


class EveryRecord:
    """`StatefulLog` for one runner that reads all partitions. One task at a time."""

    def __init__(
        self, ground: Ground, reader: Reader, *, stage: str, inputs: Sequence[str], since_ns: int | None
    ) -> None:
        self._ground = ground
        self._reader = reader
        self._stage = stage
        self._inputs = tuple(inputs)
        self._since_ns = since_ns
        self._positions: dict[str, dict[int, int]] = {}
        self._state = b""

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        await self._ground.log.append(topic, records)

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> EveryConsumer:
        del group, latest
        bell = asyncio.Event()
        inboxes = [
            self._reader.open(topic, partition, position, bell=bell)
            for partition, position in self._positions[topic].items()
        ]
        return EveryConsumer(inboxes, bell, self)

    async def load_state(self, group: str) -> bytes:
        """Also finds out, the first time, where to start.

        Raises:
            PlatformError: Kafka cannot say now.
        """
        del group
        if not self._positions:
            starts = await asyncio.gather(*map(self._start, self._inputs))
            self._positions = dict(zip(self._inputs, starts, strict=True))
        return self._state

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        """For as long as the process lives."""
        del group
        for topic, per in positions.items():
            self._positions[topic] |= {partition: offset for partition, offset in per.items() if offset >= 0}
        if state is not None:
            self._state = state

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        return await self._ground.log.latest_by_key(topic)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return await self._ground.log.end_offsets(topic)

    async def close(self) -> None:
        """The log stays open: it is the engine's."""

    async def _start(self, topic: str) -> dict[int, int]:
        """In numbers, so that what is written between two tries of the runner is not passed over."""
        log = self._ground.log
        places = log.end_offsets(topic) if self._since_ns is None else log.offsets_at(topic, self._since_ns)
        return dict(await places)


class EveryConsumer:
    """`Consumer` over several partitions; each poll gives records of one of them, in turn."""

    def __init__(self, inboxes: Sequence[Inbox], bell: asyncio.Event, log: EveryRecord) -> None:
        self._inboxes = list(inboxes)
        self._bell = bell
        self._log = log

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        until_s = time.monotonic() + max_wait_s
        while True:
            self._bell.clear()
            for place, inbox in enumerate(self._inboxes):
                records = await inbox.take(max_records, 0.0)
                if records:
                    self._inboxes = [*self._inboxes[place + 1 :], *self._inboxes[: place + 1]]
                    return records
            try:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                    await self._bell.wait()
            except TimeoutError:
                return ()

    def positions(self) -> Mapping[int, int]:
        return {inbox.partition: inbox.position for inbox in self._inboxes}

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._log.commit_with_state("", {self._inboxes[0].topic: positions})

    async def seek(self, positions: Mapping[int, int]) -> None:
        self._inboxes = [
            inbox.reopened(positions[inbox.partition]) if inbox.partition in positions else inbox
            for inbox in self._inboxes
        ]

    def lag(self) -> int:
        return sum(inbox.lag() for inbox in self._inboxes)

    async def close(self) -> None:
        for inbox in self._inboxes:
            inbox.close()


class BroadcastStage:
    """The one runner of a stage that takes everything, and its client."""

    def __init__(
        self, factory: Callable[[], Stage], ground: Ground, *, clock: Clock, back_off_s: float, since_ns: int | None
    ) -> None:
        """
        Args:
            factory: Called once.
            ground: What it stands on.
            clock: For ticks, back-off and durations.
            back_off_s: First wait after a failure, in seconds.
            since_ns: Starts with what was written from then on, unix nanoseconds; None for what is written from now on.
        """
        stage = factory()
        self.name = stage.name
        self.inputs = stage.inputs
        self._reader = Reader(
            lambda: ground.reader(self.name), ground.records, stage=self.name,
            topics={topic: ground.topic(topic) for topic in self.inputs}, connection=ground.connection,
            budget_bytes=ground.buffer_bytes,
        )  # fmt: skip
        self._log = EveryRecord(ground, self._reader, stage=self.name, inputs=self.inputs, since_ns=since_ns)
        self._runner = StageRunner(stage, self._log, clock=clock, back_off_s=back_off_s)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader.start()
        self._task = asyncio.create_task(self._runner.run(), name=f"stage:{self.name}")

    async def stop(self) -> None:
        self._runner.stop()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._reader.close()

    @property
    def idle(self) -> bool:
        return self._runner.idle

    async def look(self) -> None:
        """As of a shared stage."""
        await self._reader.look()

    def health(self) -> StageHealth:
        health, trouble = self._runner.health(), self._reader.trouble
        if trouble and health.state is not StageState.STOPPED:
            return plus(health, state=StageState.BACKING_OFF, last_error=trouble)
        return health

    def partitions(self) -> Mapping[int, StageHealth]:
        """None of it is anybody's own."""
        return {}

    def metrics(self) -> ShareMetrics:
        return ShareMetrics(
            partitions=0, asleep=0, rebalances=0, leases_lost=0, commits=0, commit_retries=0, last_commit_s=0.0,
            missed=self._reader.missed, buffered_bytes=self._reader.buffered_bytes,
        )  # fmt: skip
