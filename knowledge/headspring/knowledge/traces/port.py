"""The traces port: spans in, tables of recent spans out.

Contract: bounded in memory (oldest traces go first), filled again from `telemetry.spans` after a
restart, idempotent per (trace, span). Reads and writes may come from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headspring.proto.telemetry import SpanBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTable:
    """Spans as columns of equal length n, ordered by start. Text columns hold Python strings."""

    trace_id: NDArray[np.object_]
    span_id: NDArray[np.object_]
    parent_span_id: NDArray[np.object_]
    """"" for a root."""
    entity: NDArray[np.object_]
    """Service the span belongs to, as an entity id."""
    instance: NDArray[np.object_]
    operation: NDArray[np.object_]
    kind: NDArray[np.object_]
    """`SpanKind` values; "unspecified" where the source does not say."""
    peer: NDArray[np.object_]
    start_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    status: NDArray[np.object_]
    """`ok`, `error` or `unset`."""
    status_message: NDArray[np.object_]

    def __len__(self) -> int:
        return int(self.start_ns.size)


class TraceStore(Protocol):
    """See the module's contract."""

    def add(self, batch: SpanBatch) -> None: ...

    def select(self, tenant: str, *, start_ns: int, end_ns: int, limit: int = 200_000) -> SpanTable:
        """Spans that start in [start_ns, end_ns); the newest `limit` of them."""
        ...

    def trace(self, tenant: str, trace_id: str) -> SpanTable: ...
