"""A case of the public benchmark of root causes as a recording: `python -m tests.equality.public CASE FILE`.

The case's folder holds `spans.parquet`, `metrics.parquet` and `logs.parquet`, its `incident.json` names what it shares
with others in `../shared`. Spans and lines arrive with the second they end in, metrics at their time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from tests.equality import recording
from tests.equality.recording import Played

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import digest, entity_id
from headspring.proto.semantics import LABEL_SERVICE
from headspring.proto.telemetry import (
    LogBatch,
    LogRecord,
    MetricBatch,
    SeriesDescriptor,
    Span,
    SpanBatch,
    SpanKind,
    SpanStatus,
)  # fmt: skip
from headspring.proto.topics import LOGS, METRICS, SERIES, SPANS, record_key, series_key
from headspring.streaming.log.port import Record

TENANT = "default"
_STATUS = {"ok": SpanStatus.OK, "error": SpanStatus.ERROR}
_SEVERITY = {"error": 17, "err": 17, "fatal": 21, "critical": 21, "warn": 13, "warning": 13, "info": 9}
Row = dict[str, Any]


def from_case(folder: Path) -> list[Played]:
    """What senders would have sent."""
    shared = [folder.parent / "shared" / name for name in json.loads((folder / "incident.json").read_text())["shared"]]
    files = [*folder.glob("*.parquet"), *shared]

    def rows(kind: str) -> list[Row]:
        found: list[Row] = []
        for file in files:
            if file.name.startswith(kind):
                relation = duckdb.read_parquet(str(file))
                found += [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
        return found

    parts = [_samples(rows("metrics")), _spans(rows("spans")), _lines(rows("logs"))]
    return list(heapq.merge(*parts, key=lambda played: played[1].time_ns))


def _by_second(rows: Sequence[Row], key: str) -> Iterator[tuple[int, str, list[Row]]]:
    """Time of arrival, entity and rows, in order of time."""

    def group(row: Row) -> tuple[int, str]:
        return row["arrives_ns"] // NS_PER_S, str(row[key])

    for (second, service), of in itertools.groupby(sorted(rows, key=group), key=group):
        yield (second + 1) * NS_PER_S - 1, entity_id("service", service), list(of)


def _spans(rows: Sequence[Row]) -> list[Played]:
    # The source has no kinds: a span whose parent is another service's answers a call.
    place = {row["span_id"]: row["service"] for row in rows}
    found: list[Played] = []
    for row in rows:
        row["arrives_ns"] = int(row["start_ns"]) + int(row["duration_ns"])
    for time_ns, entity, of in _by_second(rows, "service"):
        spans = tuple(
            Span(
                trace_id=str(row["trace_id"]), span_id=str(row["span_id"]), parent_span_id=row["parent_span_id"] or "",
                operation=row["operation"] or "", start_ns=int(row["start_ns"]), duration_ns=int(row["duration_ns"]),
                status=_STATUS.get(row["status"] or "", SpanStatus.UNSET), instance=row["instance"] or "",
                kind=SpanKind.SERVER if place.get(row["parent_span_id"]) != row["service"] else SpanKind.INTERNAL,
            )
            for row in of
        )  # fmt: skip
        batch = SpanBatch(tenant=TENANT, entity=entity, received_ns=time_ns, spans=spans)
        found.append((SPANS.name, Record(key=record_key(TENANT, entity), value=codec.encode(batch), time_ns=time_ns)))
    return found


def _lines(rows: Sequence[Row]) -> list[Played]:
    found: list[Played] = []
    for row in rows:
        row["arrives_ns"] = _ns(row["timestamp"])
    for time_ns, entity, of in _by_second(rows, "service"):
        lines = tuple(
            LogRecord(
                time_ns=row["arrives_ns"], severity_text=row["severity"] or "", body=row["body"] or "",
                severity_number=_SEVERITY.get((row["severity"] or "").lower(), 0), trace_id=row["trace_id"] or "",
                span_id=row["span_id"] or "",
            )
            for row in of
        )  # fmt: skip
        batch = LogBatch(tenant=TENANT, entity=entity, received_ns=time_ns, records=lines)
        found.append((LOGS.name, Record(key=record_key(TENANT, entity), value=codec.encode(batch), time_ns=time_ns)))
    return found


def _samples(rows: Sequence[Row]) -> list[Played]:
    found: list[Played] = []
    ids: dict[tuple[str, ...], int] = {}
    by_time: dict[int, list[tuple[int, float]]] = {}
    for row in rows:
        series = (row["metric"], row["service"], row.get("instance") or "", row.get("peer") or "")
        if series not in ids:
            ids[series] = int(digest(*series)[:15], 16)
        by_time.setdefault(_ns(row["timestamp"]), []).append((ids[series], float(row["value"])))
    first_ns = min(by_time, default=0)
    for (metric, service, instance, peer), series_id in ids.items():
        labels = {LABEL_SERVICE: service, "instance": instance, "peer": peer}
        described = SeriesDescriptor(
            series_id=series_id, tenant=TENANT, name=metric, entity=entity_id("service", service),
            labels={name: value for name, value in labels.items() if value},
        )  # fmt: skip
        record = Record(key=series_key(TENANT, series_id), value=codec.encode(described), time_ns=first_ns)
        found.append((SERIES.name, record))
    for time_ns, samples in sorted(by_time.items()):
        batch = MetricBatch(
            tenant=TENANT, received_ns=time_ns, series_id=np.array([one for one, _ in samples], dtype=np.uint64),
            time_ns=np.full(len(samples), time_ns), value=np.array([value for _, value in samples]),
            kind=np.ones(len(samples), dtype=np.uint8),
        )  # fmt: skip
        found.append((METRICS.name, Record(key=record_key(TENANT, 0), value=codec.encode(batch), time_ns=time_ns)))
    return found


def _ns(at: Any) -> int:
    """Milliseconds, or a time of the database."""
    return int(at) * 1_000_000 if isinstance(at, int) else round(at.timestamp() * 1000) * 1_000_000


if __name__ == "__main__":
    recording.write(Path(sys.argv[2]), from_case(Path(sys.argv[1])))
