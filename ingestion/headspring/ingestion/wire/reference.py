"""The plain way from protobuf messages to columns: what the scanner must agree with, and its fallback.

Histograms, exponential histograms and summaries become two series each, `<name>_count` and
`<name>_sum`; their buckets are not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headspring.ingestion.admit.registry import Admission
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.metrics import SeriesDraft, otlp_series, prometheus_series, resource_attributes
from headspring.ingestion.normalize.values import attribute_map
from headspring.ingestion.wire.columns import NO_VALUE, TOO_OLD_OR_NEW, ColumnBuilder, Columns, TimeWindow
from headspring.ingestion.wire.prompb import WriteRequest
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricKind

DELTA_TEMPORALITY = 1
CUMULATIVE_TEMPORALITY = 2
NO_RECORDED_VALUE = 1
"""DataPointFlags: the point says that there is no value (opentelemetry-proto, metrics.proto)."""
COUNT_SUFFIX = "_count"
SUM_SUFFIX = "_sum"
_MS = 1_000_000
_MAX_MS = (2**63 - 1) // _MS


def parse_otlp(body: bytes) -> Any:
    """An ExportMetricsServiceRequest. Raises `ContractError` where the bytes are none."""
    return _parse(ExportMetricsServiceRequest(), body, "an OTLP metrics request")


def parse_remote_write(body: bytes) -> Any:
    """A remote-write 1.0 WriteRequest. Raises `ContractError` where the bytes are none."""
    return _parse(WriteRequest(), body, "a remote-write request")


def sum_kind(temporality: int, monotonic: bool) -> MetricKind:
    """How a Sum is to be read; unspecified temporality counts as cumulative."""
    if temporality == DELTA_TEMPORALITY:
        return MetricKind.DELTA
    return MetricKind.COUNTER if monotonic else MetricKind.UPDOWN


def otlp_columns(request: Any, admission: Admission, window: TimeWindow) -> Columns:
    """Columns of a parsed request; series that are new are in `admission.new`."""
    rows = ColumnBuilder()
    for resource_metrics in request.resource_metrics:
        resource = resource_attributes(attribute_map(resource_metrics.resource.attributes))
        entity = entities.of_resource(resource)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                for suffix, kind, attributes, time_ns, value in _points(metric):
                    if not window.oldest_ns <= time_ns <= window.newest_ns:
                        rows.rejected[TOO_OLD_OR_NEW] += 1
                        continue
                    if value is None or math.isinf(value):
                        rows.rejected[NO_VALUE] += 1
                        continue
                    draft = otlp_series(
                        resource=resource,
                        entity=entity,
                        scope=scope_metrics.scope.name,
                        name=metric.name + suffix,
                        unit=unit_of(metric.unit, suffix),
                        kind=kind,
                        attributes=attribute_map(attributes),
                    )
                    _admit(rows, admission, draft, time_ns, value, METRIC_KIND_CODE[kind])
    return rows.build()


def remote_write_columns(request: Any, admission: Admission, window: TimeWindow, types: Mapping[str, int]) -> Columns:
    """Columns of a parsed remote-write request; `types` are metric types by family, as metadata states them."""
    rows = ColumnBuilder()
    for series in request.timeseries:
        labels = {label.name: label.value for label in series.labels}
        draft = prometheus_series(labels, types)
        for sample in series.samples:
            _prometheus_row(rows, admission, draft, sample.timestamp, sample.value, window)
        for histogram in series.histograms:
            count = histogram.count_float or float(histogram.count_int)
            for suffix, value in ((COUNT_SUFFIX, count), (SUM_SUFFIX, histogram.sum)):
                named = labels | {"__name__": labels.get("__name__", "") + suffix}
                _prometheus_row(rows, admission, prometheus_series(named), histogram.timestamp, value, window)
    return rows.build()


def metadata_types(request: Any) -> dict[str, int]:
    """Metric type by family name, of a remote-write request's metadata."""
    return {item.metric_family_name: item.type for item in request.metadata}


def unit_of(unit: str, suffix: str) -> str:
    """A histogram's count has no unit, its sum has the histogram's."""
    return "1" if suffix == COUNT_SUFFIX else unit


def _prometheus_row(
    rows: ColumnBuilder, admission: Admission, draft: SeriesDraft, time_ms: int, value: float, window: TimeWindow
) -> None:
    time_ns = time_ms * _MS if abs(time_ms) <= _MAX_MS else 0
    if not window.oldest_ns <= time_ns <= window.newest_ns:
        rows.rejected[TOO_OLD_OR_NEW] += 1
    elif math.isinf(value):
        rows.rejected[NO_VALUE] += 1
    else:
        _admit(rows, admission, draft, time_ns, value, None)


def _admit(
    rows: ColumnBuilder, admission: Admission, draft: SeriesDraft, time_ns: int, value: float, kind: int | None
) -> None:
    admitted = admission.admit(draft)
    if admitted is None:
        rows.rejected[admission.reason] += 1
    else:
        rows.add(admitted[0], time_ns, value, admitted[1] if kind is None else kind)


def _points(metric: Any) -> Iterator[tuple[str, MetricKind, Any, int, float | None]]:
    """Name suffix, kind, attributes, time and value (NaN = gap, None = missing) of every sample of a metric."""
    which = metric.WhichOneof("data")
    if which == "gauge":
        for point in metric.gauge.data_points:
            yield "", MetricKind.GAUGE, point.attributes, point.time_unix_nano, _number(point)
    elif which == "sum":
        kind = sum_kind(metric.sum.aggregation_temporality, metric.sum.is_monotonic)
        for point in metric.sum.data_points:
            yield "", kind, point.attributes, point.time_unix_nano, _number(point)
    elif which in ("histogram", "exponential_histogram", "summary"):
        data = getattr(metric, which)
        kind = sum_kind(CUMULATIVE_TEMPORALITY if which == "summary" else data.aggregation_temporality, True)
        for point in data.data_points:
            gap = bool(point.flags & NO_RECORDED_VALUE)
            yield COUNT_SUFFIX, kind, point.attributes, point.time_unix_nano, math.nan if gap else float(point.count)
            if which == "summary" or point.HasField("sum"):
                yield SUM_SUFFIX, kind, point.attributes, point.time_unix_nano, math.nan if gap else point.sum


def _number(point: Any) -> float | None:
    if point.flags & NO_RECORDED_VALUE:
        return math.nan
    which = point.WhichOneof("value")
    return None if which is None else float(getattr(point, which))


def _parse(message: Any, body: bytes, what: str) -> Any:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise ContractError(f"{len(body)} bytes are not {what}: {error}") from error
    return message
