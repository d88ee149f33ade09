"""The compiled path from bytes to columns: scan, look up, decode only what is seen for the first time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import Admission
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.metrics import SeriesDraft, otlp_series, prometheus_series, resource_attributes
from headspring.ingestion.normalize.values import attribute_map
from headspring.ingestion.wire import otlp_scan, prom_scan
from headspring.ingestion.wire.columns import NO_VALUE, TOO_OLD_OR_NEW, Columns, TimeWindow
from headspring.ingestion.wire.fields import OK
from headspring.ingestion.wire.hashing import PADDING_BYTES, Keys, random_keys
from headspring.ingestion.wire.output import (
    COUNT,
    DATA_TAG,
    METRIC_START,
    METRIC_STOP,
    PLAIN,
    REJECTED_TIME,
    REJECTED_VALUE,
    RESOURCE_START,
    RESOURCE_STOP,
    ROWS,
    SCOPE_START,
    SCOPE_STOP,
    SUM,
    Output,
    new_output,
)
from headspring.ingestion.wire.prompb import TimeSeries
from headspring.ingestion.wire.reference import COUNT_SUFFIX, SUM_SUFFIX, unit_of
from headspring.ingestion.wire.table import RawTable
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricKind

_SUFFIX = {PLAIN: "", COUNT: COUNT_SUFFIX, SUM: SUM_SUFFIX}
_KIND_OF = {code: kind for kind, code in METRIC_KIND_CODE.items()}
_POINTS: Mapping[int, Any] = {
    otlp_scan.GAUGE_TAG: metrics_pb2.NumberDataPoint,
    otlp_scan.SUM_TAG: metrics_pb2.NumberDataPoint,
    otlp_scan.HISTOGRAM_TAG: metrics_pb2.HistogramDataPoint,
    otlp_scan.EXPONENTIAL_TAG: metrics_pb2.ExponentialHistogramDataPoint,
    otlp_scan.SUMMARY_TAG: metrics_pb2.SummaryDataPoint,
}
_RAW_PER_SERIES = 2
"""Entries kept per series: one series may have a few spellings on the wire (order of attributes)."""
_KEPT_BYTES = 4 * 1024 * 1024
"""Largest buffer kept from one body to the next: 10 000 series of ten labels take 3.5 MB in remote write."""

_DraftOf = Callable[[int], SeriesDraft]


class WireScanner:
    """A `Scanner`. One event loop uses it; the compiled passes do not hold the interpreter lock."""

    def __init__(self, limits: Limits, *, keys: Keys | None = None) -> None:
        """`keys` are the secret words of the raw hash; drawn at random unless a test gives them."""
        self._limits = limits
        self._keys = random_keys() if keys is None else keys
        self._tables: dict[tuple[str, str], RawTable] = {}
        self._kept = np.zeros(PADDING_BYTES, dtype=np.uint8)

    def warm(self) -> None:
        """Compiles, or loads from the cache, everything a request needs. Call it before serving."""
        window = TimeWindow(oldest_ns=1, newest_ns=2)
        buffer = np.zeros(PADDING_BYTES, dtype=np.uint8)
        for scan in (otlp_scan.scan_otlp, prom_scan.scan_remote_write):
            scan(np.uint64(buffer.ctypes.data), 0, new_output(1, self._keys, window, with_metrics=True))
        table = RawTable(max_entries=1)
        one = np.ones(1, dtype=np.uint64)
        table.put(one, one, np.ones(1, dtype=np.uint8))
        table.lookup(one)

    def otlp(self, body: bytes, admission: Admission, window: TimeWindow) -> Columns | None:
        """Columns of an OTLP metrics request, None where the plain path must do it."""
        out = new_output(len(body) // otlp_scan.MIN_ROW_BYTES + 16, self._keys, window, with_metrics=True)
        buffer = self._padded(body)
        if otlp_scan.scan_otlp(np.uint64(buffer.ctypes.data), len(body), out) != OK:
            return None
        return self._resolve("otlp", out, admission, _otlp_drafts(body, out), own_kinds=True)

    def remote_write(
        self, body: bytes, admission: Admission, window: TimeWindow, types: Mapping[str, int]
    ) -> Columns | None:
        """Columns of a remote-write request, None where the plain path must do it."""
        out = new_output(len(body) // prom_scan.MIN_ROW_BYTES + 16, self._keys, window, with_metrics=False)
        buffer = self._padded(body)
        if prom_scan.scan_remote_write(np.uint64(buffer.ctypes.data), len(body), out) != OK:
            return None
        return self._resolve("prometheus", out, admission, _prometheus_drafts(body, out, types), own_kinds=False)

    def seen_since(self, tenant: str, since_s: int) -> set[int]:
        """For `SeriesRegistry.on_expire`."""
        tables = (table for (owner, _), table in self._tables.items() if owner == tenant)
        return set().union(*(table.seen_since(since_s) for table in tables))

    def _padded(self, body: bytes) -> NDArray[np.uint8]:
        """A copy with padding, good until the next call: new memory for each body would cost as much as the scan."""
        size = len(body) + PADDING_BYTES
        buffer = self._kept
        if buffer.size < size:
            buffer = np.empty(size, dtype=np.uint8)
            if size <= _KEPT_BYTES:
                self._kept = buffer
        buffer[: len(body)] = np.frombuffer(body, dtype=np.uint8)
        buffer[len(body) : size] = 0
        return buffer

    def _resolve(
        self, protocol: str, out: Output, admission: Admission, draft_of: _DraftOf, *, own_kinds: bool
    ) -> Columns | None:
        rows = int(out.state[ROWS])
        raws = out.raws[:rows]
        table = self._tables.get((admission.tenant, protocol))
        if table is None:
            table = RawTable(max_entries=_RAW_PER_SERIES * self._limits.max_series)
            self._tables[admission.tenant, protocol] = table
        ids, kinds, missing = table.lookup(raws, admission.now_s)
        rejected = Counter({TOO_OLD_OR_NEW: int(out.state[REJECTED_TIME]), NO_VALUE: int(out.state[REJECTED_VALUE])})
        if missing:
            try:
                self._first_seen(out, admission, draft_of, ids, kinds, rejected, table)
            except DecodeError:
                return None
        if own_kinds:
            kinds = out.kinds[:rows]
        keep: Any = slice(None) if not missing or ids.all() else ids != 0
        return Columns(
            series_id=ids[keep],
            # Copies, so that the scan's large arrays go at once.
            time_ns=out.times[:rows][keep].copy(),
            value=out.values[:rows][keep].copy(),
            kind=kinds[keep].copy(),
            rejected=+rejected,
        )

    def _first_seen(
        self, out: Output, admission: Admission, draft_of: _DraftOf, ids: NDArray[np.uint64], kinds: NDArray[np.uint8],
        rejected: Counter[str], table: RawTable,
    ) -> None:  # fmt: skip
        """Decodes each unknown series once; fills `ids` and `kinds`, leaves id 0 where it may not come in."""
        decided: dict[int, tuple[int, int] | str] = {}
        unknown = np.flatnonzero(ids == 0)
        for row, raw in zip(unknown.tolist(), out.raws[unknown].tolist(), strict=True):
            verdict = decided.get(raw)
            if verdict is None:
                verdict = admission.admit(draft_of(row)) or admission.reason
                decided[raw] = verdict
            if isinstance(verdict, str):
                rejected[verdict] += 1
            else:
                ids[row], kinds[row] = verdict
        taken = {raw: verdict for raw, verdict in decided.items() if not isinstance(verdict, str)}
        if taken:
            raws = np.array(list(taken), dtype=np.uint64)
            new_ids = np.array([series_id for series_id, _ in taken.values()], dtype=np.uint64)
            new_kinds = np.array([kind for _, kind in taken.values()], dtype=np.uint8)
            admission.on_commit.append(lambda: table.put(raws, new_ids, new_kinds, admission.now_s))


def _otlp_drafts(body: bytes, out: Output) -> _DraftOf:
    """Row to series, by the same functions as the reference; shared parts are decoded once."""

    @lru_cache(maxsize=256)
    def resource(start: int, stop: int) -> tuple[dict[str, str], str]:
        attributes = resource_attributes(attribute_map(Resource.FromString(body[start:stop]).attributes))
        return attributes, entities.of_resource(attributes)

    @lru_cache(maxsize=256)
    def scope(start: int, stop: int) -> str:
        return str(InstrumentationScope.FromString(body[start:stop]).name)

    @lru_cache(maxsize=256)
    def metric(start: int, stop: int) -> tuple[str, str]:
        message = metrics_pb2.Metric.FromString(body[start:stop])
        return message.name, message.unit

    def draft(row: int) -> SeriesDraft:
        place = out.metrics[out.row_metric[row]].tolist()
        attributes, entity = resource(place[RESOURCE_START], place[RESOURCE_STOP])
        name, unit = metric(place[METRIC_START], place[METRIC_STOP])
        point = _POINTS[place[DATA_TAG]].FromString(body[out.row_start[row] : out.row_stop[row]])
        suffix = _SUFFIX[int(out.variants[row])]
        return otlp_series(
            resource=attributes,
            entity=entity,
            scope=scope(place[SCOPE_START], place[SCOPE_STOP]),
            name=name + suffix,
            unit=unit_of(unit, suffix),
            kind=_KIND_OF.get(int(out.kinds[row]), MetricKind.GAUGE),
            attributes=attribute_map(point.attributes),
        )

    return draft


def _prometheus_drafts(body: bytes, out: Output, types: Mapping[str, int]) -> _DraftOf:
    def draft(row: int) -> SeriesDraft:
        series = TimeSeries.FromString(body[out.row_start[row] : out.row_stop[row]])
        return prometheus_series({label.name: label.value for label in series.labels}, types)

    return draft
