"""The stages that fill the stores: topics in, series, documents and traces out.

They speak the stage contract of `headspring.streaming.engine.port.Stage` without importing it (rooms of
one layer do not know each other): records come as anything with `.record.value` and `.record.time_ns`,
and nothing goes out. Store calls block, so they run in a thread. What `process` returned from is
durable, so the engine may commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol, runtime_checkable

from headspring.knowledge.documents.port import Document, DocumentStore
from headspring.knowledge.series.port import SeriesStore
from headspring.knowledge.traces.port import TraceStore
from headspring.proto.clock import NS_PER_S
from headspring.proto.codec import decode
from headspring.proto.detection import Alert
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch, MetricBatch, SeriesDescriptor, SpanBatch
from headspring.proto.topics import ALERTS, CHANGES, DIAGNOSES, INCIDENTS, LOGS, METRICS, SERIES, SPANS

SERIES_RETENTION = timedelta(days=15)
"""Two weeks let a seasonal detector see every weekday twice."""
LOG_RETENTION = timedelta(days=7)
_RETENTION_TICK_S = 600.0
"""Retention drops by the day; looking every ten minutes is often enough."""


class _Payload(Protocol):
    @property
    def value(self) -> bytes: ...
    @property
    def time_ns(self) -> int: ...


class InputRecord(Protocol):
    """The part of a stored record that these stages read."""

    @property
    def record(self) -> _Payload: ...


NoOutput = tuple[()]


@runtime_checkable
class Flushing(Protocol):
    """A store that holds writes back until told."""

    def flush(self) -> None: ...


@runtime_checkable
class Batching(Protocol):
    """A store that can make many writes one transaction."""

    def batch(self) -> AbstractContextManager[None]: ...


class SeriesWriter:
    """`telemetry.series` and `telemetry.metrics` into the series store."""

    name = "knowledge.series"
    inputs = (SERIES.name, METRICS.name)
    tick_s = _RETENTION_TICK_S

    def __init__(self, store: SeriesStore, *, retention: timedelta = SERIES_RETENTION) -> None:
        self._store = store
        self._retention_ns = round(retention.total_seconds() * NS_PER_S)

    async def process(self, topic: str, records: Sequence[InputRecord]) -> NoOutput:
        """Raises ContractError for a record that cannot be read."""
        await asyncio.to_thread(self._write, topic, [stored.record.value for stored in records])
        return ()

    def _write(self, topic: str, values: Sequence[bytes]) -> None:
        if topic == SERIES.name:
            self._store.register([decode(SeriesDescriptor, value) for value in values])
        else:
            for batch in [decode(MetricBatch, value) for value in values]:
                self._store.write(batch)
        if isinstance(self._store, Flushing):
            self._store.flush()

    async def tick(self, now_ns: int) -> NoOutput:
        await asyncio.to_thread(self._store.drop_before, now_ns - self._retention_ns)
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Stateless: the store is the state, and its writes are idempotent."""


_DOCUMENTS: Mapping[str, type[Document]] = {
    LOGS.name: LogBatch, ALERTS.name: Alert, INCIDENTS.name: Incident, DIAGNOSES.name: Diagnosis, CHANGES.name: Change,
}  # fmt: skip


class DocumentWriter:
    """Logs, alerts, incidents, diagnoses and changes into the document store."""

    name = "knowledge.documents"
    inputs = tuple(_DOCUMENTS)
    tick_s = _RETENTION_TICK_S

    def __init__(self, store: DocumentStore, *, log_retention: timedelta = LOG_RETENTION) -> None:
        self._store = store
        self._log_retention_ns = round(log_retention.total_seconds() * NS_PER_S)

    async def process(self, topic: str, records: Sequence[InputRecord]) -> NoOutput:
        """Raises ContractError for a record that cannot be read; nothing of the call is kept then."""
        await asyncio.to_thread(self._write, topic, [stored.record.value for stored in records])
        return ()

    def _write(self, topic: str, values: Sequence[bytes]) -> None:
        kind = _DOCUMENTS[topic]
        self._store.put_all([decode(kind, value) for value in values])

    async def tick(self, now_ns: int) -> NoOutput:
        await asyncio.to_thread(self._store.drop_logs_before, now_ns - self._log_retention_ns)
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Stateless: the store is the state, and its writes are idempotent."""


class TraceWriter:
    """`telemetry.spans` into the trace store, which bounds itself."""

    name = "knowledge.traces"
    inputs = (SPANS.name,)
    tick_s = 0.0

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def process(self, topic: str, records: Sequence[InputRecord]) -> NoOutput:
        """Raises ContractError for a record that cannot be read."""
        await asyncio.to_thread(self._write, [stored.record.value for stored in records])
        return ()

    def _write(self, values: Sequence[bytes]) -> None:
        batches = [decode(SpanBatch, value) for value in values]
        with self._store.batch() if isinstance(self._store, Batching) else contextlib.nullcontext():
            for batch in batches:
                self._store.add(batch)

    async def tick(self, now_ns: int) -> NoOutput:
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Stateless: the store is the state, and its writes are idempotent."""
