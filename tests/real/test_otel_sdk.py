"""OpenTelemetry's own SDK exports metrics, logs and traces, over gRPC and over HTTP; queries return them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from tests.servers.headspring import Headspring, eventually

pytestmark = pytest.mark.real


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """One service's three pipelines, each pushed out on demand."""

    service: str
    meters: MeterProvider
    tracers: TracerProvider
    loggers: LoggerProvider


@pytest.fixture(params=["grpc", "http"])
def sdk(request: pytest.FixtureRequest, platform: Headspring) -> Iterator[Sdk]:
    service = f"{request.param}-{secrets.token_hex(3)}"
    resource = Resource.create({"service.name": service, "service.instance.id": f"{service}-0"})
    headers = {"authorization": f"Bearer {platform.api_key}"}
    exporters: tuple[Any, Any, Any]
    if request.param == "grpc":
        options: dict[str, Any] = {"endpoint": platform.grpc_target, "insecure": True, "headers": headers}
        exporters = GrpcMetrics(**options), GrpcSpans(**options), GrpcLogs(**options)
    else:
        base = platform.otlp_url
        exporters = (
            HttpMetrics(endpoint=f"{base}/v1/metrics", headers=headers),
            HttpSpans(endpoint=f"{base}/v1/traces", headers=headers),
            HttpLogs(endpoint=f"{base}/v1/logs", headers=headers),
        )
    metrics, spans, logs = exporters
    meters = MeterProvider([PeriodicExportingMetricReader(metrics, export_interval_millis=60_000)], resource=resource)
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(spans))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
    yield Sdk(service=service, meters=meters, tracers=tracers, loggers=loggers)
    meters.shutdown()
    tracers.shutdown()
    loggers.shutdown()


def test_metrics_arrive_with_values_and_attributes(platform: Headspring, sdk: Sdk) -> None:
    meter = sdk.meters.get_meter("test")
    meter.create_gauge("queue.depth").set(42.5, {"queue": "orders"})
    counter = meter.create_counter("orders.placed")
    counter.add(3, {"kind": "web"})
    counter.add(4, {"kind": "web"})
    assert sdk.meters.force_flush()
    selector = f'{{service_name="{sdk.service}"}}'
    depth = eventually(lambda: platform.series(f"queue_depth{selector}"), bool)
    assert [(item["labels"]["queue"], item["value"]) for item in depth] == [("orders", 42.5)]
    placed = eventually(lambda: platform.series(f"orders_placed{selector}"), bool)
    assert [(item["labels"]["kind"], item["value"]) for item in placed] == [("web", 7.0)]


def test_logs_arrive_with_severity_and_trace(platform: Headspring, sdk: Sdk) -> None:
    logger = logging.getLogger(f"test.{sdk.service}")
    logger.setLevel(logging.INFO)
    handler = LoggingHandler(logger_provider=sdk.loggers)
    logger.addHandler(handler)
    word = "w" + secrets.token_hex(6)
    with sdk.tracers.get_tracer("test").start_as_current_span("work") as span:
        logger.error("order %s was lost", word)
        trace_id = f"{span.get_span_context().trace_id:032x}"
    logger.removeHandler(handler)
    assert sdk.loggers.force_flush()
    found = eventually(lambda: platform.logs(word), bool)
    assert len(found) == 1
    assert word in found[0]["body"]
    assert found[0]["entity"] == f"service:default/{sdk.service}"
    assert found[0]["trace_id"] == trace_id


def test_spans_become_a_call_in_the_topology_and_rates(platform: Headspring, sdk: Sdk) -> None:
    tracer = sdk.tracers.get_tracer("test")
    for _ in range(20):
        with tracer.start_as_current_span("GET /x", kind=SpanKind.SERVER) as server:
            server.set_status(Status(StatusCode.ERROR))
            with tracer.start_as_current_span("call", kind=SpanKind.CLIENT, attributes={"peer.service": "ledger"}):
                pass
    assert sdk.tracers.force_flush()
    me = f"service:default/{sdk.service}"
    edges = eventually(platform.edges, lambda found: (me, "service:default/ledger") in found, seconds=90)
    assert (me, "service:default/ledger") in edges
    ratio = eventually(lambda: platform.series(f'service_error_ratio{{service="{sdk.service}"}}'), bool, seconds=30)
    assert ratio[0]["value"] == pytest.approx(1.0)
