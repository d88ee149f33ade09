"""What a metric series is, whichever protocol brought it: name, unit, labels, entity.

Resource attributes are labels of the series: two instances of a service are two series. Label names are
spelled as PromQL can write them; the entity's service name is also there as `service`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.values import label_name
from headspring.proto.ids import split_entity
from headspring.proto.semantics import LABEL_SERVICE
from headspring.proto.telemetry import MetricKind

_UNIDENTIFYING = ("telemetry.sdk.", "telemetry.distro.", "telemetry.auto.")
"""Resource attributes that say how telemetry was made, not what it is about."""
_SCOPE_LABEL = "otel_scope_name"
"""As the OTLP-to-Prometheus mapping calls it (OpenTelemetry specification, prometheus_and_openmetrics.md)."""
_COUNTER_SUFFIXES = ("_total", "_count", "_sum", "_bucket")
"""How Prometheus' text format names counters; used where a sender gives no metadata."""
_PROMETHEUS_TYPES: dict[int, MetricKind] = {1: MetricKind.COUNTER, 2: MetricKind.GAUGE}
"""MetricMetadata.MetricType of remote write 1.0; histograms and summaries are judged by suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesDraft:
    """A series before it has an id."""

    name: str
    unit: str
    kind: MetricKind
    entity: str
    labels: Mapping[str, str]


def otlp_series(
    *,
    resource: Mapping[str, str],
    entity: str,
    scope: str,
    name: str,
    unit: str,
    kind: MetricKind,
    attributes: Mapping[str, str],
) -> SeriesDraft:
    """A series from an OTLP data point; point attributes win over resource attributes of the same name."""
    labels: dict[str, str] = {}
    for pairs in (attributes.items(), resource.items()):
        for key, value in pairs:
            if value == "" or key.startswith(_UNIDENTIFYING):
                continue
            _put(labels, key, value)
    if scope:
        labels.setdefault(_SCOPE_LABEL, scope)
    return SeriesDraft(name=name, unit=unit, kind=kind, entity=entity, labels=_with_service(labels, entity))


def prometheus_series(labels: Mapping[str, str], types: Mapping[str, int] | None = None) -> SeriesDraft:
    """A series from Prometheus labels, `__name__` among them; `types` are metadata by metric family."""
    name = labels.get("__name__", "")
    rest = {key: value for key, value in labels.items() if key != "__name__" and value != ""}
    entity = entities.of_labels(rest, name)
    return SeriesDraft(
        name=name, unit="", kind=prometheus_kind(name, types or {}), entity=entity, labels=_with_service(rest, entity)
    )


def prometheus_kind(name: str, types: Mapping[str, int]) -> MetricKind:
    """Counter or gauge, from the sender's metadata, else from the suffix.

    >>> prometheus_kind("http_requests_total", {}).value, prometheus_kind("temperature", {}).value
    ('counter', 'gauge')
    """
    stated = _PROMETHEUS_TYPES.get(types.get(name, 0))
    if stated is not None:
        return stated
    return MetricKind.COUNTER if name.endswith(_COUNTER_SUFFIXES) else MetricKind.GAUGE


def resource_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Deprecated names rewritten: `deployment.environment` is `deployment.environment.name` now."""
    result = dict(attributes)
    old = result.pop("deployment.environment", "")
    if old:
        result.setdefault("deployment.environment.name", old)
    return result


def _put(labels: dict[str, str], key: str, value: str) -> None:
    """Under its PromQL name; under its own name too where another attribute took that one."""
    name = label_name(key)
    if labels.setdefault(name, value) != value:
        labels.setdefault(key if key != name else f"resource_{name}", value)


def _with_service(labels: dict[str, str], entity: str) -> dict[str, str]:
    if entity and LABEL_SERVICE not in labels:
        kind, _, name = split_entity(entity)
        if kind == "service":
            labels[LABEL_SERVICE] = name
    return labels
