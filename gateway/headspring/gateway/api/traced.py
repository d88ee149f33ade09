"""A server span for each request, named by method and route as semantic conventions ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry import trace

from headspring.proto import tracing

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_STREAMS = "/api/v1/events"
"""Answers that last as long as a page is open say nothing as a span."""


def traced(inner: Application) -> Application:
    """`inner` with a span around every request but streams; without an SDK, `inner` plus a look-up.

    Source: OpenTelemetry semantic conventions for HTTP spans 1.23.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _STREAMS:
            await inner(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        above = tracing.context_of(headers)
        context = trace.set_span_in_context(trace.NonRecordingSpan(above)) if above else None
        with tracing.tracer.start_as_current_span(
            scope["method"], context=context, kind=trace.SpanKind.SERVER, record_exception=False
        ) as span:
            if not span.is_recording():
                await inner(scope, receive, send)
                return
            span.set_attributes({"http.request.method": scope["method"], "url.path": scope["path"]})

            async def noted(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(trace.StatusCode.ERROR)
                await send(message)

            await inner(scope, receive, noted)
            route = getattr(scope.get("route"), "path", scope["path"] if "route" not in scope else "")
            if route:
                span.set_attribute("http.route", route)
                span.update_name(f"{scope['method']} {route}")

    return app
