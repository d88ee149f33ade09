"""Requests through chains of three services, as OTLP spans; the last service of a chain can be slow."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_MS = 1_000_000
_DELAY_NS = 400 * _MS


@dataclass
class Chain:
    """A service that calls a service that calls a service."""

    names: tuple[str, str, str]
    slow: bool = False
    per_s: float = 10.0
    sent_ns: int = field(default_factory=time.time_ns)
    """Requests that began before this have been made up."""
    random: random.Random = field(default_factory=random.Random)

    @property
    def last(self) -> str:
        return self.names[-1]

    def export(self, now_ns: int) -> bytes:
        """Spans of the requests since the last call, all services in one export."""
        request = ExportTraceServiceRequest()
        scopes: dict[str, Any] = {}
        for name in self.names:
            of_service = request.resource_spans.add()
            pair = of_service.resource.attributes.add(key="service.name")
            pair.value.string_value = name
            scopes[name] = of_service.scope_spans.add()
        step = round(1e9 / self.per_s)
        while self.sent_ns + step <= now_ns:
            self._call(scopes, 0, self.sent_ns + self.random.randrange(step), self.random.randbytes(16), b"")
            self.sent_ns += step
        data: bytes = request.SerializeToString()
        return data

    def _call(self, scopes: dict[str, Any], depth: int, start_ns: int, trace_id: bytes, parent: bytes) -> int:
        """One service's part of a request; returns when it ended."""
        server = self._span(scopes[self.names[depth]], "GET /step", Span.SPAN_KIND_SERVER, start_ns, trace_id, parent)
        now_ns = start_ns + self.random.randrange(2 * _MS, 6 * _MS)
        if depth + 1 < len(self.names):
            client = self._span(
                scopes[self.names[depth]], "GET", Span.SPAN_KIND_CLIENT, now_ns, trace_id, server.span_id
            )
            now_ns = self._call(scopes, depth + 1, now_ns + _MS // 2, trace_id, client.span_id) + _MS // 2
            client.end_time_unix_nano = now_ns
        elif self.slow:
            now_ns += _DELAY_NS
        server.end_time_unix_nano = now_ns
        return now_ns

    def _span(self, scope: Any, name: str, kind: int, start_ns: int, trace_id: bytes, parent: bytes) -> Any:
        return scope.spans.add(
            name=name, kind=kind, start_time_unix_nano=start_ns, trace_id=trace_id,
            span_id=self.random.randbytes(8), parent_span_id=parent,
        )  # fmt: skip
