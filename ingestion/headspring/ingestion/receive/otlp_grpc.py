"""OTLP over gRPC: the three Export calls, raw bytes in and out, so that the scanner sees the wire form.

Overload answers UNAVAILABLE with RetryInfo, a body over the limit RESOURCE_EXHAUSTED, an unreadable one
INVALID_ARGUMENT (opentelemetry-proto, specification.md, "OTLP/gRPC Response").
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from headspring.ingestion.pipeline import PROTOBUF_TYPE, Intake, PartialResult
from headspring.ingestion.receive.http import OTLP_LOGS, OTLP_METRICS, OTLP_TRACES, Authenticate, otlp_response
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import (
    ContractError,
    Forbidden,
    LimitExceeded,
    PlatformError,
    Rejected,
    Unauthenticated,
    Unavailable,
)

logger = logging.getLogger(__name__)

_STATUS_DETAILS = "grpc-status-details-bin"
"""Trailer that carries google.rpc.Status (gRPC's richer error model)."""
_CODES: tuple[tuple[type[PlatformError], Any, int], ...] = (
    (LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED, code_pb2.RESOURCE_EXHAUSTED),
    (ContractError, grpc.StatusCode.INVALID_ARGUMENT, code_pb2.INVALID_ARGUMENT),
    (Rejected, grpc.StatusCode.INVALID_ARGUMENT, code_pb2.INVALID_ARGUMENT),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED, code_pb2.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED, code_pb2.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE, code_pb2.UNAVAILABLE),
)

Handler = Callable[[str, bytes], Awaitable[PartialResult]]


class OtlpGrpcServer:
    """A running server. `port` is the bound one, for address ports of 0."""

    def __init__(self, server: Any, port: int) -> None:
        self._server = server
        self.port = port

    async def stop(self, grace_s: float = 5.0) -> None:
        """Takes no new calls and returns when running ones are done, or after `grace_s`."""
        await self._server.stop(grace_s)


async def start(intake: Intake, *, address: str, authenticate: Authenticate) -> OtlpGrpcServer:
    """Serves on `address` (`host:port`, port 0 = any free one).

    Raises:
        Unavailable: the address cannot be bound.
    """
    limits = intake.limits
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", limits.max_body_bytes), ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=max(1, limits.max_in_flight_bytes // limits.max_body_bytes) * 8,
    )
    package = "opentelemetry.proto.collector"
    services: tuple[tuple[str, str, Handler], ...] = (
        (
            f"{package}.metrics.v1.MetricsService",
            OTLP_METRICS,
            lambda tenant, body: intake.metrics_otlp(tenant, body, PROTOBUF_TYPE),
        ),
        (
            f"{package}.logs.v1.LogsService",
            OTLP_LOGS,
            lambda tenant, body: intake.logs_otlp(tenant, body, PROTOBUF_TYPE),
        ),
        (
            f"{package}.trace.v1.TraceService",
            OTLP_TRACES,
            lambda tenant, body: intake.traces_otlp(tenant, body, PROTOBUF_TYPE),
        ),
    )
    for service, path, handler in services:
        # No (de)serializers: handlers get and give bytes.
        method = grpc.unary_unary_rpc_method_handler(_call(intake, handler, path, authenticate))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen for OTLP/gRPC on {address}: {error}") from error
    await server.start()
    return OtlpGrpcServer(server, port)


def _call(
    intake: Intake, handler: Handler, path: str, authenticate: Authenticate
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def export(body: bytes, context: Any) -> bytes:
        try:
            headers = {
                name.lower(): value for name, value in context.invocation_metadata() or () if isinstance(value, str)
            }
            result = await handler(authenticate(headers), body)
        except PlatformError as error:
            intake.counters[f'headspring_ingestion_grpc_errors_total{{path="{path}"}}'] += 1
            await _abort(context, error)
            raise  # abort has raised already; this tells readers and checkers that nothing follows
        except Exception:  # the stage's edge: one bad call must not end the server
            logger.exception("gRPC call failed: path=%s", path)
            await context.abort(grpc.StatusCode.INTERNAL, "this is a defect of Headspring; it is in its log")
            raise
        intake.counters[f'headspring_ingestion_grpc_requests_total{{path="{path}"}}'] += 1
        data: bytes = otlp_response(path, result).SerializeToString()
        return data

    return export


async def _abort(context: Any, error: PlatformError) -> None:
    code, number = next(
        ((code, number) for kind, code, number in _CODES if isinstance(error, kind)),
        (grpc.StatusCode.INTERNAL, code_pb2.INTERNAL),
    )
    message = str(error)[:2000]
    status = status_pb2.Status(code=number, message=message)
    if isinstance(error, Unavailable):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * NS_PER_S))
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(detail)
    context.set_trailing_metadata(((_STATUS_DETAILS, status.SerializeToString()),))
    await context.abort(code, message)
