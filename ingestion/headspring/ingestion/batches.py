"""Batches of a size that every log takes: columns cut by bytes, records grouped by entity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headspring.ingestion.wire.columns import Columns
from headspring.proto.telemetry import LogRecord, MetricBatch, SeriesDescriptor, Span
from headspring.proto.topics import SHARD_SHIFT

_ROW_BYTES = 8 + 8 + 8 + 1
_DESCRIPTOR_BYTES = 64
"""Framing, id and kind of one descriptor, without its texts."""
_RECORD_BYTES = 160
"""Framing, ids and times of one span or log record, without its texts."""

T = TypeVar("T", Span, LogRecord)


def metric_batches(
    columns: Columns,
    new: Mapping[int, SeriesDescriptor],
    *,
    tenant: str,
    received_ns: int,
    shards: int,
    max_bytes: int,
) -> Iterator[MetricBatch]:
    """Batches of one shard each, in arrival order within a shard; a new series' descriptor travels with
    the first batch that has its samples."""
    pending = dict(new)
    places = (columns.series_id >> np.uint64(SHARD_SHIFT)) % np.uint64(shards) if shards > 1 else None  # as `shard_of`
    for shard in range(shards):
        rows = np.arange(len(columns)) if places is None else np.flatnonzero(places == shard)
        for part in _parts(columns, rows, pending, max_bytes):
            ids = columns.series_id[part]
            first_seen = _taken(pending, ids) if pending else ()
            yield MetricBatch(
                tenant=tenant,
                shard=shard,
                received_ns=received_ns,
                series_id=ids,
                time_ns=columns.time_ns[part],
                value=columns.value[part],
                kind=columns.kind[part],
                new_series=first_seen,
            )


def _taken(pending: dict[int, SeriesDescriptor], ids: NDArray[np.uint64]) -> tuple[SeriesDescriptor, ...]:
    """Descriptors of `ids`, in their order; they are pending no longer."""
    return tuple(pending.pop(series_id) for series_id in dict.fromkeys(ids.tolist()) if series_id in pending)


def _parts(
    columns: Columns, rows: NDArray[np.int64], pending: Mapping[int, SeriesDescriptor], max_bytes: int
) -> Iterator[NDArray[np.int64]]:
    if rows.size == 0:
        return
    cost = np.full(rows.size, _ROW_BYTES, dtype=np.int64)
    if pending:
        ids, first = np.unique(columns.series_id[rows], return_index=True)
        for series_id, row in zip(ids.tolist(), first.tolist(), strict=True):
            if series_id in pending:
                cost[row] += descriptor_bytes(pending[series_id])
    # A part ends where the running sum enters the next multiple of half the limit: no part is above it
    # unless a single row is.
    bucket = np.cumsum(cost) // max(1, max_bytes // 2)
    yield from np.split(rows, np.flatnonzero(np.diff(bucket)) + 1)


def descriptor_bytes(descriptor: SeriesDescriptor) -> int:
    """About how many bytes a descriptor takes on the wire."""
    texts = sum(len(key) + len(value) + 6 for key, value in descriptor.labels.items())
    return _DESCRIPTOR_BYTES + texts + len(descriptor.name) + len(descriptor.entity)


def by_entity(items: Iterable[tuple[str, T]], max_bytes: int) -> Iterator[tuple[str, tuple[T, ...]]]:
    """Groups of one entity each, in order within an entity, cut where they would become too large."""
    groups: dict[str, list[T]] = {}
    sizes: dict[str, int] = {}
    for entity, item in items:
        size = _size(item)
        if entity in groups and sizes[entity] + size > max_bytes:
            yield entity, tuple(groups.pop(entity))
            sizes[entity] = 0
        groups.setdefault(entity, []).append(item)
        sizes[entity] = sizes.get(entity, 0) + size
    for entity, group in groups.items():
        yield entity, tuple(group)


def _size(item: Span | LogRecord) -> int:
    text = item.body if isinstance(item, LogRecord) else item.operation + item.status_message
    return (
        _RECORD_BYTES
        + len(text.encode("utf-8", "replace"))
        + sum(len(key) + len(value) + 6 for key, value in item.attributes.items())
    )
