"""Faust's consumer, as we need it. Five things of faust-streaming 0.15 are otherwise here:

- **Nothing is read before the seek.** Faust pauses partitions on its own level only, while aiokafka goes on reading.
  After an assignment what is read too early is thrown away, in one of two places: a fetch under way while no partition
  is active returns records of all, which are then left out one by one; and stream queues are emptied when the flow
  resumes. Where that happens after the seek, a batch of an input is gone until the next rebalance, or a recovery waits
  for ever for a part of its changelog. Here partitions are paused in aiokafka, which then reads nothing and keeps its
  position: all of them from the assignment on, the changelog until Faust begins to recover it, inputs until the table
  is recovered, the seek is done and the flow resumes.
- **Reading begins where the state table says**, not where the group has committed, which may be behind (a crash between
  the changelog's acknowledgement and Faust's commit) or ahead (an owner that was passed over wrote last).
- A fetch waits 1.5 s at the broker for records, and whatever else is asked on that connection waits behind it: where
  the changelog ends, where inputs begin. Here it waits a quarter of a second, so a rebalance takes about one.
- Its thread is no daemon: a consumer that hangs would keep the process from ending.
- It prints stacks to stderr when it cannot start; the engine tells it in one line.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import TopicPartition  # type: ignore[import-untyped] # ships no types
from aiokafka.errors import IllegalStateError  # type: ignore[import-untyped] # as above
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

_LOG = logging.getLogger("faust.headspring")
"""Services log under the name of their module unless told otherwise; these are Faust's lines, not ours."""
_FETCH_WAIT_MS = 250
Wanted = Callable[[TP, int], int]
"""Partition and its earliest offset → where to read from."""


class _Daemon(WorkerThread):
    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True


class _Thread(driver.AIOKafkaConsumerThread):
    """What aiokafka does is done in this thread."""

    Worker = _Daemon
    logger = _LOG

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # read when it starts; Faust has no setting for it
        return consumer

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._pause(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    def pause(self, tps: Iterable[TP]) -> None:
        """Any thread."""
        self.thread_loop.call_soon_threadsafe(self._pause, tuple(tps))

    def go_on(self, tps: Iterable[TP], generation: int) -> None:
        """Unless another assignment came meanwhile. Any thread."""
        self.thread_loop.call_soon_threadsafe(self._go_on, tuple(tps), generation)

    def _pause(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            with contextlib.suppress(IllegalStateError):  # it has been taken away
                self._ensure_consumer().pause(TopicPartition(tp.topic, tp.partition))

    def _go_on(self, tps: Iterable[TP], generation: int) -> None:
        if self.app.consumer_generation_id == generation:
            for tp in tps:
                with contextlib.suppress(IllegalStateError):  # as above
                    self._ensure_consumer().resume(TopicPartition(tp.topic, tp.partition))

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """The engine tells it."""


class Consumer(driver.Consumer):
    """See the module."""

    logger = _LOG
    _thread: _Thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ready: set[TP] = set()
        """Inputs that are read again when the flow resumes."""
        self._ready_generation = 0
        """Of the group, in which they were assigned."""
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """For the changelog Faust calls it after seeking there; for inputs once the table is recovered: then it seeks,
        and resumes the flow."""
        given = set(tps)
        super().resume_partitions(given)
        changelog = {tp for tp in given if self._is_changelog_tp(tp)}
        generation = self.app.tables.recovery._generation_id  # type: ignore[attr-defined] # TableManager
        self._thread.go_on(changelog, generation)
        self._ready |= given - changelog
        self._ready_generation = generation

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        given = set(tps)
        self._ready -= given
        super().pause_partitions(given)
        self._thread.pause(given)

    def stop_flow(self) -> None:
        self._ready.clear()
        super().stop_flow()

    def resume_flow(self) -> None:
        super().resume_flow()
        ready, self._ready = self._ready, set()
        self._thread.go_on(ready, self._ready_generation)

    async def perform_seek(self) -> None:
        await super().perform_seek()
        wanted: Wanted | None = self.transport.wanted  # type: ignore[attr-defined] # our Transport
        tps = {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}
        if wanted is None or not tps:
            return
        earliest = await self.earliest_offsets(*tps)
        starts = {tp: wanted(tp, earliest[tp]) for tp in tps}
        await self.seek_wait(starts)
        behind = {tp: start for tp, start in starts.items() if start and self._committed_offset[tp] != start}
        self._committed_offset.update({tp: start or None for tp, start in starts.items()})
        if behind:
            await self._commit(behind)  # for people who look at the group's lag; nothing here reads it


class Transport(driver.Transport):
    """Makes our consumers."""

    Consumer = Consumer
    wanted: Wanted | None = None
