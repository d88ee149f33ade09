"""Runs one stage: poll, process, append, commit; from the last commit again after a failure.

A failed call may have left the stage's state half changed, so every failure goes back to the last
commit. To find a record that the stage cannot take, the failed range is then replayed one by one, each
record behind a snapshot in memory; the offender goes to `dead-letter` and the stage goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headspring.proto import codec, tracing
from headspring.proto.action import DeadLetter
from headspring.proto.clock import Clock
from headspring.proto.errors import ContractError, PlatformError, Unavailable
from headspring.proto.topics import DEAD_LETTER, record_key
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.port import Outgoing, Stage
from headspring.streaming.log.port import Consumer, EventLog, Record, StoredRecord

_LOG = logging.getLogger(__name__)
MAX_RECORDS = 500
"""Records given to one call of `process`."""
_POLL_S = 5.0
"""One wait for input; it only bounds how long a wait lasts, records wake it at once."""
_LONGEST_BACK_OFF_S = 30.0
POISON_AFTER = 5
"""A stage that fails this often in a row at one place, and not for want of a backend, gets the records of that
place one by one, and what it still cannot take goes to the dead letter: one bad record must not stop it for ever."""
_COMPARED_BYTES = 1024 * 1024
"""Snapshots up to this size are kept, so that one that did not change is not written again."""
_DEAD_PAYLOAD_BYTES = 8 * 1024 * 1024
"""A dead letter keeps at most this much of the record."""


class StatefulLog(EventLog, Protocol):
    """An event log that commits positions and a snapshot in one step."""

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None: ...

    async def load_state(self, group: str) -> bytes: ...


class _Failed(Exception):
    """A call of the stage failed. Ends the session; the cause is chained."""


@dataclass(slots=True)
class _Counts:
    records_in: int = 0
    records_out: int = 0
    errors: int = 0
    dead_letters: int = 0
    restarts: int = 0
    last_batch_s: float = 0.0
    last_error: str = ""


@dataclass(slots=True)
class _Session:
    """From one restore to the next failure."""

    consumers: dict[str, Consumer]
    positions: dict[str, dict[int, int]] = field(default_factory=dict)
    """Processed, not yet committed."""
    changed: bool = False
    """The state may differ from the committed one."""
    committed_s: float = 0.0


class StageRunner:
    """One stage, one task. `run` returns after `stop` was called."""

    def __init__(self, stage: Stage, log: StatefulLog, *, clock: Clock, back_off_s: float) -> None:
        """
        Args:
            stage: What runs; an attribute `snapshot_every_s` > 0 makes it commit that seldom, positions only
                together with a snapshot; `snapshot_in_thread` True has large snapshots made off the event loop.
            log: Where it reads and writes.
            clock: Ticks, back-off and durations.
            back_off_s: First wait after a failure, in seconds; it doubles up to half a minute.
        """
        self._stage = stage
        self._log = log
        self._clock = clock
        self._back_off_s = back_off_s
        self._snapshot_every_s = float(getattr(stage, "snapshot_every_s", 0.0))
        self._in_thread = bool(getattr(stage, "snapshot_in_thread", False))
        self._state = StageState.STARTING
        self._counts = _Counts()
        self._consumers: dict[str, Consumer] = {}
        self._stopping = asyncio.Event()
        self._failures = 0
        self._suspects: dict[tuple[str, int], tuple[int, int]] = {}
        """Topic and partition → first and last offset to be processed one by one."""
        self._last_state: bytes | None = None
        self._at: tuple[str, int, int, int] | None = None
        """Topic, partition, first and last offset of the call under way."""
        self._failed_at: tuple[str, int, int, int] | None = None
        self._in_hand: set[str] = set()
        """Topics whose records a consumer has handed out and that are not processed yet: its lag misses them."""

    def stop(self) -> None:
        """Ends after the call under way, with a commit."""
        self._stopping.set()

    @property
    def lag(self) -> int:
        return sum(consumer.lag() for consumer in self._consumers.values())

    @property
    def idle(self) -> bool:
        """Everything there was has been processed."""
        return self._state is StageState.RUNNING and self._at is None and not self._in_hand and self.lag == 0

    def health(self) -> StageHealth:
        counts = self._counts
        return StageHealth(
            state=self._state,
            lag=self.lag,
            records_in=counts.records_in,
            records_out=counts.records_out,
            errors=counts.errors,
            dead_letters=counts.dead_letters,
            restarts=counts.restarts,
            last_batch_s=counts.last_batch_s,
            last_error=counts.last_error,
        )

    async def run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    await self._session()
                except Exception as error:  # noqa: BLE001 — the one edge of a stage: count, log, start over
                    await self._recover(error)
        finally:
            self._state = StageState.STOPPED

    async def _recover(self, error: Exception) -> None:
        cause = error.__cause__ if isinstance(error, _Failed) and error.__cause__ is not None else error
        self._counts.errors += 1
        self._counts.last_error = f"{type(cause).__name__}: {cause}"
        at, self._at = self._at, None
        self._failures = self._failures + 1 if at is None or at == self._failed_at else 1
        self._failed_at = at
        retryable = isinstance(cause, PlatformError) and cause.retryable
        own_fault = isinstance(error, _Failed) and not retryable and not isinstance(cause, OSError | MemoryError)
        if at is not None and own_fault and (isinstance(cause, ContractError) or self._failures >= POISON_AFTER):
            topic, partition, first, last = at
            self._suspects[topic, partition] = (first, last)
            self._state = StageState.STARTING  # it has not caught up, though nothing waits in its consumers now
            _LOG.warning("stage could not take a batch, will take it one by one: stage=%s topic=%s partition=%d "
                         "first=%d last=%d",
                         self._stage.name, topic, partition, first, last, exc_info=cause)  # fmt: skip
            return
        self._counts.restarts += 1
        self._state = StageState.BACKING_OFF
        wait_s = min(_LONGEST_BACK_OFF_S, self._back_off_s * 2 ** min(self._failures - 1, 20))
        # A backend that is away, or a full disk, is no defect: one line says it, a stack would say no more.
        stack = None if retryable else cause
        _LOG.warning("stage failed, goes on from its last commit: stage=%s wait_s=%.1f failures=%d error=%s",
                     self._stage.name, wait_s, self._failures, cause, exc_info=stack)  # fmt: skip
        await self._pause(wait_s)

    async def _session(self) -> None:
        stage = self._stage
        state = await self._log.load_state(stage.name)
        stage.restore(state)
        self._last_state = state if len(state) <= _COMPARED_BYTES else None
        self._consumers = {topic: await self._log.consumer(topic, stage.name) for topic in stage.inputs}
        self._in_hand.clear()
        session = _Session(consumers=self._consumers, committed_s=self._clock.monotonic_s())
        self._state = StageState.RUNNING
        waits: dict[str, asyncio.Task[object]] = {}
        try:
            await self._loop(session, waits)
            await self._commit(session, force=True)
        finally:
            for task in waits.values():
                task.cancel()
            await asyncio.gather(*waits.values(), return_exceptions=True)
            for consumer in self._consumers.values():
                await consumer.close()

    async def _loop(self, session: _Session, waits: dict[str, asyncio.Task[object]]) -> None:
        """`waits` holds a task per input, one for the tick and one for the stop; the caller cancels them."""
        stage = self._stage
        polls: dict[str, asyncio.Task[Sequence[StoredRecord]]] = {}
        stopped = asyncio.create_task(self._stopping.wait())
        waits["stop"] = stopped
        tick: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                for topic, consumer in session.consumers.items():
                    if topic not in polls:
                        polls[topic] = asyncio.create_task(self._poll(topic, consumer), name=f"{stage.name}:{topic}")
                        waits[topic] = polls[topic]
                if tick is None and stage.tick_s > 0:
                    tick = asyncio.create_task(self._clock.sleep(stage.tick_s))
                    waits["tick"] = tick
                everything: list[asyncio.Task[object]] = list(waits.values())
                await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
                for topic in stage.inputs:
                    if polls[topic].done():
                        records = polls.pop(topic).result()
                        if records:
                            await self._batch(session, topic, records)
                            self._in_hand.discard(topic)
                if tick is not None and tick.done():
                    tick = None
                    await self._tick(session)
        finally:
            stopped.cancel()

    async def _poll(self, topic: str, consumer: Consumer) -> Sequence[StoredRecord]:
        records = await consumer.poll(max_records=MAX_RECORDS, max_wait_s=_POLL_S)
        if records:
            self._in_hand.add(topic)
        return records

    async def _batch(self, session: _Session, topic: str, records: Sequence[StoredRecord]) -> None:
        self._at = (topic, records[0].partition, records[0].offset, records[-1].offset)
        with tracing.batch(f"process {topic}", (stored.record.headers for stored in records)) as span:
            if span.is_recording():
                span.set_attributes(
                    {"headspring.stage": self._stage.name, "messaging.destination.name": topic,
                     "messaging.batch.message_count": len(records)}
                )  # fmt: skip
            readable = [item for item in records if not item.unreadable]
            out = await self._process(topic, readable) if readable else []
            out += [self._dead(item, ContractError(item.unreadable)) for item in records if item.unreadable]
            await self._append(out)
        self._counts.records_in += len(records)
        session.positions[topic] = dict(session.consumers[topic].positions())
        session.changed = True
        await self._commit(session)
        self._at = None
        self._failures, self._failed_at = 0, None

    async def _process(self, topic: str, records: Sequence[StoredRecord]) -> list[Outgoing]:
        start = self._clock.monotonic_s()
        at = (topic, records[0].partition)
        suspect = self._suspects.get(at)
        if suspect is not None and records[0].offset <= suspect[1]:
            out = await self._one_by_one(topic, records, suspect)
        else:
            self._suspects.pop(at, None)
            try:
                out = list(await self._stage.process(topic, records))
            except Exception as error:
                raise _Failed from error
        self._counts.last_batch_s = self._clock.monotonic_s() - start
        return out

    async def _tick(self, session: _Session) -> None:
        try:
            out = list(await self._stage.tick(self._clock.now_ns()))
        except Exception as error:
            raise _Failed from error
        if out:
            await self._append(out)
            session.changed = True
        if out or self._snapshot_every_s > 0:
            await self._commit(session)
        if self._failed_at is None:
            self._failures = 0

    async def _one_by_one(
        self, topic: str, records: Sequence[StoredRecord], suspect: tuple[int, int]
    ) -> list[Outgoing]:
        out: list[Outgoing] = []
        for record in records:
            if not suspect[0] <= record.offset <= suspect[1]:
                try:
                    out += await self._stage.process(topic, (record,))
                except Exception as error:
                    raise _Failed from error
                continue
            before = self._stage.snapshot()
            try:
                out += await self._stage.process(topic, (record,))
            except Exception as error:
                if (isinstance(error, PlatformError) and error.retryable) or isinstance(error, OSError | MemoryError):
                    raise _Failed from error
                self._stage.restore(before)
                out.append(self._dead(record, error))
        return out

    def _dead(self, stored: StoredRecord, error: Exception) -> Outgoing:
        self._counts.dead_letters += 1
        self._counts.errors += 1
        reason = f"{type(error).__name__}: {error}"
        self._counts.last_error = reason
        _LOG.error("record set aside: stage=%s topic=%s offset=%d reason=%s",
                   self._stage.name, stored.topic, stored.offset, reason)  # fmt: skip
        now_ns = self._clock.now_ns()
        letter = DeadLetter(
            source_topic=stored.topic,
            stage=self._stage.name,
            reason=reason[:2000],
            time_ns=now_ns,
            payload=stored.record.value[:_DEAD_PAYLOAD_BYTES],
            headers={**stored.record.headers, "offset": str(stored.offset), "partition": str(stored.partition)},
        )
        return Outgoing(
            topic=DEAD_LETTER.name, key=record_key(stored.topic), value=codec.encode(letter), time_ns=now_ns
        )

    async def _append(self, out: Sequence[Outgoing]) -> None:
        """Waits out a log that cannot write now: what was computed is not computed again."""
        by_topic: dict[str, list[Record]] = {}
        for item in out:
            by_topic.setdefault(item.topic, []).append(
                Record(key=item.key, value=item.value, time_ns=item.time_ns, headers=item.headers)
            )
        for topic, records in by_topic.items():
            wait_s = self._back_off_s
            while True:
                try:
                    await self._log.append(topic, records)
                    break
                except Unavailable as error:
                    if self._stopping.is_set():
                        raise
                    self._counts.errors += 1
                    self._counts.last_error = str(error)
                    self._state = StageState.BACKING_OFF
                    await self._pause(wait_s)
                    wait_s = min(_LONGEST_BACK_OFF_S, wait_s * 2)
            self._state = StageState.RUNNING
            self._counts.records_out += len(records)

    async def _commit(self, session: _Session, *, force: bool = False) -> None:
        if not session.changed:
            return
        now_s = self._clock.monotonic_s()
        if not force and now_s - session.committed_s < self._snapshot_every_s:
            return
        state = await asyncio.to_thread(self._stage.snapshot) if self._in_thread else self._stage.snapshot()
        same = state == self._last_state
        await self._log.commit_with_state(self._stage.name, session.positions, None if same else state)
        self._last_state = state if len(state) <= _COMPARED_BYTES else None
        session.positions = {}
        session.changed = False
        session.committed_s = now_s

    async def _pause(self, seconds: float) -> None:
        """Sleeps, or less if told to stop."""
        stop = asyncio.create_task(self._stopping.wait())
        sleep = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((stop, sleep), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stop, sleep):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
