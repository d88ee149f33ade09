"""All sessions of a process: which stage runs at which of the partition numbers that the group gave us."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from headspring.proto.clock import Clock
from headspring.proto.errors import ContractError
from headspring.proto.topics import BY_NAME
from headspring.streaming.engine.faust.codecs import Entry, stored
from headspring.streaming.engine.faust.inbox import Inbox
from headspring.streaming.engine.faust.session import PartitionSession, Table
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.port import Stage
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.port import EventLog

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Kind:
    """A stage as it was added."""

    make: Callable[[], Stage]
    name: str
    inputs: tuple[str, ...]
    spare: Stage | None
    """The one that was made to ask for its name and inputs; the first session takes it."""
    past: list[StageHealth] = field(default_factory=list)
    """Counts of sessions that ended, as one."""

    def stage(self) -> Stage:
        stage, self.spare = self.spare, None
        return stage if stage is not None else self.make()


class Flow(Protocol):
    """What sessions ask of the running Faust app."""

    def highwater(self, topic: str, partition: int) -> int | None:
        """The offset that the next record will get; None while not known. `topic` is our name, as everywhere here."""
        ...

    def hold(self, topic: str, partition: int) -> None:
        """Fetch no more of it for now."""
        ...

    def go_on(self, topic: str, partition: int) -> None: ...

    def lost(self, what: str) -> None:
        """Records are missing: everything must be taken again from the last commits."""
        ...


@dataclass(frozen=True, slots=True)
class _Live:
    table: Table
    flow: Flow

    def entry(self, stage: str, partition: int) -> Entry | None:
        """An empty one for what cannot be read: its session says so."""
        try:
            return self.table.entry(stage, partition)
        except ContractError:
            return Entry()


class Sessions:
    """Sessions between a `resume` and the next `suspend`. One event loop."""

    def __init__(
        self, kinds: Iterable[Kind], *, log: EventLog, schema: Schema, clock: Clock, back_off_s: float
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._log = log
        self._schema = schema
        self._clock = clock
        self._back_off_s = back_off_s
        self._live: _Live | None = None
        self._owned: frozenset[int] = frozenset()
        self._running: dict[tuple[str, int], PartitionSession] = {}
        self._unreadable: dict[tuple[str, int], str] = {}
        self._starts: dict[tuple[str, int], int] = {}
        """(topic, partition) → where reading began."""
        self._full: dict[tuple[str, int], set[str]] = {}
        """(topic, partition) → stages whose inboxes are full."""

    @property
    def owned(self) -> frozenset[int]:
        """Partition numbers that are ours now."""
        return self._owned

    @property
    def idle(self) -> bool:
        """All that was delivered has been processed and committed."""
        return not self._unreadable and all(session.idle for session in self._running.values())

    def wanted(self, topic: str, partition: int, earliest: int) -> int:
        """Where reading must begin so that no stage misses a record: at the first one that some snapshot does not
        reflect. What Kafka holds as committed does not count: the table does."""
        if self._live is None:
            return earliest
        positions: list[int] = []
        for kind in self._kinds.values():
            if topic in kind.inputs:
                entry = self._live.entry(kind.name, partition)
                positions.append(entry.positions.get(topic, earliest) if entry is not None else earliest)
        start = max(earliest, min(positions, default=earliest))
        self._starts[topic, partition] = start
        return start

    def resume(self, owned: Iterable[int], table: Table, flow: Flow) -> None:
        """The numbers are ours and the table is recovered: sessions with a stored state begin at once, others with
        their first record."""
        self._owned = frozenset(owned)
        self._live = live = _Live(table, flow)
        for partition in sorted(self._owned):
            for kind in self._kinds.values():
                if live.entry(kind.name, partition) is not None:
                    self._session(live, kind, partition)

    async def suspend(self, within_s: float) -> None:
        """Ends all sessions with a commit, or without one after `within_s`; nothing is delivered from here on."""
        self._owned = frozenset()
        self._full.clear()
        self._unreadable.clear()
        self._starts.clear()
        ending = list(self._running.values())
        await asyncio.gather(*(session.stop(within_s) for session in ending))
        for session in ending:
            past = self._kinds[session.stage.name].past
            past[:] = [combined([*past, session.health()])]
        self._running.clear()

    def deliver(self, stage: str, topic: str, message: Any, acknowledge: Callable[[], object]) -> None:
        """A message of Faust's for a stage. One that is not ours to process stays unacknowledged: whoever owns its
        partition reads it again."""
        partition, live = int(message.partition), self._live
        if partition not in self._owned or live is None:
            return
        session = self._session(live, self._kinds[stage], partition)
        if session is None:
            return
        record = stored(topic, message, self._schema)
        inbox = session.inboxes[topic]
        expected = inbox.next if inbox.next is not None else self._starts.get((topic, partition))
        if expected is not None and record.offset > expected and not _has_holes(topic):
            live.flow.lost(f"records {expected} to {record.offset - 1} of {topic}/{partition} were skipped")
            return
        if session.deliver(record, acknowledge).full:
            waiting = self._full.setdefault((topic, partition), set())
            waiting.add(stage)
            live.flow.hold(topic, partition)

    async def caught_up(self) -> bool:
        """Whether every record that is in our partitions now has been given to all stages that read it. Asks by the
        log's own connection: on Faust's, a question waits behind the fetch that waits for records."""
        topics = list({topic for kind in self._kinds.values() for topic in kind.inputs})
        ends = dict(zip(topics, await asyncio.gather(*map(self._log.end_offsets, topics)), strict=True))
        return all(
            self._next(kind, topic, partition) >= ends[topic][partition]
            for kind in self._kinds.values()
            for topic in kind.inputs
            for partition in self._owned
        )

    def health(self, name: str) -> StageHealth:
        """Of one stage over all its sessions, now and before."""
        kind = self._kinds[name]
        running = [session.health() for key, session in self._running.items() if key[0] == name]
        found = combined([*kind.past, *running])
        states = {one.state for one in running}
        unreadable = next((text for key, text in self._unreadable.items() if key[0] == name), "")
        if unreadable:
            states.add(StageState.BACKING_OFF)
            found = replace(found, last_error=unreadable)
        told = (StageState.BACKING_OFF, StageState.STARTING)
        state = next((one for one in told if one in states), StageState.RUNNING)
        return replace(found, state=state, lag=self._lag(kind))

    # Inside

    def _session(self, live: _Live, kind: Kind, partition: int) -> PartitionSession | None:
        """The one that runs, or a new one; None where its snapshot cannot be read."""
        key = (kind.name, partition)
        session = self._running.get(key)
        if session is None and key not in self._unreadable:
            try:
                session = PartitionSession(
                    kind.stage(), partition, log=self._log, table=live.table, clock=self._clock,
                    back_off_s=self._back_off_s, highwater=live.flow.highwater,
                    released=lambda inbox: self._has_room(kind.name, inbox),
                )  # fmt: skip
            except ContractError as error:
                self._unreadable[key] = f"{error}; partition {partition} of {kind.name} waits for a release that can"
                _LOG.error("a stage cannot go on: %s", self._unreadable[key])
                return None
            self._running[key] = session
            session.start()
        return session

    def _has_room(self, stage: str, inbox: Inbox) -> None:
        place = (inbox.topic, inbox.partition)
        waiting = self._full.get(place)
        if waiting is not None and stage in waiting:
            waiting.discard(stage)
            if not waiting:
                del self._full[place]
                if self._live is not None:
                    self._live.flow.go_on(*place)

    def _next(self, kind: Kind, topic: str, partition: int) -> int:
        """Offset of the next record that a stage will be given."""
        session = self._running.get((kind.name, partition))
        given = session.inboxes[topic].next if session is not None else None
        return given if given is not None else self._starts.get((topic, partition), 0)

    def _lag(self, kind: Kind) -> int:
        lag = 0
        for partition in self._owned:
            session = self._running.get((kind.name, partition))
            for topic in kind.inputs:
                inbox = session.inboxes[topic] if session is not None else None
                if inbox is not None and inbox.next is not None:
                    lag += inbox.lag()
                elif self._live is not None:
                    highwater = self._live.flow.highwater(topic, partition)
                    start = self._starts.get((topic, partition))
                    lag += max(0, highwater - start) if highwater is not None and start is not None else 0
        return lag


def combined(parts: Iterable[StageHealth]) -> StageHealth:
    """Counts added up; the newest error and batch are those of the last part that has one."""
    found = list(parts)
    return StageHealth(
        state=StageState.STARTING,
        lag=0,
        records_in=sum(one.records_in for one in found),
        records_out=sum(one.records_out for one in found),
        errors=sum(one.errors for one in found),
        dead_letters=sum(one.dead_letters for one in found),
        restarts=sum(one.restarts for one in found),
        last_batch_s=next((one.last_batch_s for one in reversed(found) if one.last_batch_s), 0.0),
        last_error=next((one.last_error for one in reversed(found) if one.last_error), ""),
    )


def _has_holes(topic: str) -> bool:
    """Whether offsets of a topic may be missing for good: compaction removes records from the middle."""
    known = BY_NAME.get(topic)
    return known is None or known.compacted
