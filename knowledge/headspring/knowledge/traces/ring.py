"""The embedded trace store: recent spans in memory, their batches in SQLite to start again from.

Spans are kept as the batches they came in (columns of Python objects) plus an index by trace. The oldest
batches leave when there are too many spans or when they are too old.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.database import Database
from headspring.knowledge.traces.port import SpanTable
from headspring.proto.clock import NS_PER_S
from headspring.proto.codec import decode, encode
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import Span, SpanBatch

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    sequence INTEGER PRIMARY KEY, newest_ns INTEGER NOT NULL, spans INTEGER NOT NULL, data BLOB NOT NULL
);
"""


@dataclass(slots=True)
class _Chunk:
    tenant: str
    table: SpanTable
    newest_ns: int
    oldest_ns: int


class RingTraceStore:
    """`TraceStore` (see the port for the contract) for one process. `path=None` forgets on exit.

    The file survives `kill -9`; after power loss the last moments may be missing (the event log has them).
    """

    def __init__(self, path: Path | None, *, max_spans: int = 300_000, keep_s: float = 1800) -> None:
        """`max_spans` over all tenants, about 1 kB each; `keep_s` counts back from the newest span."""
        if max_spans < 1 or keep_s <= 0:
            raise ValueError(f"max_spans and keep_s must be positive, got {max_spans} and {keep_s}")
        self._max_spans = max_spans
        self._keep_ns = round(keep_s * NS_PER_S)
        self._lock = threading.RLock()
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()
        self._traces: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
        """(tenant, trace id) → span id → (chunk, row)."""
        self._spans = 0
        self._sequence = 0
        self._newest_ns = 0
        self._db = Database(path, _SCHEMA) if path is not None else None
        self._load()

    def add(self, batch: SpanBatch) -> None:
        with self._lock:
            added = self._insert(self._sequence + 1, batch)
            if added is None:
                return
            self._sequence += 1
            gone = self._evict()
            if self._db is not None:
                with self._db.write() as db:
                    db.execute(
                        "INSERT INTO batches VALUES (?, ?, ?, ?)",
                        (self._sequence, added.newest_ns, len(added.table), encode(batch)),
                    )
                    if gone:
                        db.execute("DELETE FROM batches WHERE sequence <= ?", (gone,))

    def batch(self) -> AbstractContextManager[None]:
        """Makes the writes inside it one transaction of the file."""
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The store's lock first, as in `add`: two threads that take both in different order would block.
        with self._lock:
            if self._db is None:
                yield
            else:
                with self._db.write():
                    yield

    def select(self, tenant: str, *, start_ns: int, end_ns: int, limit: int = 200_000) -> SpanTable:
        with self._lock:
            tables = [
                chunk.table
                for chunk in self._chunks.values()
                if chunk.tenant == tenant and chunk.newest_ns >= start_ns and chunk.oldest_ns < end_ns
            ]
        if not tables:
            return _table([], "")
        whole = _concatenate(tables)
        inside = np.flatnonzero((whole.start_ns >= start_ns) & (whole.start_ns < end_ns))
        inside = inside[np.argsort(whole.start_ns[inside], kind="stable")]
        return _take(whole, inside[max(0, inside.size - limit) :])

    def trace(self, tenant: str, trace_id: str) -> SpanTable:
        with self._lock:
            rows = list(self._traces.get((tenant, trace_id), {}).values())
            tables = [_take(self._chunks[chunk].table, np.array([row])) for chunk, row in rows]
        if not tables:
            return _table([], "")
        whole = _concatenate(tables)
        return _take(whole, np.argsort(whole.start_ns, kind="stable"))

    def __len__(self) -> int:
        return self._spans

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _load(self) -> None:
        if self._db is None:
            return
        with self._db.read() as db:
            rows = db.execute("SELECT sequence, data FROM batches ORDER BY sequence").fetchall()
        for sequence, data in rows:
            self._sequence = sequence
            try:
                self._insert(sequence, decode(SpanBatch, data))
            except ContractError:
                continue  # written by a version whose form we cannot read; the spans age out anyway
        gone = self._evict()
        if gone:
            with self._db.write() as db:
                db.execute("DELETE FROM batches WHERE sequence <= ?", (gone,))

    def _insert(self, sequence: int, batch: SpanBatch) -> _Chunk | None:
        """Adds the spans that are new; None when none is."""
        new: dict[tuple[str, str], Span] = {}
        for span in batch.spans:
            if span.span_id not in self._traces.get((batch.tenant, span.trace_id), ()):
                new.setdefault((span.trace_id, span.span_id), span)
        if not new:
            return None
        table = _table(new.values(), batch.entity)
        chunk = _Chunk(batch.tenant, table, int(table.start_ns.max()), int(table.start_ns.min()))
        for row, (trace_id, span_id) in enumerate(new):
            self._traces.setdefault((batch.tenant, trace_id), {})[span_id] = (sequence, row)
        self._chunks[sequence] = chunk
        self._spans += len(table)
        # Arrival bounds what a span may claim: a clock years ahead must not empty the store.
        newest_ns = min(chunk.newest_ns, batch.received_ns) if batch.received_ns else chunk.newest_ns
        self._newest_ns = max(self._newest_ns, newest_ns)
        return chunk

    def _evict(self) -> int:
        """Drops from the oldest end; returns the last sequence dropped, 0 for none. The newest batch stays."""
        gone = 0
        while len(self._chunks) > 1:
            sequence, chunk = next(iter(self._chunks.items()))
            if self._spans <= self._max_spans and chunk.newest_ns >= self._newest_ns - self._keep_ns:
                break
            del self._chunks[sequence]
            self._spans -= len(chunk.table)
            for trace_id, span_id in zip(chunk.table.trace_id, chunk.table.span_id, strict=True):
                spans = self._traces[chunk.tenant, trace_id]
                del spans[span_id]
                if not spans:
                    del self._traces[chunk.tenant, trace_id]
            gone = sequence
        return gone


def _table(spans: Iterable[Span], entity: str) -> SpanTable:
    spans = list(spans)
    return SpanTable(
        trace_id=_texts([span.trace_id for span in spans]),
        span_id=_texts([span.span_id for span in spans]),
        parent_span_id=_texts([span.parent_span_id for span in spans]),
        entity=_texts([entity] * len(spans)),
        instance=_texts([span.instance for span in spans]),
        operation=_texts([span.operation for span in spans]),
        kind=_texts([span.kind.value for span in spans]),
        peer=_texts([span.peer for span in spans]),
        start_ns=np.array([span.start_ns for span in spans], dtype=np.int64),
        duration_ns=np.array([span.duration_ns for span in spans], dtype=np.int64),
        status=_texts([span.status.value for span in spans]),
        status_message=_texts([span.status_message for span in spans]),
    )


def _texts(values: list[str]) -> NDArray[np.object_]:
    column = np.empty(len(values), dtype=np.object_)
    column[:] = values
    return column


def _take(table: SpanTable, index: NDArray[np.intp]) -> SpanTable:
    return SpanTable(**{field.name: getattr(table, field.name)[index] for field in fields(SpanTable)})


def _concatenate(tables: list[SpanTable]) -> SpanTable:
    if len(tables) == 1:
        return tables[0]
    return SpanTable(
        **{field.name: np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(SpanTable)}
    )
