"""HTTP receivers as one raw ASGI 3 application: OTLP, remote write, logs, alerts, changes.

Nothing is answered 2xx before it is durable. Bodies are streamed under a cap, then decompressed under
another. OTLP errors are google.rpc.Status in the request's own encoding; the paths under /api answer
problem+json (RFC 9457). Overload is 503 with Retry-After on every path, which all senders retry.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from headspring.ingestion.admit.decompress import UnsupportedEncoding, decompress, unsnappy
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.pipeline import JSON_TYPE, PROTOBUF_TYPE, Intake, PartialResult
from headspring.proto.errors import ContractError, Forbidden, LimitExceeded, Rejected, Unauthenticated, Unavailable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate = Callable[[Mapping[str, str]], str]
"""Lower-case headers to tenant; raises `Unauthenticated` or `Forbidden`."""

logger = logging.getLogger(__name__)

OTLP_METRICS = "/v1/metrics"
OTLP_LOGS = "/v1/logs"
OTLP_TRACES = "/v1/traces"
REMOTE_WRITE = "/api/v1/write"
METRICS_WRITE = "/api/v1/metrics/write"
LOGS_WRITE = "/api/v1/logs/write"
LOKI_PUSH = "/loki/api/v1/push"
ALERTS_INGEST = "/api/v1/alerts/ingest"
ALERTS_V2 = "/api/v2/alerts"
CHANGES = "/api/v1/changes"

PATHS = frozenset(
    {
        OTLP_METRICS, OTLP_LOGS, OTLP_TRACES, REMOTE_WRITE, METRICS_WRITE, LOGS_WRITE, ALERTS_INGEST, ALERTS_V2,
        CHANGES, LOKI_PUSH,
    }
)  # fmt: skip
"""Paths served here, all by POST (alerts also by PUT, which Grafana can be set to)."""

_OTLP_RESPONSES: dict[str, tuple[Any, str]] = {
    OTLP_METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
    OTLP_LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
    OTLP_TRACES: (ExportTraceServiceResponse, "rejected_spans"),
}
_PUT_PATHS = frozenset({ALERTS_INGEST})
_JSON_MEDIA = frozenset({JSON_TYPE, "application/cloudevents+json", "application/cloudevents-batch+json"})
_RPC_CODES = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    405: code_pb2.UNIMPLEMENTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    415: code_pb2.INVALID_ARGUMENT,
    500: code_pb2.INTERNAL,
    503: code_pb2.UNAVAILABLE,
}
_TITLES = {
    400: "Unreadable input", 401: "Not authenticated", 403: "Not allowed", 404: "No such path", 405: "Use POST",
    413: "Too large", 415: "Unsupported media type or encoding", 500: "Internal error", 503: "Overloaded, try again",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] | None = None


class Disconnected(Exception):
    """The client went away while sending; nobody is there to be answered."""


def intake_app(intake: Intake, *, authenticate: Authenticate) -> Application:
    """The ASGI application for `PATHS`; every other path answers 404."""
    return _IntakeApp(intake, authenticate)


class _Memory:
    """Bytes of bodies being worked on, all requests together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0


class _Lease:
    """One request's share of it."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._held = 0

    def grow_to(self, size: int) -> None:
        """Raises `Unavailable` where there is no room now."""
        more, limits = max(0, size - self._held), self._memory.limits
        if self._memory.used + more > limits.max_in_flight_bytes:
            raise Unavailable(
                f"{self._memory.used} bytes are being worked on already", retry_after_s=limits.retry_after_s
            )
        self._memory.used += more
        self._held += more

    def release(self) -> None:
        self._memory.used -= self._held
        self._held = 0


class _IntakeApp:
    def __init__(self, intake: Intake, authenticate: Authenticate) -> None:
        self._intake = intake
        self._authenticate = authenticate
        self._memory = _Memory(intake.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, got {scope['type']!r}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path: str = scope["path"]
        try:
            answer = await self._answer(scope["method"], path, headers, receive)
        except Disconnected:
            return
        self._intake.counters[f'headspring_ingestion_requests_total{{path="{path if path in PATHS else "other"}",'
                              f'status="{answer.status}"}}'] += 1  # fmt: skip
        await _send(send, answer)

    async def _answer(self, method: str, path: str, headers: Mapping[str, str], receive: Receive) -> Answer:
        if path not in PATHS:
            return _error(path, headers, 404, f"{path[:100]} is not served here")
        if method != "POST" and not (method == "PUT" and path in _PUT_PATHS):
            return _error(path, headers, 405, f"{method} is not allowed here", {"allow": "POST"})
        lease = _Lease(self._memory)
        try:
            tenant = self._authenticate(headers)
            body = await self._body(headers, receive, lease)
            return await self._handle(tenant, path, headers, body)
        except Unauthenticated as error:
            return _error(path, headers, 401, str(error), {"www-authenticate": "Bearer"})
        except Forbidden as error:
            return _error(path, headers, 403, str(error))
        except UnsupportedEncoding as error:
            return _error(path, headers, 415, str(error))
        except LimitExceeded as error:
            return _error(path, headers, 413, str(error))
        except (ContractError, Rejected) as error:
            return _error(path, headers, 400, str(error))
        except Unavailable as error:
            return _error(path, headers, 503, str(error), {"retry-after": str(math.ceil(error.retry_after_s))})
        except Disconnected:
            raise
        except Exception:  # the stage's edge: one bad request must not end the server
            logger.exception("request failed: path=%s", path)
            return _error(path, headers, 500, "this is a defect of Headspring; it is in its log")
        finally:
            lease.release()

    async def _body(self, headers: Mapping[str, str], receive: Receive, lease: _Lease) -> bytes:
        """The decompressed body, its memory booked on `lease`."""
        limits = self._intake.limits
        encoding = headers.get("content-encoding", "").strip().lower()
        cap = limits.max_body_bytes if encoding in ("", "identity") else limits.max_compressed_bytes
        declared = _declared_length(headers)
        if declared is not None and declared > cap:
            raise LimitExceeded(f"body of {declared} bytes is over the limit of {cap} bytes")
        lease.grow_to(declared or 0)
        try:
            async with asyncio.timeout(limits.max_body_s):
                raw = await _read(receive, cap, lease)
        except TimeoutError:
            raise Unavailable(
                f"the body did not arrive within {limits.max_body_s:g} s", retry_after_s=limits.retry_after_s
            ) from None
        body = decompress(raw, encoding, limits)
        lease.grow_to(len(body))
        return body

    async def _handle(self, tenant: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        media, _, parameters = headers.get("content-type", "").partition(";")
        media = media.strip().lower()
        if path in _OTLP_RESPONSES:
            return await self._otlp(tenant, path, media, body)
        if path in (REMOTE_WRITE, METRICS_WRITE):
            return await self._metrics_write(tenant, path, media, parameters, headers, body)
        if path == LOKI_PUSH:
            if media == JSON_TYPE:
                await self._intake.logs_loki(tenant, body, JSON_TYPE)
            elif media == PROTOBUF_TYPE:
                # Loki's protobuf is always a snappy block, and senders do not say so in a header.
                encoded = headers.get("content-encoding", "").strip().lower() == "snappy"
                plain = body if encoded else unsnappy(body, self._intake.limits)
                await self._intake.logs_loki(tenant, plain, PROTOBUF_TYPE)
            else:
                raise UnsupportedEncoding(
                    f"Content-Type {media[:80]!r} is not Loki's; send {PROTOBUF_TYPE} or {JSON_TYPE}"
                )
            return Answer(status=204)
        if media and media not in _JSON_MEDIA and not (path == LOGS_WRITE and media == PROTOBUF_TYPE):
            raise UnsupportedEncoding(f"Content-Type {media[:80]!r} is not supported here; send {JSON_TYPE}")
        if path == LOGS_WRITE:
            if media == PROTOBUF_TYPE:
                return _accepted(await self._intake.logs_otlp(tenant, body, PROTOBUF_TYPE))
            return _accepted(await self._intake.logs_json(tenant, body))
        if path == ALERTS_INGEST:
            return _accepted(await self._intake.alerts_alertmanager(tenant, body))
        if path == ALERTS_V2:
            return _accepted(await self._intake.alerts_prometheus(tenant, body))
        return _accepted(await self._intake.changes(tenant, body, headers))

    async def _otlp(self, tenant: str, path: str, media: str, body: bytes) -> Answer:
        if media not in (JSON_TYPE, PROTOBUF_TYPE):
            raise UnsupportedEncoding(f"Content-Type {media[:80]!r} is not OTLP; send {PROTOBUF_TYPE} or {JSON_TYPE}")
        if path == OTLP_METRICS:
            result = await self._intake.metrics_otlp(tenant, body, media)
        elif path == OTLP_LOGS:
            result = await self._intake.logs_otlp(tenant, body, media)
        else:
            result = await self._intake.traces_otlp(tenant, body, media)
        return Answer(status=200, body=_encoded(otlp_response(path, result), media), content_type=media)

    async def _metrics_write(
        self, tenant: str, path: str, media: str, parameters: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        if "io.prometheus.write.v2" in parameters:
            raise UnsupportedEncoding(
                "remote write 2.0 is not supported; use protobuf_message: prometheus.WriteRequest"
            )
        if headers.get("content-encoding", "").strip().lower() == "snappy":
            result = await self._intake.metrics_remote_write(tenant, body)
            if result.rejected:
                # The specification wants 400 for any invalid sample; valid ones are kept, and 400 is never retried.
                return _error(
                    path, headers, 400, f"{result.rejected} samples rejected ({result.message}); others are kept"
                )
            return Answer(status=204)
        if path == METRICS_WRITE and media == JSON_TYPE:
            return _accepted(await self._intake.metrics_json(tenant, body))
        if path == METRICS_WRITE and media == PROTOBUF_TYPE:
            return _accepted(await self._intake.metrics_otlp(tenant, body, PROTOBUF_TYPE))
        raise UnsupportedEncoding("wanted Prometheus remote write 1.0: Content-Encoding snappy (block), protobuf")


async def _read(receive: Receive, cap: int, lease: _Lease) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > cap:
            raise LimitExceeded(f"body is over the limit of {cap} bytes")
        lease.grow_to(size)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def otlp_response(path: str, result: PartialResult) -> Any:
    """The Export*ServiceResponse; `partial_success` is set only where something was rejected."""
    response_class, field = _OTLP_RESPONSES[path]
    response = response_class()
    if result.rejected:
        setattr(response.partial_success, field, result.rejected)
        response.partial_success.error_message = result.message
    return response


def _declared_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ContractError(f"Content-Length is {text[:40]!r}")
    return int(text[:20])


def _accepted(result: PartialResult) -> Answer:
    """202: durable, not yet processed."""
    body = {"accepted": result.accepted, "rejected": result.rejected, "message": result.message}
    return Answer(status=202, body=json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))


def _error(
    path: str, headers: Mapping[str, str], status: int, detail: str, more: Mapping[str, str] | None = None
) -> Answer:
    detail = detail[:2000]
    if path in _OTLP_RESPONSES:
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        media = media if media in (JSON_TYPE, PROTOBUF_TYPE) else JSON_TYPE
        message = status_pb2.Status(code=_RPC_CODES[status], message=detail.encode("utf-8", "replace").decode())
        return Answer(status=status, body=_encoded(message, media), content_type=media, headers=more)
    problem = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "detail": detail,
        "instance": path[:200],
    }
    return Answer(
        status=status,
        body=json.dumps(problem).encode(),
        content_type="application/problem+json",
        headers=more,
    )


def _encoded(message: Any, media: str) -> bytes:
    if media == PROTOBUF_TYPE:
        data: bytes = message.SerializeToString()
        return data
    return json.dumps(json_format.MessageToDict(message)).encode()


async def _send(send: Send, answer: Answer) -> None:
    headers = [] if answer.status == 204 else [(b"content-length", str(len(answer.body)).encode())]
    if answer.body or answer.status != 204:
        headers.append((b"content-type", answer.content_type.encode("latin-1")))
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (answer.headers or {}).items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
