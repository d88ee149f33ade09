"""Headspring's own traces: W3C trace context through requests, records and calls, by OpenTelemetry's API.

Costs next to nothing until an SDK is installed: the API's tracer makes no spans, and only a sampled span puts a
context on records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
MAX_LINKS = 32
"""Links of one span; a batch may hold records of hundreds of requests."""

tracer = trace.get_tracer("headspring")
_PROPAGATOR = TraceContextTextMapPropagator()


def carrier() -> dict[str, str]:
    """Headers that name the current span; {} when it is not sampled.

    Source: W3C Trace Context, level 1.
    """
    found: dict[str, str] = {}
    if trace.get_current_span().get_span_context().trace_flags.sampled:
        _PROPAGATOR.inject(found)
    return found


def context_of(headers: Mapping[str, str]) -> trace.SpanContext | None:
    """The span that headers name; None where they name none, or none that can be read."""
    if TRACEPARENT not in headers:
        return None
    found = trace.get_current_span(_PROPAGATOR.extract(dict(headers))).get_span_context()
    return found if found.is_valid else None


def links(headers: Iterable[Mapping[str, str]]) -> list[trace.Link]:
    """Links to the spans that made records, each span once, at most `MAX_LINKS`."""
    found: dict[str, trace.Link] = {}
    for one in headers:
        name = one.get(TRACEPARENT)
        if name is None or name in found:
            continue
        context = context_of(one)
        if context is not None:
            found[name] = trace.Link(context)
            if len(found) == MAX_LINKS:
                break
    return list(found.values())


def batch(name: str, headers: Iterable[Mapping[str, str]]) -> AbstractContextManager[trace.Span]:
    """A consumer span over records of many traces: it goes on in the trace of the first and links to all of them.

    A parent rather than links alone, because samplers decide by the parent.
    """
    made_by = links(headers)
    above = trace.set_span_in_context(trace.NonRecordingSpan(made_by[0].context)) if made_by else None
    return tracer.start_as_current_span(name, context=above, kind=trace.SpanKind.CONSUMER, links=made_by)
