"""Telemetry as it is held inside: columns for samples, records for logs, spans and changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class MetricKind(StrEnum):
    """How a series' values are to be read; the column form is `METRIC_KIND_CODE`."""

    UNSPECIFIED = "unspecified"
    GAUGE = "gauge"
    COUNTER = "counter"
    """Cumulative and monotonic: becomes a rate before windows, resets handled."""
    DELTA = "delta"
    """Change since the previous report."""
    UPDOWN = "updown"
    """Cumulative but may fall; treated as a gauge."""


METRIC_KIND_CODE: dict[MetricKind, int] = {
    MetricKind.UNSPECIFIED: 0,
    MetricKind.GAUGE: 1,
    MetricKind.COUNTER: 2,
    MetricKind.DELTA: 3,
    MetricKind.UPDOWN: 4,
}
"""The number of each kind in `MetricBatch.kind`, equal to the protobuf enum."""


class SpanKind(StrEnum):
    UNSPECIFIED = "unspecified"
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class SpanStatus(StrEnum):
    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class ChangeKind(StrEnum):
    UNSPECIFIED = "unspecified"
    DEPLOY = "deploy"
    CONFIG = "config"
    FLAG = "flag"
    SCALE = "scale"
    ROLLBACK = "rollback"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesDescriptor:
    """What a series id stands for. Published once per series on `telemetry.series`."""

    series_id: int
    """64-bit keyed hash of tenant, resource, scope, name, unit and attributes."""
    tenant: str
    name: str
    """Metric name with OpenTelemetry or Prometheus spelling as it came."""
    unit: str = ""
    kind: MetricKind = MetricKind.GAUGE
    entity: str = ""
    """Entity the series is about, `kind:namespace/name`; "" unknown."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBatch:
    """Samples as columns of equal length n, in the order they arrived."""

    tenant: str
    shard: int = 0
    received_ns: int = 0
    series_id: NDArray[np.uint64]
    time_ns: NDArray[np.int64]
    """Event time, unix nanoseconds."""
    value: NDArray[np.float64]
    """In the series' own unit; NaN marks an explicit gap (Prometheus' stale marker)."""
    kind: NDArray[np.uint8]
    """`METRIC_KIND_CODE` of each sample's series."""
    new_series: tuple[SeriesDescriptor, ...] = ()
    """Series seen for the first time in this batch."""

    def __len__(self) -> int:
        return int(self.series_id.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    time_ns: int
    severity_number: int = 0
    """OpenTelemetry severity 1..24; 0 unknown. 17 and above is an error."""
    severity_text: str = ""
    body: str = ""
    trace_id: str = ""
    """Lower-case hex, "" none."""
    span_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBatch:
    """Log records of one entity."""

    tenant: str
    entity: str
    received_ns: int = 0
    records: tuple[LogRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    operation: str = ""
    kind: SpanKind = SpanKind.UNSPECIFIED
    start_ns: int = 0
    duration_ns: int = 0
    status: SpanStatus = SpanStatus.UNSET
    status_message: str = ""
    instance: str = ""
    peer: str = ""
    """Entity id of the remote side as this span names it (`peer.service`, `db.system`, …); "" unknown."""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanBatch:
    """Spans of one service."""

    tenant: str
    entity: str
    received_ns: int = 0
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something people or machines changed: a deployment, a configuration, a flag, a scale."""

    change_id: str
    tenant: str
    entity: str = ""
    kind: ChangeKind = ChangeKind.UNSPECIFIED
    time_ns: int = 0
    summary: str = ""
    version: str = ""
    previous_version: str = ""
    source: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
