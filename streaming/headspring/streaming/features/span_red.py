"""Rate, errors and duration of services and of calls between them, from spans, as ordinary metric series.

Spans fall into buckets of two seconds by the time they ended. A bucket is closed when spans of that time
should have arrived: how long each service's exporter holds spans back is learned from their arrival. A span
that comes later still counts, in the oldest bucket that is open. A service that falls silent keeps
reporting a request rate of 0 for ten minutes, so that silence can be seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import ContractError
from headspring.proto.ids import digest, entity_name
from headspring.proto.semantics import (
    DERIVED_METRICS,
    EDGE_ERROR_RATIO,
    EDGE_LATENCY_MEAN,
    EDGE_REQUEST_RATE,
    LABEL_CALLEE,
    LABEL_CALLER,
    LABEL_SERVICE,
    SERVICE_ERROR_RATIO,
    SERVICE_LATENCY_MEAN,
    SERVICE_LATENCY_P95,
    SERVICE_REQUEST_RATE,
    SERVICE_SELF_TIME_MEAN,
)
from headspring.proto.telemetry import (
    METRIC_KIND_CODE,
    MetricBatch,
    MetricKind,
    SeriesDescriptor,
    Span,
    SpanBatch,
    SpanKind,
    SpanStatus,
)
from headspring.proto.topics import METRICS, SERIES, SPANS, record_key, series_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.features.span_join import SpanJoin
from headspring.streaming.features.span_tally import LEAST_DELAY_NS, SILENT_NS, Row, Service, Tally, tallies, topmost
from headspring.streaming.log.port import StoredRecord

BUCKET_NS = 2 * NS_PER_S
_MOST_DELAY_NS = 10 * NS_PER_S
"""Longest wait for spans; OpenTelemetry's batch processor exports every 5 s unless told otherwise."""
_DELAY_FADE = 0.98
"""Per batch of a service: a delay that does not come again is forgotten in about a hundred batches."""
_BACKLOG_NS = 15 * NS_PER_S
"""Records older than this when processed are a backlog: time is then theirs, not the clock's."""
_SETTLED_NS = 2 * NS_PER_S
"""So long after the last backlog record the clock counts again."""
_MOST_EMPTY_BUCKETS = 30
"""More empty buckets in a row than this (a minute) are a gap of ours, not silence of a service: they are skipped."""
_CLOSE_EVERY_NS = NS_PER_S // 4
_MAX_EDGES = 2_000
"""Callees of one bucket; names come from senders, so they need a bound."""
_MAX_SERVICES = 5_000
_MAX_SERIES = 100_000
"""Derived series of one tenant since the start, for the same reason."""
_GAUGE = METRIC_KIND_CODE[MetricKind.GAUGE]


@dataclass(slots=True)
class _Tenant:
    services: dict[str, Service] = field(default_factory=dict)
    join: SpanJoin = field(default_factory=SpanJoin)
    published: set[int] = field(default_factory=set)
    """Series whose descriptor went out since the start."""
    closed_ns: int = 0
    """When buckets were last looked at."""


@dataclass(slots=True)
class _Samples:
    """One tenant's samples under way."""

    ids: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    new: list[SeriesDescriptor] = field(default_factory=list)


class SpanMetricsStage:
    """`Stage` "streaming.span-metrics"."""

    name = "streaming.span-metrics"
    inputs = (SPANS.name,)
    tick_s = 0.5

    def __init__(self, *, clock: Clock, snapshot_every_s: float = 5.0) -> None:
        """
        Args:
            clock: Stamps, and the arrival time of batches that carry none.
            snapshot_every_s: Seconds between commits. A restart replays what came since; spans that were only
                remembered for a join are not part of the snapshot, so that one self-time or callee may be missed.
        """
        self._clock = clock
        self.snapshot_every_s = snapshot_every_s
        self._tenants: dict[str, _Tenant] = {}
        self._backlog_until_ns = 0

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """Takes span batches; closes buckets that are due by the batches' own arrival times.

        Raises:
            ContractError: a record is no span batch.
        """
        out: list[Outgoing] = []
        now_ns = self._clock.now_ns()
        batches = [codec.decode(SpanBatch, item.record.value) for item in records]
        for batch, item in zip(batches, records, strict=True):
            arrived_ns = batch.received_ns or item.record.time_ns or now_ns
            if now_ns - arrived_ns > _BACKLOG_NS:
                self._backlog_until_ns = now_ns + _SETTLED_NS
            tenant = self._tenants.setdefault(batch.tenant, _Tenant())
            if arrived_ns - tenant.closed_ns >= _CLOSE_EVERY_NS:
                out += self._close(batch.tenant, tenant, arrived_ns)
            self._take(tenant, batch.entity, batch.spans, arrived_ns)
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        if now_ns < self._backlog_until_ns:
            return []
        return [item for name, tenant in self._tenants.items() for item in self._close(name, tenant, now_ns)]

    def snapshot(self) -> bytes:
        return json.dumps(
            {
                name: {entity: asdict(service) for entity, service in tenant.services.items()}
                for name, tenant in self._tenants.items()
            }
        ).encode()

    def restore(self, state: bytes) -> None:
        """
        Raises:
            ContractError: `state` is no snapshot of this stage.
        """
        self._tenants = {}
        # What came while we were away is read first.
        self._backlog_until_ns = self._clock.now_ns() + _SETTLED_NS
        if not state:
            return
        try:
            for name, services in json.loads(state).items():
                tenant = self._tenants[name] = _Tenant()
                for entity, fields in services.items():
                    requests, inner, calls = (tallies(fields.pop(kind)) for kind in ("requests", "inner", "calls"))
                    tenant.services[entity] = Service(**fields, requests=requests, inner=inner, calls=calls)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(f"{len(state)} bytes are no span metrics snapshot: {error!r}") from error

    # Inside

    def _take(self, tenant: _Tenant, entity: str, spans: Iterable[Span], arrived_ns: int) -> None:
        held_ns = 0
        newest = arrived_ns // BUCKET_NS
        service = tenant.services.get(entity)
        for span in spans:
            end_ns = span.start_ns + max(span.duration_ns, 0)
            held_ns = max(held_ns, arrived_ns - end_ns)
            tenant.join.remember(entity, span, arrived_ns)
            # A clock that runs ahead must not open buckets that close long after now.
            bucket = min(end_ns // BUCKET_NS, newest)
            if service is None:
                if len(tenant.services) >= _MAX_SERVICES:
                    return
                oldest = max(bucket, (arrived_ns - _MOST_DELAY_NS) // BUCKET_NS)
                service = tenant.services[entity] = Service(next_bucket=oldest, next_call_bucket=oldest)
            row = Row(
                trace_id=span.trace_id,
                span_id=span.span_id,
                start_ns=span.start_ns,
                end_ns=end_ns,
                error=span.status is SpanStatus.ERROR,
                peer=span.peer,
                parent_id=span.parent_span_id,
            )
            service.last_span_ns = max(service.last_span_ns, arrived_ns)
            if span.kind in (SpanKind.CLIENT, SpanKind.PRODUCER):
                into, first = service.calls, service.next_call_bucket
                into.setdefault(max(bucket, first), Tally()).add(row)
            if span.kind in (SpanKind.SERVER, SpanKind.CONSUMER):
                service.last_server_ns = arrived_ns
                service.requests.setdefault(max(bucket, service.next_bucket), Tally()).add(row)
            elif not span.parent_span_id or (
                span.kind in (SpanKind.INTERNAL, SpanKind.UNSPECIFIED) and not service.serves(arrived_ns)
            ):
                service.inner.setdefault(max(bucket, service.next_bucket), Tally()).add(row)
        if service is not None:
            held_ns = min(max(held_ns, LEAST_DELAY_NS), _MOST_DELAY_NS)
            service.delay_ns = max(held_ns, service.delay_ns * _DELAY_FADE)

    def _close(self, name: str, tenant: _Tenant, now_ns: int) -> list[Outgoing]:
        samples = _Samples()
        tenant.closed_ns = now_ns
        longest_ns = max((service.delay_ns for service in tenant.services.values()), default=0.0)
        for entity, service in list(tenant.services.items()):
            if now_ns - service.last_span_ns > SILENT_NS:
                del tenant.services[entity]
                continue
            due = int((now_ns - service.delay_ns) // BUCKET_NS)
            filled = (*service.requests, *service.inner)
            service.next_bucket = max(service.next_bucket, min((due - _MOST_EMPTY_BUCKETS, *filled)))
            while service.next_bucket < due:
                bucket = service.next_bucket
                service.next_bucket += 1
                requests, inner = service.requests.pop(bucket, None), service.inner.pop(bucket, None)
                tally = requests if service.serves(now_ns) else topmost(tenant.join, entity, inner)
                self._service_samples(name, tenant, samples, entity, bucket, tally)
            # The callee's own spans tell who was called, so calls wait for the slowest exporter.
            due = int((now_ns - longest_ns) // BUCKET_NS)
            service.next_call_bucket = max(service.next_call_bucket, min((due, *service.calls)))
            while service.next_call_bucket < due:
                calls = service.calls.pop(service.next_call_bucket, None)
                if calls is not None:
                    self._edge_samples(name, tenant, samples, entity, service.next_call_bucket, calls)
                service.next_call_bucket += 1
        return self._publish(name, samples)

    def _service_samples(
        self, name: str, tenant: _Tenant, samples: _Samples, entity: str, bucket: int, tally: Tally | None
    ) -> None:
        labels = {LABEL_SERVICE: entity_name(entity)}
        values = {SERVICE_REQUEST_RATE: (tally.count if tally else 0) * NS_PER_S / BUCKET_NS}
        if tally is not None:
            took = np.array([row.end_ns - row.start_ns for row in tally.rows], dtype=np.float64) / NS_PER_S
            own = [
                tenant.join.self_time_ns(entity, row.trace_id, row.span_id, row.start_ns, row.end_ns)
                for row in tally.rows
            ]
            values[SERVICE_LATENCY_MEAN] = float(took.mean())
            values[SERVICE_LATENCY_P95] = float(np.percentile(took, 95))
            values[SERVICE_SELF_TIME_MEAN] = float(np.mean(own)) / NS_PER_S
            values[SERVICE_ERROR_RATIO] = tally.errors / tally.count
        self._add(name, tenant, samples, entity, labels, bucket, values)

    def _edge_samples(
        self, name: str, tenant: _Tenant, samples: _Samples, entity: str, bucket: int, calls: Tally
    ) -> None:
        by_callee: dict[str, Tally] = {}
        for row in calls.rows:
            callee = tenant.join.callee(row.trace_id, row.span_id, row.peer)
            if callee and callee != entity and (callee in by_callee or len(by_callee) < _MAX_EDGES):
                by_callee.setdefault(callee, Tally()).add(row)
        for callee, tally in by_callee.items():
            took = sum(row.end_ns - row.start_ns for row in tally.rows) / tally.count
            values = {
                EDGE_LATENCY_MEAN: took / NS_PER_S,
                EDGE_ERROR_RATIO: tally.errors / tally.count,
                EDGE_REQUEST_RATE: tally.count * NS_PER_S / BUCKET_NS,
            }
            labels = {LABEL_CALLER: entity_name(entity), LABEL_CALLEE: entity_name(callee)}
            self._add(name, tenant, samples, entity, labels, bucket, values)

    def _add(
        self,
        name: str,
        tenant: _Tenant,
        samples: _Samples,
        entity: str,
        labels: dict[str, str],
        bucket: int,
        values: dict[str, float],
    ) -> None:
        for metric, value in values.items():
            series_id = derived_series_id(name, metric, entity, labels)
            if series_id not in tenant.published:
                if len(tenant.published) >= _MAX_SERIES:
                    continue
                tenant.published.add(series_id)
                samples.new.append(
                    SeriesDescriptor(
                        series_id=series_id,
                        tenant=name,
                        name=metric,
                        unit=DERIVED_METRICS[metric],
                        kind=MetricKind.GAUGE,
                        entity=entity,
                        labels=labels,
                    )
                )
            samples.ids.append(series_id)
            samples.times.append((bucket + 1) * BUCKET_NS)
            samples.values.append(value)

    def _publish(self, name: str, samples: _Samples) -> list[Outgoing]:
        if not samples.ids:
            return []
        now_ns = self._clock.now_ns()
        batch = MetricBatch(
            tenant=name,
            received_ns=now_ns,
            series_id=np.array(samples.ids, dtype=np.uint64),
            time_ns=np.array(samples.times, dtype=np.int64),
            value=np.array(samples.values, dtype=np.float64),
            kind=np.full(len(samples.ids), _GAUGE, dtype=np.uint8),
            new_series=tuple(samples.new),
        )
        series = [
            Outgoing(topic=SERIES.name, key=series_key(name, item.series_id), value=codec.encode(item), time_ns=now_ns)
            for item in samples.new
        ]
        # Descriptors first: who reads a sample can look its series up.
        return [
            *series,
            Outgoing(topic=METRICS.name, key=record_key(name, 0), value=codec.encode(batch), time_ns=now_ns),
        ]


def derived_series_id(tenant: str, metric: str, entity: str, labels: dict[str, str]) -> int:
    """The same id for the same series after every restart; 64 bits."""
    parts = [part for name in sorted(labels) for part in (name, labels[name])]
    return int(digest("derived", tenant, metric, entity, *parts, size_bytes=8), 16)
