"""OTLP over gRPC with a real client and server; this host's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.receive import otlp_grpc
from headspring.ingestion.receive.host import HostMetrics
from headspring.ingestion.testing import MemoryLog, gauge_request, make_intake
from headspring.proto.errors import Unauthenticated
from headspring.proto.telemetry import MetricBatch, MetricKind, SeriesDescriptor

METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


def authenticate(headers: Mapping[str, str]) -> str:
    if headers.get("authorization") == "Bearer wrong":
        raise Unauthenticated("unknown key")
    return headers.get("x-tenant", "default")


class Served:
    def __init__(self, limits: Limits) -> None:
        self.intake, self.log, _ = make_intake(limits=limits)

    async def __aenter__(self) -> Served:
        self.server = await otlp_grpc.start(self.intake, address="127.0.0.1:0", authenticate=authenticate)
        self.channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop(0)

    async def call(self, method: str, body: bytes, **options: Any) -> bytes:
        reply: bytes = await self.channel.unary_unary(method)(body, timeout=10, **options)
        return reply


async def test_metrics_and_logs_arrive_over_grpc_plain_and_gzipped() -> None:
    async with Served(Limits()) as served:
        body = gauge_request([1.0, float("inf")]).SerializeToString()
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            reply = await served.call(METRICS, body, compression=compression, metadata=(("x-tenant", "acme"),))
            assert ExportMetricsServiceResponse.FromString(reply).partial_success.rejected_data_points == 1
        logs = ExportLogsServiceRequest()
        logs.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "hello"
        await served.call(LOGS, logs.SerializeToString())
        first, _ = served.log.messages(MetricBatch, "telemetry.metrics")
        assert (first.tenant, first.value.tolist()) == ("acme", [1.0])
        assert len(served.log.records["telemetry.logs"]) == 1


async def test_an_overloaded_log_answers_unavailable_with_retry_info() -> None:
    async with Served(Limits()) as served:
        served.log.full = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.call(METRICS, gauge_request([1.0]).SerializeToString())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        trailers = dict(caught.value.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 2500


async def test_bad_large_and_foreign_calls_have_their_own_codes() -> None:
    async with Served(Limits(max_body_bytes=2000)) as served:
        cases = (
            (b"\xff\xff", (), grpc.StatusCode.INVALID_ARGUMENT),
            (b"\n" * 3000, (), grpc.StatusCode.RESOURCE_EXHAUSTED),
            (b"", (("authorization", "Bearer wrong"),), grpc.StatusCode.UNAUTHENTICATED),
        )
        for body, metadata, code in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.call(METRICS, body, metadata=metadata)
            assert caught.value.code() is code
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.call(METRICS, b"\0" * 1_000_000, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_this_hosts_metrics_are_series_of_the_host_entity() -> None:
    intake, log, clock = make_intake()
    host = HostMetrics(intake, clock=clock)
    stored = await host.collect()
    await host.collect()
    series = log.messages(SeriesDescriptor, "telemetry.series")
    assert stored == len(series) >= 10
    assert {one.entity.split(":")[0] for one in series} == {"host"}
    kinds = {one.name: one.kind for one in series}
    assert kinds["system.memory.utilization"] is MetricKind.GAUGE
    assert kinds["system.network.io"] is MetricKind.COUNTER


async def test_a_restarted_intake_knows_its_series_from_the_log() -> None:
    intake, log, _ = make_intake()
    body = gauge_request([1.0, 2.0]).SerializeToString()
    await intake.metrics_otlp("default", body, "application/x-protobuf")
    again, _, _ = make_intake()
    again._log = log
    known: MemoryLog = log
    assert again._registry.load(known.messages(SeriesDescriptor, "telemetry.series")) == 2
    await again.metrics_otlp("default", body, "application/x-protobuf")
    assert len(log.records["telemetry.series"]) == 2
