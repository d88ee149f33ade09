"""OTLP trace requests to span batches of one entity each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.metrics import resource_attributes
from headspring.ingestion.normalize.values import MAX_TIME_NS, attribute_map, cut
from headspring.proto.ids import DEFAULT_NAMESPACE, split_entity
from headspring.proto.telemetry import Span, SpanKind, SpanStatus

UNKNOWN_ENTITY = "unknown:default/unknown"
"""Where a resource says nothing about whose telemetry it is."""
_KINDS = {
    1: SpanKind.INTERNAL,
    2: SpanKind.SERVER,
    3: SpanKind.CLIENT,
    4: SpanKind.PRODUCER,
    5: SpanKind.CONSUMER,
}
_STATUS = {1: SpanStatus.OK, 2: SpanStatus.ERROR}
_REMOTE_KINDS = (SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER)
_KEPT_RESOURCE = ("service.version", "deployment.environment.name", "k8s.pod.name", "host.name")
"""Resource attributes that diagnosis compares between spans; the rest would be repeated on every span."""
BAD_SPAN = "the span has no valid trace id, span id or start time"


def otlp_spans(request: Any, limits: Limits, rejected: Counter[str]) -> Iterator[tuple[str, Span]]:
    """(entity, span) of an ExportTraceServiceRequest in wire order; bad spans are counted in `rejected`."""
    for resource_spans in request.resource_spans:
        resource = resource_attributes(attribute_map(resource_spans.resource.attributes))
        entity = entities.of_resource(resource) or UNKNOWN_ENTITY
        namespace = split_entity(entity)[1] if entity != UNKNOWN_ENTITY else DEFAULT_NAMESPACE
        instance = entities.instance_of(resource)
        kept = {name: cut(resource[name], limits.max_text_bytes) for name in _KEPT_RESOURCE if resource.get(name)}
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                if not _valid(span):
                    rejected[BAD_SPAN] += 1
                    continue
                yield entity, _span(span, kept, instance, namespace, limits)


def _valid(span: Any) -> bool:
    return (
        len(span.trace_id) == 16
        and len(span.span_id) == 8
        and any(span.trace_id)
        and any(span.span_id)
        and len(span.parent_span_id) in (0, 8)
        and 0 < span.start_time_unix_nano <= MAX_TIME_NS
    )


def _span(span: Any, kept: dict[str, str], instance: str, namespace: str, limits: Limits) -> Span:
    attributes = {name: cut(value, limits.max_text_bytes) for name, value in attribute_map(span.attributes).items()}
    kind = _KINDS.get(span.kind, SpanKind.INTERNAL)
    exception = next((attribute_map(event.attributes) for event in span.events if event.name == "exception"), {})
    for name in ("exception.type", "exception.message"):
        if exception.get(name):
            attributes.setdefault(name, cut(exception[name], limits.max_text_bytes))
    parent = span.parent_span_id
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=parent.hex() if any(parent) else "",
        operation=cut(span.name, limits.max_text_bytes),
        kind=kind,
        start_ns=span.start_time_unix_nano,
        duration_ns=min(MAX_TIME_NS, max(0, span.end_time_unix_nano - span.start_time_unix_nano)),
        status=_STATUS.get(span.status.code, SpanStatus.UNSET),
        status_message=cut(span.status.message, limits.max_text_bytes),
        instance=instance,
        peer=entities.peer_of_span(attributes, namespace=namespace) if kind in _REMOTE_KINDS else "",
        attributes={**kept, **attributes},
    )
