"""Intake: what every receiver hands its bodies to. Decoded, checked, normalised, durable, then acknowledged.

Each method returns only after `EventLog.append` did, so its caller may answer 2xx. `ContractError` means
that the sender must not send this again (400, 413 for `LimitExceeded`); `Unavailable` means try later.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from headspring.ingestion.admit.json_text import parse_json
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.batches import by_entity, metric_batches
from headspring.ingestion.normalize import alerts as alert_forms
from headspring.ingestion.normalize.changes import parse_changes
from headspring.ingestion.normalize.json_metrics import json_metrics
from headspring.ingestion.normalize.logs import json_logs, otlp_logs
from headspring.ingestion.normalize.loki import json_push_logs, parse_push, protobuf_logs
from headspring.ingestion.normalize.metrics import SeriesDraft
from headspring.ingestion.normalize.otlp_json import parse_otlp_json
from headspring.ingestion.normalize.spans import otlp_spans
from headspring.ingestion.wire.columns import TOO_OLD_OR_NEW, ColumnBuilder
from headspring.ingestion.wire.decode import Decoded, MetricDecoder
from headspring.proto import codec
from headspring.proto.action import DeadLetter
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.detection import AlertStatus
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import LogBatch, LogRecord, SpanBatch
from headspring.proto.topics import (
    ALERTS,
    CHANGES,
    DEAD_LETTER,
    LOGS,
    METRICS,
    SERIES,
    SPANS,
    Topic,
    record_key,
    series_key,
)
from headspring.streaming.log.port import EventLog, Record

if TYPE_CHECKING:
    from headspring.ingestion.wire.scanner import WireScanner

JSON_TYPE = "application/json"
PROTOBUF_TYPE = "application/x-protobuf"
T = TypeVar("T")

_ASIDE_BYTES = 256 * 1024
"""Python reads about 10 MB/s of spans or JSON: up to here a body holds the event loop for some 25 ms."""
RESOLVE_TIMEOUT_S = 300.0
"""A firing alert whose sender gives no start and falls silent ends after this (Alertmanager's default)."""
_MAX_OPEN_ALERTS = 100_000
"""Alerts without a start time that are remembered, all tenants together; the oldest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialResult:
    """What became of one request."""

    accepted: int
    """Samples, spans, records, alerts or changes that are durable now."""
    rejected: int = 0
    message: str = ""
    """Why some were rejected: the most frequent reasons, with counts."""


class Intake:
    """All kinds of input into the log. One event loop, any number of tasks."""

    def __init__(
        self,
        log: EventLog,
        *,
        clock: Clock,
        limits: Limits,
        registry: SeriesRegistry,
        shards: int = 1,
        scan: bool = True,
    ) -> None:
        """
        Args:
            log: Where everything goes; its `append` decides when a sender is answered.
            clock: Stamps arrival and bounds event times.
            limits: See `admit.limits`.
            registry: Series known so far; filled from `telemetry.series` before the first request.
            shards: How many window shards samples are spread over, by series id.
            scan: False leaves out the compiled scanner: same results, twenty to a hundred times the CPU time.
        """
        self._scanner: WireScanner | None = None
        if scan:
            # Here, because numba takes half a second to import.
            from headspring.ingestion.wire import scanner

            self._scanner = scanner.WireScanner(limits)
            registry.on_expire.append(self._scanner.seen_since)
        self._log = log
        self._clock = clock
        self._registry = registry
        self._decoder = MetricDecoder(registry, limits, self._scanner)
        self._shards = shards
        self._open_alerts: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self.limits = limits
        self.counters: Counter[str] = Counter()
        """Own telemetry: `headspring_ingestion_*_total` by name."""

    def warm(self) -> None:
        """Compiles the scanner, or loads it from numba's cache: seconds the first time, so before serving."""
        if self._scanner is not None:
            self._scanner.warm()

    async def metrics_otlp(self, tenant: str, body: bytes, content_type: str) -> PartialResult:
        """An OTLP metrics request, protobuf or JSON by `content_type`, decompressed."""
        now_ns = self._now_ns()
        if content_type == JSON_TYPE:
            depth = self.limits.max_json_depth
            decoded = await self._aside(
                body,
                lambda: self._decoder.parsed_otlp(
                    tenant, parse_otlp_json(body, ExportMetricsServiceRequest(), max_depth=depth), now_ns
                ),
            )
        else:
            scanned = self._decoder.scan_otlp(tenant, body, now_ns)
            decoded = scanned or await self._plain(body, lambda: self._decoder.plain_otlp(tenant, body, now_ns))
        return await self._store_metrics(decoded, now_ns)

    async def metrics_remote_write(self, tenant: str, body: bytes) -> PartialResult:
        """A Prometheus remote-write 1.0 request, decompressed."""
        now_ns = self._now_ns()
        scanned = self._decoder.scan_remote_write(tenant, body, now_ns)
        decoded = scanned or await self._plain(body, lambda: self._decoder.plain_remote_write(tenant, body, now_ns))
        return await self._store_metrics(decoded, now_ns)

    async def metrics_json(self, tenant: str, body: bytes) -> PartialResult:
        """Our plain JSON form, see `normalize.json_metrics`; also OTLP JSON, told by `resourceMetrics`."""
        now_ns = self._now_ns()
        payload = await self._aside(body, lambda: parse_json(body, max_depth=self.limits.max_json_depth))
        if isinstance(payload, Mapping) and "resourceMetrics" in payload:
            return await self.metrics_otlp(tenant, body, JSON_TYPE)
        rows = ColumnBuilder()
        return await self.metrics_values(tenant, json_metrics(payload, now_ns, rows.rejected), rows=rows)

    async def metrics_values(
        self, tenant: str, values: Iterable[tuple[SeriesDraft, int, float]], *, rows: ColumnBuilder | None = None
    ) -> PartialResult:
        """Samples made in this process: (series, event time in ns, value)."""
        now_ns = self._now_ns()
        rows = rows or ColumnBuilder()
        admission = self._registry.admission(tenant)
        window = self._decoder.window(now_ns)
        for draft, time_ns, value in values:
            admitted = admission.admit(draft) if window.oldest_ns <= time_ns <= window.newest_ns else None
            if admitted is not None:
                rows.add(admitted[0], time_ns, value, admitted[1])
            else:
                rows.rejected[admission.reason or TOO_OLD_OR_NEW] += 1
        return await self._store_metrics(Decoded(columns=rows.build(), admission=admission), now_ns)

    async def logs_otlp(self, tenant: str, body: bytes, content_type: str) -> PartialResult:
        """An OTLP logs request, protobuf or JSON by `content_type`, decompressed."""
        now_ns = self._now_ns()

        def read() -> _Read:
            request = self._parse(body, ExportLogsServiceRequest(), content_type, "an OTLP logs request")
            return self._read_logs(tenant, otlp_logs(request, self.limits, now_ns), Counter(), now_ns)

        return await self._store_read(LOGS, "log_records", await self._aside(body, read))

    async def logs_json(self, tenant: str, body: bytes) -> PartialResult:
        """Our plain JSON form, see `normalize.logs.json_logs`; also OTLP JSON, told by `resourceLogs`."""
        now_ns = self._now_ns()
        payload = await self._aside(body, lambda: parse_json(body, max_depth=self.limits.max_json_depth))
        if isinstance(payload, Mapping) and "resourceLogs" in payload:
            return await self.logs_otlp(tenant, body, JSON_TYPE)
        rejected: Counter[str] = Counter()
        records = json_logs(payload, self.limits, now_ns, rejected)
        read = await self._aside(body, lambda: self._read_logs(tenant, records, rejected, now_ns))
        return await self._store_read(LOGS, "log_records", read)

    async def logs_loki(self, tenant: str, body: bytes, content_type: str) -> PartialResult:
        """A Loki push request, protobuf or JSON by `content_type`, decompressed. All or nothing."""
        now_ns = self._now_ns()

        def read() -> _Read:
            if content_type == JSON_TYPE:
                records = json_push_logs(parse_json(body, max_depth=self.limits.max_json_depth), self.limits)
            else:
                records = protobuf_logs(parse_push(body), self.limits)
            return self._read_logs(tenant, records, Counter(), now_ns)

        return await self._store_read(LOGS, "log_records", await self._aside(body, read))

    async def traces_otlp(self, tenant: str, body: bytes, content_type: str) -> PartialResult:
        """An OTLP trace request, protobuf or JSON by `content_type`, decompressed."""
        now_ns = self._now_ns()

        def read() -> _Read:
            request = self._parse(body, ExportTraceServiceRequest(), content_type, "an OTLP trace request")
            rejected: Counter[str] = Counter()
            groups = by_entity(otlp_spans(request, self.limits, rejected), self.limits.max_record_bytes)
            batches = [
                SpanBatch(tenant=tenant, entity=entity, received_ns=now_ns, spans=spans) for entity, spans in groups
            ]
            keyed = [(record_key(tenant, batch.entity), batch) for batch in batches]
            return _Read(_records(keyed, now_ns), sum(len(batch.spans) for batch in batches), rejected)

        return await self._store_read(SPANS, "spans", await self._aside(body, read))

    async def alerts_alertmanager(self, tenant: str, payload: bytes) -> PartialResult:
        """An Alertmanager v4 or Grafana webhook, or plain `{"alerts": [...]}`."""
        return await self._store_alerts(
            tenant, payload, lambda value, now_ns: alert_forms.alertmanager_alerts(value, self.limits)
        )

    async def alerts_prometheus(self, tenant: str, payload: bytes) -> PartialResult:
        """What Prometheus posts to an Alertmanager (API v2)."""
        return await self._store_alerts(
            tenant, payload, lambda value, now_ns: alert_forms.prometheus_alerts(value, self.limits, now_ns)
        )

    async def changes(self, tenant: str, payload: bytes, headers: Mapping[str, str]) -> PartialResult:
        """Changes as plain JSON, CloudEvents or CDEvents; `headers` are lower-case."""
        now_ns = self._now_ns()
        try:
            value = parse_json(payload, max_depth=self.limits.max_json_depth)
            changes = parse_changes(value, headers, tenant=tenant, limits=self.limits, now_ns=now_ns)
        except ContractError as error:
            await self._bury(CHANGES, payload, str(error), now_ns, headers)
            raise
        await self._append(CHANGES, [(record_key(tenant, change.entity), change) for change in changes], now_ns)
        return self._result("changes", len(changes), Counter())

    def _now_ns(self) -> int:
        now_ns = self._clock.now_ns()
        self._registry.tick(now_ns // NS_PER_S)
        return now_ns

    async def _store_metrics(self, decoded: Decoded, now_ns: int) -> PartialResult:
        """Descriptors first, so that no sample is ever of a series that nobody can name."""
        columns, admission = decoded.columns, decoded.admission
        new = admission.new
        if new:
            keyed = [
                (series_key(admission.tenant, series_id, self._shards), descriptor)
                for series_id, descriptor in new.items()
            ]
            await self._append(SERIES, keyed, now_ns)
        if len(columns):
            batches = metric_batches(
                columns,
                new,
                tenant=admission.tenant,
                received_ns=now_ns,
                shards=self._shards,
                max_bytes=self.limits.max_record_bytes,
            )
            await self._append(
                METRICS, [(record_key(admission.tenant, batch.shard), batch) for batch in batches], now_ns
            )
        admission.commit()
        self.counters["headspring_ingestion_new_series_total"] += len(new)
        return self._result("samples", len(columns), columns.rejected)

    def _read_logs(
        self, tenant: str, records: Iterable[tuple[str, LogRecord]], rejected: Counter[str], now_ns: int
    ) -> _Read:
        batches = [
            LogBatch(tenant=tenant, entity=entity, received_ns=now_ns, records=group)
            for entity, group in by_entity(records, self.limits.max_record_bytes)
        ]
        keyed = [(record_key(tenant, batch.entity), batch) for batch in batches]
        return _Read(_records(keyed, now_ns), sum(len(batch.records) for batch in batches), rejected)

    async def _store_read(self, topic: Topic, noun: str, read: _Read) -> PartialResult:
        if read.records:
            await self._log.append(topic.name, read.records)
        return self._result(noun, read.accepted, read.rejected)

    async def _plain(self, body: bytes, work: Callable[[], Decoded]) -> Decoded:
        self.counters["headspring_ingestion_plain_decodes_total"] += 1
        return await self._aside(body, work)

    async def _aside(self, body: bytes, work: Callable[[], T]) -> T:
        """Work in proportion to a body: large ones in a thread, so that other requests are still answered."""
        return await asyncio.to_thread(work) if len(body) > _ASIDE_BYTES else work()

    async def _store_alerts(self, tenant: str, payload: bytes, read: Any) -> PartialResult:
        now_ns = self._now_ns()
        try:
            received = read(parse_json(payload, max_depth=self.limits.max_json_depth), now_ns)
        except ContractError as error:
            await self._bury(ALERTS, payload, str(error), now_ns, {})
            raise
        alerts = [
            alert_forms.to_alert(one, tenant=tenant, starts_ns=self._episode(tenant, one, now_ns), now_ns=now_ns)
            for one in received
        ]
        await self._append(ALERTS, [(record_key(tenant, alert.entity), alert) for alert in alerts], now_ns)
        return self._result("alerts", len(alerts), Counter())

    def _episode(self, tenant: str, received: alert_forms.ReceivedAlert, now_ns: int) -> int:
        """Start of the firing episode. Senders that state none get the time of their first report."""
        if received.starts_ns:
            return received.starts_ns
        key = (tenant, received.fingerprint)
        started_ns, seen_ns = self._open_alerts.pop(key, (0, 0))
        if not started_ns or now_ns - seen_ns > RESOLVE_TIMEOUT_S * NS_PER_S:
            started_ns = now_ns
        if received.status is AlertStatus.FIRING:
            self._open_alerts[key] = (started_ns, now_ns)
            if len(self._open_alerts) > _MAX_OPEN_ALERTS:
                self._open_alerts.popitem(last=False)
        return started_ns

    async def _append(self, topic: Topic, keyed: Sequence[tuple[bytes, object]], now_ns: int) -> None:
        if keyed:
            await self._log.append(topic.name, _records(keyed, now_ns))

    async def _bury(self, topic: Topic, payload: bytes, reason: str, now_ns: int, headers: Mapping[str, str]) -> None:
        """Keeps what could not be read, so that an operator can see what a sender sends."""
        letter = DeadLetter(
            source_topic=topic.name,
            stage="ingestion.receive",
            reason=reason,
            time_ns=now_ns,
            payload=payload[: self.limits.max_dead_letter_bytes],
            headers={
                name: value for name, value in headers.items() if name == "content-type" or name.startswith("ce-")
            },
        )
        self.counters["headspring_ingestion_dead_letters_total"] += 1
        await self._append(DEAD_LETTER, [(record_key(topic.name), letter)], now_ns)

    def _parse(self, body: bytes, message: Any, content_type: str, what: str) -> Any:
        if content_type == JSON_TYPE:
            return parse_otlp_json(body, message, max_depth=self.limits.max_json_depth)
        try:
            message.ParseFromString(body)
        except DecodeError as error:
            raise ContractError(f"{len(body)} bytes are not {what}: {error}") from error
        return message

    def _result(self, noun: str, accepted: int, rejected: Counter[str]) -> PartialResult:
        lost = sum(rejected.values())
        self.counters[f"headspring_ingestion_{noun}_total"] += accepted
        self.counters[f"headspring_ingestion_{noun}_rejected_total"] += lost
        message = "; ".join(f"{count}: {reason}" for reason, count in rejected.most_common(3))
        return PartialResult(accepted=accepted, rejected=lost, message=message)


class _Read(NamedTuple):
    """A request's records, ready to append."""

    records: list[Record]
    accepted: int
    rejected: Counter[str]


def _records(keyed: Sequence[tuple[bytes, object]], now_ns: int) -> list[Record]:
    return [Record(key=key, value=codec.encode(message), time_ns=now_ns) for key, message in keyed]
