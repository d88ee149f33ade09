"""The OpenTelemetry SDK's own exporters, over real sockets, against our receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from headspring.ingestion.receive import otlp_grpc
from headspring.ingestion.receive.http import intake_app
from headspring.ingestion.testing import MemoryLog
from headspring.proto.clock import SystemClock
from headspring.proto.telemetry import MetricBatch, SpanBatch, SpanKind

pytestmark = pytest.mark.real

otlp_http = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[MemoryLog, str, str]]:
    from headspring.ingestion.admit.limits import Limits
    from headspring.ingestion.admit.registry import SeriesRegistry
    from headspring.ingestion.pipeline import Intake
    from headspring.ingestion.testing import KEY

    log, limits = MemoryLog(), Limits()
    intake = Intake(log, clock=SystemClock(), limits=limits, registry=SeriesRegistry(key=KEY, limits=limits))
    intake.warm()
    app: Any = intake_app(intake, authenticate=lambda headers: "default")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 — uvicorn offers nothing to wait for
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    grpc_server = await otlp_grpc.start(intake, address="127.0.0.1:0", authenticate=lambda headers: "default")
    try:
        yield log, f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_server.port}"
    finally:
        await grpc_server.stop(0)
        server.should_exit = True
        await task


def report_metrics(exporter: Any) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=1e6)
    provider = MeterProvider(metric_readers=[reader], resource=Resource({"service.name": "cart"}))
    meter = provider.get_meter("shop")
    meter.create_counter("orders").add(3, {"region": "eu"})
    meter.create_histogram("http.server.request.duration", unit="s").record(0.25, {"http.route": "/cart"})
    assert provider.force_flush()
    provider.shutdown()


def report_spans(exporter: Any) -> None:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.trace import SpanKind as Kind

    provider = TracerProvider(resource=Resource({"service.name": "cart"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    with (
        tracer.start_as_current_span("GET /cart", kind=Kind.SERVER),
        tracer.start_as_current_span(
            "SELECT", kind=Kind.CLIENT, attributes={"db.system": "mysql", "server.address": "db"}
        ),
    ):
        pass
    provider.shutdown()


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_the_sdks_metrics_and_spans_arrive_over_http(compression: str) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    async with serving() as (log, url, _):
        chosen = Compression(compression)
        metrics = otlp_http.OTLPMetricExporter(endpoint=f"{url}/v1/metrics", compression=chosen)
        await asyncio.to_thread(report_metrics, metrics)
        await asyncio.to_thread(report_spans, OTLPSpanExporter(endpoint=f"{url}/v1/traces", compression=chosen))
        check(log)


async def test_the_sdks_metrics_and_spans_arrive_over_grpc() -> None:
    metric_module = pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.metric_exporter")
    trace_module = pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    async with serving() as (log, _, address):
        await asyncio.to_thread(report_metrics, metric_module.OTLPMetricExporter(endpoint=address, insecure=True))
        await asyncio.to_thread(report_spans, trace_module.OTLPSpanExporter(endpoint=address, insecure=True))
        check(log)


def check(log: MemoryLog) -> None:
    series = {
        one.name: (one.entity, value)
        for batch in log.messages(MetricBatch, "telemetry.metrics")
        for one, value in zip(batch.new_series, batch.value.tolist(), strict=False)
    }
    assert series == {
        "orders": ("service:default/cart", 3.0),
        "http.server.request.duration_count": ("service:default/cart", 1.0),
        "http.server.request.duration_sum": ("service:default/cart", 0.25),
    }
    spans = [span for batch in log.messages(SpanBatch, "telemetry.spans") for span in batch.spans]
    client, server = spans
    assert (server.kind, client.kind, client.peer) == (SpanKind.SERVER, SpanKind.CLIENT, "database:default/db")
    assert client.parent_span_id == server.span_id
