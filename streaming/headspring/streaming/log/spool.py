"""An event log in front of another: what that one cannot take now waits on this machine's disk.

For processes that must go on acknowledging while the log behind them is away. An append goes straight to the
upstream log as long as that takes it. When it does not, appends go to a spool (`SegmentLog`: on disk, synced) and
are acknowledged from there; a forwarder hands the spool on, oldest first, and once it is empty appends go
straight again.

Order of a key is kept over both changes: going over to the spool waits until every append under way upstream has
succeeded or failed, and puts the failed ones into the spool first, in the order in which they came; going back
waits until the spool is empty while new appends stand still, which takes as long as the last few records.
Delivery is at least once: an append that failed upstream may have been written there all the same.

Every outage has a spool folder of its own, removed when it has been handed on; folders that a crash left are
handed on at the next start, before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError, Rejected, Unavailable
from headspring.streaming.log.port import Consumer, EventLog, Record, StoredRecord
from headspring.streaming.log.segments import SegmentLog

_LOG = logging.getLogger(__name__)
_GROUP = "forward"
_BATCH = 500
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """Counts are since the start."""

    spooling: bool
    """Appends go to the disk now."""
    size_bytes: int
    """On the disk now, handed on or not."""
    waiting_records: int
    spooled_records: int
    forwarded_records: int
    rejected_records: int
    """Records of the spool that the upstream log refused for good; they are logged and left out."""


class SpoolingLog:
    """`EventLog`; see the module. One event loop."""

    def __init__(self, upstream: EventLog, folder: Path, *, clock: Clock, max_bytes: int) -> None:
        """Use `open`."""
        self._upstream = upstream
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._spool: SegmentLog | None = None
        self._spool_folder: Path | None = None
        self._consumers: dict[str, Consumer] = {}
        self._gate = asyncio.Event()
        self._gate.set()
        """Open while appends may begin."""
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        """Set while no append is under way."""
        self._failed: list[tuple[int, str, Sequence[Record], asyncio.Future[None]]] = []
        self._turn = 0
        self._forwarder: asyncio.Task[None] | None = None
        self._spooled = self._forwarded = self._rejected = 0
        self._closed = False
        self._straight = asyncio.Event()
        self._straight.set()

    @classmethod
    async def open(cls, upstream: EventLog, folder: Path, *, clock: Clock, max_bytes: int) -> SpoolingLog:
        """
        Args:
            upstream: Where records belong; `close` closes it too.
            folder: For spools; belongs to this process.
            clock: For the spool's stamps.
            max_bytes: Most bytes on the disk; beyond that appends are refused as `Unavailable`.

        Raises:
            ConfigError: the folder cannot be used, or another process uses it.
        """
        log = cls(upstream, folder, clock=clock, max_bytes=max_bytes)
        left = await asyncio.to_thread(_left, folder)
        if left:
            _LOG.warning("telemetry of an earlier run waits to be handed on: folders=%d", len(left))
            await log._open_spool(left[0])
        return log

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        """Durable on return, upstream or on this disk.

        Raises:
            Unavailable: neither can take it: upstream is away and the spool is full, or its disk.
            Rejected: a record that the log would never take.
        """
        if not records:
            return
        while not self._gate.is_set():  # it may have closed again before this task came to run
            await self._gate.wait()
        if self._closed:
            raise Unavailable("the log is closed")
        self._turn += 1
        turn = self._turn
        self._under_way += 1
        self._idle.clear()
        waiting: asyncio.Future[None] | None = None
        try:
            if self._spool is not None:
                await self._to_spool(topic, records)
                return
            try:
                await self._upstream.append(topic, records)
                return
            except Unavailable as error:
                if not self._max_bytes:
                    raise
                waiting = asyncio.get_running_loop().create_future()
                self._failed.append((turn, topic, records, waiting))
                if self._gate.is_set():
                    _LOG.warning("upstream log is away, telemetry goes to disk: error=%s", error)
                    self._gate.clear()
                    self._forwarder = asyncio.create_task(self._turn_to_spool(), name="spool")
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        await waiting

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> Consumer:
        return await self._upstream.consumer(topic, group, latest=latest)

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        return await self._upstream.latest_by_key(topic)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return await self._upstream.end_offsets(topic)

    async def close(self) -> None:
        """What was not handed on stays on the disk for the next start."""
        self._closed = True
        self._gate.set()
        await self._idle.wait()
        if self._forwarder is not None:
            self._forwarder.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._forwarder
        for _, _, _, waiting in self._failed:
            if not waiting.done():
                waiting.set_exception(Unavailable("the log is closed"))
        if self._spool is not None:
            await self._spool.close()
        await self._upstream.close()

    async def drained(self) -> None:
        """Returns when everything is upstream and appends go there straight."""
        await self._straight.wait()

    def stats(self) -> SpoolStats:
        return SpoolStats(
            spooling=self._spool is not None,
            size_bytes=self._spool.stats().size_bytes if self._spool is not None else 0,
            waiting_records=sum(consumer.lag() for consumer in self._consumers.values()),
            spooled_records=self._spooled,
            forwarded_records=self._forwarded,
            rejected_records=self._rejected,
        )

    # Inside

    async def _to_spool(self, topic: str, records: Sequence[Record]) -> None:
        spool = self._spool
        assert spool is not None  # noqa: S101  # callers looked
        size = spool.stats().size_bytes
        if size >= self._max_bytes:
            raise Unavailable(
                f"the log behind this process is away and its spool {self._folder} is full ({size} bytes of "
                f"{self._max_bytes}); bring the log back or raise spool_bytes",
                retry_after_s=10.0,
            )
        await spool.append(topic, records)
        self._spooled += len(records)
        if topic not in self._consumers:
            self._consumers[topic] = await spool.consumer(topic, _GROUP)

    async def _turn_to_spool(self) -> None:
        """From upstream to the disk; appends stand still until it is done."""
        await self._idle.wait()
        failed, self._failed = sorted(self._failed, key=lambda one: one[0]), []
        try:
            stamp = f"outage-{self._clock.now_ns():020d}"
            await self._open_spool(self._folder / stamp, forward=False)
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
            for _, _, _, waiting in failed:
                if not waiting.done():
                    waiting.set_exception(Unavailable(f"upstream is away and the spool cannot be opened: {error}"))
            self._gate.set()
            return
        for _, topic, records, waiting in failed:
            try:
                await self._to_spool(topic, records)
            except (Unavailable, Rejected) as error:
                if not waiting.done():
                    waiting.set_exception(error)
            else:
                if not waiting.done():
                    waiting.set_result(None)
        self._gate.set()
        await self._forward()

    async def _open_spool(self, folder: Path, *, forward: bool = True) -> None:
        self._spool = await SegmentLog.open(folder, clock=self._clock)
        self._straight.clear()
        self._spool_folder = folder
        for topic in await asyncio.to_thread(_topics, folder):
            self._consumers[topic] = await self._spool.consumer(topic, _GROUP)
        if forward:
            self._forwarder = asyncio.create_task(self._forward(), name="spool")

    async def _forward(self) -> None:
        """Hands the spool on until it is empty, then goes back to appending straight."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                moved = await self._pass()
                wait_s = _FIRST_WAIT_S
            except Unavailable as error:
                _LOG.info("spool waits: wait_s=%.1f error=%s", wait_s, error)
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_WAIT_S, wait_s * 2)
                continue
            if moved >= _BATCH:
                continue  # while much is left, senders need not stand still
            self._gate.clear()
            await self._idle.wait()
            try:
                while await self._pass():
                    pass
            except Unavailable:
                self._gate.set()
                continue
            await self._leave_spool()
            if self._spool is None:
                self._gate.set()
                self._straight.set()
                _LOG.warning("upstream log is back, the spool is empty")
                return
            self._gate.set()

    async def _leave_spool(self) -> None:
        """Removes the spool that is empty; opens the next that a crash left, if any."""
        spool, folder = self._spool, self._spool_folder
        assert spool is not None  # noqa: S101
        assert folder is not None  # noqa: S101
        for consumer in self._consumers.values():
            await consumer.close()
        self._consumers = {}
        self._spool = None
        await spool.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        for left in await asyncio.to_thread(_left, self._folder):
            try:
                await self._open_spool(left, forward=False)
                return
            except ConfigError as error:
                _LOG.error("a spool of an earlier run cannot be read, it is left for you to look at: %s", error)
                left.rename(left.with_name(f"unreadable-{left.name}"))

    async def _pass(self) -> int:
        """One batch of each topic upstream, committed in the spool once it is there; how many records that were."""
        moved = 0
        for consumer in list(self._consumers.values()):
            if consumer.lag() == 0:
                continue
            before = dict(consumer.positions())
            records = await consumer.poll(max_records=_BATCH, max_wait_s=0.0)
            if not records:
                continue
            try:
                await self._hand_on(records)
            except Unavailable:
                await consumer.seek(before)
                raise
            await consumer.commit(consumer.positions())
            moved += len(records)
        return moved

    async def _hand_on(self, records: Sequence[StoredRecord]) -> None:
        topic = records[0].topic
        try:
            await self._upstream.append(topic, [stored.record for stored in records])
        except Rejected:
            for stored in records:
                try:
                    await self._upstream.append(topic, [stored.record])
                except Rejected as error:
                    self._rejected += 1
                    _LOG.error("upstream refuses a record of the spool: topic=%s error=%s", topic, error)
        self._forwarded += len(records)


def _left(folder: Path) -> list[Path]:
    """Spools that wait to be handed on, oldest first."""
    return sorted(one for one in folder.glob("outage-*") if one.is_dir())


def _topics(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / "topics").iterdir())
