"""Every receiver through the ASGI application, up to the records on the topics."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from typing import Any

import cramjam
import httpx2
import numpy as np
import pytest
from google.rpc import status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.receive.http import PATHS, intake_app
from headspring.ingestion.testing import NOW_NS, MemoryLog, attributes, gauge_request, make_intake
from headspring.ingestion.wire.lokipb import PushRequest
from headspring.ingestion.wire.prompb import WriteRequest
from headspring.proto.action import DeadLetter
from headspring.proto.detection import Alert, AlertStatus, Severity
from headspring.proto.errors import Forbidden, Unauthenticated
from headspring.proto.telemetry import (
    METRIC_KIND_CODE,
    Change,
    ChangeKind,
    LogBatch,
    MetricBatch,
    MetricKind,
    SeriesDescriptor,
    SpanBatch,
    SpanKind,
    SpanStatus,
)
from headspring.proto.topics import SHARD_SHIFT

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}


def authenticate(headers: Mapping[str, str]) -> str:
    if headers.get("authorization") == "Bearer reader":
        raise Forbidden("this key may only read")
    if headers.get("authorization") == "Bearer wrong":
        raise Unauthenticated("unknown key")
    return headers.get("x-tenant", "default")


class Served:
    def __init__(self, **options: Any) -> None:
        self.intake, self.log, self.clock = make_intake(**options)
        app: Any = intake_app(self.intake, authenticate=authenticate)
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://headspring")

    async def post(self, path: str, content: bytes, headers: Mapping[str, str] = JSON) -> httpx2.Response:
        return await self.client.post(path, content=content, headers=dict(headers))


@pytest.fixture(params=[True, False], ids=["scanner", "reference"])
def served(request: pytest.FixtureRequest) -> Served:
    return Served(scan=request.param)


def batches(log: MemoryLog) -> list[MetricBatch]:
    return log.messages(MetricBatch, "telemetry.metrics")


async def test_otlp_metrics_become_a_batch_with_descriptors_published_first(served: Served) -> None:
    reply = await served.post("/v1/metrics", gauge_request([1.5, 2.5]).SerializeToString(), PROTOBUF)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-protobuf"
    assert reply.content == b"", "full success leaves partial_success unset"
    assert served.log.order == ["telemetry.series", "telemetry.metrics"]
    (batch,) = batches(served.log)
    assert batch.value.tolist() == [1.5, 2.5]
    assert batch.time_ns.tolist() == [NOW_NS, NOW_NS]
    assert batch.kind.tolist() == [METRIC_KIND_CODE[MetricKind.GAUGE]] * 2
    first = served.log.messages(SeriesDescriptor, "telemetry.series")[0]
    assert (first.name, first.unit, first.entity) == ("queue.depth", "{message}", "service:default/payment")
    assert first.labels["worker"] == "0"
    assert first.labels["service"] == "payment"
    assert first.series_id in batch.series_id


async def test_known_series_are_published_once(served: Served) -> None:
    body = gauge_request([1.0]).SerializeToString()
    await served.post("/v1/metrics", body, PROTOBUF)
    await served.post("/v1/metrics", body, PROTOBUF)
    assert len(served.log.records["telemetry.series"]) == 1
    assert [len(batch.new_series) for batch in batches(served.log)] == [1, 0]


async def test_json_and_gzip_give_the_same_series_as_protobuf(served: Served) -> None:
    await served.post("/v1/metrics", gauge_request([3.0]).SerializeToString(), PROTOBUF)
    body = {
        "resourceMetrics": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "payment"}},
                {"key": "service.instance.id", "value": {"stringValue": "i-1"}},
            ]},
            "scopeMetrics": [{"scope": {"name": "meter"}, "metrics": [{
                "name": "queue.depth", "unit": "{message}", "futureField": 1,
                "gauge": {"dataPoints": [{
                    "timeUnixNano": str(NOW_NS), "asDouble": 3.0,
                    "attributes": [{"key": "zone", "value": {"stringValue": "a"}},
                                   {"key": "worker", "value": {"intValue": "0"}}],
                }]},
            }]}],
        }]
    }  # fmt: skip
    reply = await served.post(
        "/v1/metrics", gzip.compress(json.dumps(body).encode()), {**JSON, "content-encoding": "gzip"}
    )
    assert (reply.status_code, reply.headers["content-type"], reply.json()) == (200, "application/json", {})
    first, second = batches(served.log)
    assert first.series_id.tolist() == second.series_id.tolist()


async def test_bad_points_are_a_partial_success_and_good_ones_are_kept(served: Served) -> None:
    request = gauge_request([1.0, float("inf"), 2.0])
    request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[2].time_unix_nano = 5
    reply = await served.post("/v1/metrics", request.SerializeToString(), PROTOBUF)
    response = ExportMetricsServiceResponse.FromString(reply.content)
    assert response.partial_success.rejected_data_points == 2
    assert "too old" in response.partial_success.error_message
    assert batches(served.log)[0].value.tolist() == [1.0]


async def test_no_recorded_value_is_an_explicit_gap(served: Served) -> None:
    request = gauge_request([1.0])
    point = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
    point.ClearField("as_double")
    point.flags = 1
    await served.post("/v1/metrics", request.SerializeToString(), PROTOBUF)
    assert np.isnan(batches(served.log)[0].value).tolist() == [True]


async def test_histograms_become_count_and_sum_counters(served: Served) -> None:
    request = gauge_request([])
    metric = request.resource_metrics[0].scope_metrics[0].metrics.add(name="http.duration", unit="s")
    metric.histogram.aggregation_temporality = 2
    metric.histogram.data_points.add(time_unix_nano=NOW_NS, count=4, sum=1.5, bucket_counts=[1, 3], explicit_bounds=[1])
    await served.post("/v1/metrics", request.SerializeToString(), PROTOBUF)
    (batch,) = batches(served.log)
    assert [one.name for one in batch.new_series] == ["http.duration_count", "http.duration_sum"]
    assert batch.value.tolist() == [4.0, 1.5]
    assert set(batch.kind.tolist()) == {METRIC_KIND_CODE[MetricKind.COUNTER]}


async def test_series_over_the_tenants_limit_are_refused_and_other_tenants_are_not() -> None:
    served = Served(limits=Limits(max_series=2))
    body = gauge_request([1.0, 2.0, 3.0]).SerializeToString()
    for tenant in ("a", "b"):
        reply = await served.post("/v1/metrics", body, {**PROTOBUF, "x-tenant": tenant})
        response = ExportMetricsServiceResponse.FromString(reply.content)
        assert response.partial_success.rejected_data_points == 1
    assert [batch.value.tolist() for batch in batches(served.log)] == [[1.0, 2.0], [1.0, 2.0]]


def remote_write(*series: tuple[dict[str, str], list[tuple[float, int]]]) -> bytes:
    request = WriteRequest()
    for labels, samples in series:
        one = request.timeseries.add()
        for name, value in sorted(labels.items()):
            one.labels.add(name=name, value=value)
        for sample, time_ms in samples:
            one.samples.add(value=sample, timestamp=time_ms)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


WRITE = {"content-type": "application/x-protobuf", "content-encoding": "snappy"}
NOW_MS = NOW_NS // 1_000_000


async def test_remote_write_samples_become_columns_with_kinds_by_name(served: Served) -> None:
    body = remote_write(
        ({"__name__": "http_requests_total", "job": "shop/cart", "instance": "c:80"}, [(5.0, NOW_MS), (6.0, NOW_MS)]),
        ({"__name__": "up", "job": "cart"}, [(1.0, NOW_MS)]),
    )
    for path in ("/api/v1/write", "/api/v1/metrics/write"):
        assert (await served.post(path, body, WRITE)).status_code == 204
    first = batches(served.log)[0]
    assert first.value.tolist() == [5.0, 6.0, 1.0]
    assert first.kind.tolist() == [2, 2, 1]
    assert [one.entity for one in first.new_series] == ["service:shop/cart", "service:default/cart"]
    assert first.new_series[0].labels["instance"] == "c:80"


async def test_a_too_old_remote_write_sample_answers_400_and_keeps_the_others(served: Served) -> None:
    body = remote_write(({"__name__": "up", "job": "cart"}, [(1.0, 1000), (1.0, NOW_MS)]))
    reply = await served.post("/api/v1/write", body, WRITE)
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/problem+json"
    assert len(batches(served.log)[0]) == 1


async def test_the_stale_marker_is_a_gap(served: Served) -> None:
    stale = float(np.array([0x7FF0000000000002], dtype=np.uint64).view(np.float64)[0])
    await served.post("/api/v1/write", remote_write(({"__name__": "up", "job": "x"}, [(stale, NOW_MS)])), WRITE)
    assert np.isnan(batches(served.log)[0].value[0])


async def test_plain_json_metrics_are_stored(served: Served) -> None:
    payload: dict[str, list[dict[str, Any]]] = {
        "metrics": [
            {"name": "orders_total", "labels": {"service": "shop"}, "value": 3},
            {"name": "depth", "labels": {}, "value": 1.5, "timestamp_ms": NOW_MS, "kind": "gauge"},
            {"name": "bad", "value": "x"},
        ]
    }
    reply = await served.post("/api/v1/metrics/write", json.dumps(payload).encode())
    assert reply.status_code == 202
    assert (reply.json()["accepted"], reply.json()["rejected"]) == (2, 1)
    assert batches(served.log)[0].new_series[0].kind is MetricKind.COUNTER


async def test_otlp_logs_are_grouped_by_entity(served: Served) -> None:
    request = ExportLogsServiceRequest()
    for service in ("cart", "payment"):
        resource_logs = request.resource_logs.add()
        attributes(resource_logs.resource.attributes, service__name=service, service__namespace="shop")
        record = resource_logs.scope_logs.add().log_records.add(
            time_unix_nano=NOW_NS, severity_number=17, severity_text="ERROR", trace_id=b"\x01" * 16, span_id=b"\x02" * 8
        )
        record.body.string_value = f"{service} failed"
        attributes(record.attributes, code=500, ratio=0.5, ok=False)
    reply = await served.post("/v1/logs", request.SerializeToString(), PROTOBUF)
    assert reply.status_code == 200
    cart, payment = served.log.messages(LogBatch, "telemetry.logs")
    assert (cart.entity, payment.entity) == ("service:shop/cart", "service:shop/payment")
    stored = cart.records[0]
    assert (stored.body, stored.severity_number, stored.trace_id) == ("cart failed", 17, "01" * 16)
    assert stored.attributes == {"code": "500", "ratio": "0.5", "ok": "false"}


async def test_plain_json_logs_are_stored(served: Served) -> None:
    payload = {"logs": [{"service": "cart", "message": "boom", "level": "error", "timestamp_ms": NOW_MS}, {"x": 1}]}
    reply = await served.post("/api/v1/logs/write", json.dumps(payload).encode())
    assert (reply.status_code, reply.json()["accepted"], reply.json()["rejected"]) == (202, 1, 1)
    (batch,) = served.log.messages(LogBatch, "telemetry.logs")
    assert (batch.entity, batch.records[0].severity_number) == ("service:default/cart", 17)
    assert batch.records[0].time_ns == NOW_MS * 1_000_000


async def test_spans_keep_parents_status_and_named_peers(served: Served) -> None:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    attributes(resource_spans.resource.attributes, service__name="cart", service__version="1.2")
    spans = resource_spans.scope_spans.add().spans
    trace = b"\x01" * 16
    root: Any = spans.add(trace_id=trace, span_id=b"\x02" * 8, name="GET /", kind=2, start_time_unix_nano=NOW_NS,
                     end_time_unix_nano=NOW_NS + 7)  # fmt: skip
    root.status.code = 2
    clients_named: list[dict[str, Any]] = [
        {"db__system": "postgresql", "server__address": "pg"}, {"db__system__name": "redis"},
        {"messaging__system": "kafka", "messaging__destination__name": "orders"}, {"peer__service": "payment"},
        {"server__address": "payment", "server__port": 80},
    ]  # fmt: skip
    for index, named in enumerate(clients_named):
        span = spans.add(trace_id=trace, span_id=bytes([9, index] * 4), parent_span_id=b"\x02" * 8, kind=3,
                         start_time_unix_nano=NOW_NS)  # fmt: skip
        attributes(span.attributes, **named)
    spans.add(trace_id=b"short", span_id=b"\x02" * 8, start_time_unix_nano=NOW_NS)
    reply = await served.post("/v1/traces", request.SerializeToString(), PROTOBUF)
    assert reply.status_code == 200
    assert b"valid trace id" in reply.content
    (batch,) = served.log.messages(SpanBatch, "telemetry.spans")
    first, *clients = batch.spans
    assert (first.kind, first.status, first.duration_ns, first.parent_span_id) == (
        SpanKind.SERVER, SpanStatus.ERROR, 7, "")  # fmt: skip
    assert first.attributes["service.version"] == "1.2"
    assert [span.peer for span in clients] == [
        "database:default/pg", "cache:default/redis", "queue:default/orders", "service:default/payment",
        "service:default/payment",
    ]  # fmt: skip
    assert {span.parent_span_id for span in clients} == {"02" * 8}


async def test_otlp_json_trace_ids_are_hex(served: Served) -> None:
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "x", "kind": 2,
        "startTimeUnixNano": str(NOW_NS), "endTimeUnixNano": str(NOW_NS)}]}]}]}  # fmt: skip
    reply = await served.post("/v1/traces", json.dumps(body).encode())
    assert reply.status_code == 200
    (batch,) = served.log.messages(SpanBatch, "telemetry.spans")
    assert batch.spans[0].trace_id == "5b8efff798038103d269b633813fc60c"
    assert batch.entity == "unknown:default/unknown"


def webhook(status: str = "firing", **more: Any) -> bytes:
    alert = {
        "status": status, "labels": {"alertname": "HighLatency", "service": "cart", "severity": "page"},
        "annotations": {"summary": "cart is slow"}, "startsAt": "2026-09-21T12:00:00.123Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-09-21T13:00:00Z",
        "generatorURL": "http://prom/graph", "fingerprint": "c0ffee",
    }  # fmt: skip
    return json.dumps({"version": "4", "groupKey": "{}", "status": status, "alerts": [alert], **more}).encode()


async def test_alertmanager_webhook_keeps_fingerprint_episode_and_truncation(served: Served) -> None:
    for status in ("firing", "firing", "resolved"):
        assert (await served.post("/api/v1/alerts/ingest", webhook(status, truncatedAlerts=3))).status_code == 202
    first, repeat, resolved = served.log.messages(Alert, "alerts")
    assert first.alert_id == repeat.alert_id == resolved.alert_id
    assert (first.fingerprint, first.entity, first.severity) == ("c0ffee", "service:default/cart", Severity.CRITICAL)
    assert (first.summary, first.source, first.ends_ns) == ("cart is slow", "alertmanager", 0)
    assert first.annotations["truncatedAlerts"] == "3"
    assert resolved.status is AlertStatus.RESOLVED
    assert resolved.ends_ns > first.starts_ns


async def test_prometheus_alerts_are_firing_until_ends_at_has_passed(served: Served) -> None:
    labels = {"alertname": "Down", "instance": "web-1:80"}
    body = [
        {"labels": labels, "startsAt": "2026-09-21T12:00:00Z", "endsAt": "2036-01-01T00:00:00Z"},
        {"labels": labels, "startsAt": "2026-09-21T12:00:00Z", "endsAt": "2026-09-21T12:10:00Z"},
        {"labels": {"alertname": "NoStart"}},
    ]
    for _ in range(2):
        assert (await served.post("/api/v2/alerts", json.dumps(body).encode())).status_code == 202
        served.clock.advance(60)
    alerts = served.log.messages(Alert, "alerts")
    assert [alert.status.value for alert in alerts[:2]] == ["firing", "resolved"]
    assert alerts[0].entity == "host:default/web-1"
    assert alerts[2].alert_id == alerts[5].alert_id, "a repeat without a start is the same episode"


async def test_changes_in_every_form_are_stored_with_ids_that_repeat(served: Served) -> None:
    plain = json.dumps({"service": "cart", "kind": "deploy", "version": "2", "id": "d1"}).encode()
    event = {"specversion": "1.0", "id": "e1", "source": "/ci", "type": "dev.cdevents.service.deployed.0.1.1",
             "time": "2026-09-21T12:00:00Z", "data": {"subject": {"id": "payment", "content": {
                 "environment": {"id": "prod"}, "artifactId": "pkg:oci/payment@sha256:1"}}}}  # fmt: skip
    structured = {"content-type": "application/cloudevents+json"}
    binary = {**JSON, "ce-specversion": "1.0", "ce-id": "b1", "ce-source": "/flags", "ce-type": "com.x.flag.changed",
              "ce-subject": "cart"}  # fmt: skip
    for _ in range(2):
        assert (await served.post("/api/v1/changes", plain)).status_code == 202
        assert (await served.post("/api/v1/changes", json.dumps(event).encode(), structured)).status_code == 202
        assert (await served.post("/api/v1/changes", b"{}", binary)).status_code == 202
        served.clock.advance(1)
    changes = served.log.messages(Change, "telemetry.changes")
    assert [change.kind for change in changes[:3]] == [ChangeKind.DEPLOY, ChangeKind.DEPLOY, ChangeKind.FLAG]
    assert [change.entity for change in changes[:3]] == [
        "service:default/cart", "service:default/payment", "service:default/cart"]  # fmt: skip
    assert changes[1].version == "sha256:1"
    assert [change.change_id for change in changes[:3]] == [change.change_id for change in changes[3:]]


async def test_an_unreadable_webhook_is_answered_400_and_kept_as_a_dead_letter(served: Served) -> None:
    reply = await served.post("/api/v1/alerts/ingest", b'{"alerts": [{"labels": 5}]}')
    assert reply.status_code == 400
    assert "alerts[0].labels" in reply.json()["detail"]
    (letter,) = served.log.messages(DeadLetter, "dead-letter")
    assert letter.payload == b'{"alerts": [{"labels": 5}]}'
    assert not served.log.records["alerts"]


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_a_full_log_answers_503_with_retry_after_on_every_path(served: Served, path: str) -> None:
    served.log.full = True
    body, headers = {
        "/v1/metrics": (gauge_request([1.0]).SerializeToString(), PROTOBUF),
        "/v1/logs": (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}', JSON),
        "/v1/traces": (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c",'
                       b'"spanId":"eee19b7ec3c1b174","startTimeUnixNano":"5"}]}]}]}', JSON),
        "/api/v1/write": (remote_write(({"__name__": "up"}, [(1.0, NOW_MS)])), WRITE),
        "/api/v1/metrics/write": (b'{"metrics":[{"name":"x","value":1}]}', JSON),
        "/api/v1/logs/write": (b'{"logs":[{"message":"x"}]}', JSON),
        "/api/v1/alerts/ingest": (webhook(), JSON),
        "/api/v2/alerts": (b'[{"labels":{"alertname":"x"}}]', JSON),
        "/api/v1/changes": (b'{"service":"x"}', JSON),
        "/loki/api/v1/push": (b'{"streams":[{"stream":{"app":"x"},"values":[["1790000000000000000","x"]]}]}', JSON),
    }[path]  # fmt: skip
    reply = await served.post(path, body, headers)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "3"
    served.log.full = False
    assert (await served.post(path, body, headers)).status_code in (200, 202, 204), "nothing stayed half done"


async def test_keys_are_checked_before_the_body(served: Served) -> None:
    for key, status in (("wrong", 401), ("reader", 403)):
        reply = await served.post("/v1/metrics", b"\xff", {**PROTOBUF, "authorization": f"Bearer {key}"})
        assert reply.status_code == status
        assert status_pb2.Status.FromString(reply.content).message
        reply = await served.post("/api/v1/changes", b"{", {**JSON, "authorization": f"Bearer {key}"})
        assert (reply.status_code, reply.json()["status"]) == (status, status)


async def test_an_empty_otlp_request_is_a_success(served: Served) -> None:
    for path in ("/v1/metrics", "/v1/logs", "/v1/traces"):
        assert (await served.post(path, b"", PROTOBUF)).status_code == 200
    assert not served.log.order


async def test_samples_are_spread_over_shards_and_split_by_size() -> None:
    served = Served(shards=4, limits=Limits(max_record_bytes=20_000))
    values = [float(value) for value in range(2000)]
    reply = await served.post("/v1/metrics", gauge_request(values).SerializeToString(), PROTOBUF)
    assert reply.status_code == 200
    stored = batches(served.log)
    assert sorted(value for batch in stored for value in batch.value.tolist()) == values
    assert {batch.shard for batch in stored} == {0, 1, 2, 3}
    assert all(((batch.series_id >> np.uint64(SHARD_SHIFT)) % np.uint64(4) == batch.shard).all() for batch in stored)
    assert max(len(record.value) for record in served.log.records["telemetry.metrics"]) < 20_000
    assert sum(len(batch.new_series) for batch in stored) == 2000


async def test_large_bodies_do_not_hold_up_small_ones(served: Served) -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for index in range(1, 20_000):
        spans.add(trace_id=b"\x01" * 16, span_id=index.to_bytes(8), name="x", start_time_unix_nano=NOW_NS)
    large = asyncio.create_task(served.post("/v1/traces", request.SerializeToString(), PROTOBUF))
    await asyncio.sleep(0.01)
    assert (await served.post("/v1/metrics", gauge_request([1.0]).SerializeToString(), PROTOBUF)).status_code == 200
    assert served.log.order[-1] == "telemetry.metrics", "the small one was first"
    assert (await large).status_code == 200
    assert sum(len(batch.spans) for batch in served.log.messages(SpanBatch, "telemetry.spans")) == 19_999
    assert max(len(record.value) for record in served.log.records["telemetry.spans"]) < 500_000


async def test_loki_pushes_arrive_as_json_and_as_snappy_protobuf(served: Served) -> None:
    stamp = str(NOW_NS)
    payload = {"streams": [{"stream": {"app": "cart", "level": "error"}, "values": [[stamp, "boom", {"user": "7"}]]}]}
    assert (await served.post("/loki/api/v1/push", json.dumps(payload).encode())).status_code == 204
    request = PushRequest()
    stream = request.streams.add(labels='{app="cart", level="error"}')
    entry = stream.entries.add(line="boom")
    entry.timestamp.seconds, entry.timestamp.nanos = divmod(NOW_NS, 10**9)
    entry.structured_metadata.add(name="user", value="7")
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    assert (await served.post("/loki/api/v1/push", body, PROTOBUF)).status_code == 204
    first, second = served.log.messages(LogBatch, "telemetry.logs")
    assert first == second
    assert (first.entity, first.records[0].severity_number) == ("service:default/cart", 17)
    assert first.records[0].attributes == {"app": "cart", "level": "error", "user": "7"}
    for bad in (
        b'{"streams":[{"stream":{},"values":[[1790000000000000000,"x"]]}]}',
        b"{}",
        b'{"streams":[{"values":1}]}',
    ):
        assert (await served.post("/loki/api/v1/push", bad)).status_code == 400
