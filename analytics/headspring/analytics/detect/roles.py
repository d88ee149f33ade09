"""What a series measures, from its name, unit and kind, and the rule that its role has by default."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from enum import IntEnum

from headspring.analytics.detect.config import Override, Rule, laid_over
from headspring.proto import semantics
from headspring.proto.telemetry import MetricKind, SeriesDescriptor


class Role(IntEnum):
    GENERIC = 0
    LATENCY = 1
    ERROR_RATIO = 2
    """Share of failed requests, 0..1 or 0..100."""
    ERRORS = 3
    """Failures per second."""
    TRAFFIC = 4
    """Requests per second."""
    RESOURCE = 5
    """What a machine or a runtime uses. How much is used harms nobody; running out does."""
    DETAIL = 6
    """Histogram buckets and the like: parts of something that is judged elsewhere."""


_DERIVED = {
    semantics.SERVICE_LATENCY_P95: Role.LATENCY,
    semantics.SERVICE_LATENCY_MEAN: Role.LATENCY,
    semantics.SERVICE_SELF_TIME_MEAN: Role.LATENCY,
    semantics.EDGE_LATENCY_MEAN: Role.LATENCY,
    semantics.SERVICE_ERROR_RATIO: Role.ERROR_RATIO,
    semantics.EDGE_ERROR_RATIO: Role.ERROR_RATIO,
    semantics.SERVICE_REQUEST_RATE: Role.TRAFFIC,
    semantics.EDGE_REQUEST_RATE: Role.TRAFFIC,
}
_RESOURCE = re.compile(
    r"^(system|process|container|host|node|machine|jvm|go|python|cpython|runtime|nodejs|v8js|dotnet|windows|k8s|kube"
    r"|kubelet|otelcol|otel|scrape|up$)([._]|$)|cpu|memory|filesystem|swap|garbage|\bgc\b"
)
_SHARE = re.compile(r"utilization|utilisation|saturation|usage_ratio|percent|pct|used_ratio")
_ERRORS = re.compile(r"error|fail|exception|5xx|timeout|rejected|refused")
_TRAFFIC = re.compile(r"request|calls|messages|transactions|queries|orders|hits|throughput|qps|rps")
_LATENCY = re.compile(r"latency|duration|response_?time|elapsed|wait_?time")
_NO_LATENCY = re.compile(
    r"uptime|timestamp|_age|start_time|time_since|created|_sum$|_count$|\.sum$|\.count$|\.max$|\.min$"
)
_DETAIL = re.compile(r"_bucket$|\.bucket$|_created$")
_FREE = frozenset({"idle", "free", "available"})
_NOT_USED = frozenset({"cached", "buffered", "buffers", "slab_reclaimable", "slab_unreclaimable", "inactive"})
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9, "seconds": 1.0, "milliseconds": 1e-3}
"""Seconds in each unit of time."""

_LATENCY_FLOOR_S = 0.015
"""A deviation of less than 15 ms is within what a busy scheduler does."""
_ERROR_FLOOR = 0.02
"""Two percentage points."""

_RULES: dict[Role, Rule] = {
    # One value in a series that nobody described: large, and for a minute.
    Role.GENERIC: Rule(hold_s=60.0, flat_s=600.0, no_data_s=60.0),
    Role.LATENCY: Rule(down=False, deviations=6.0, relative_floor=1.0),
    Role.ERROR_RATIO: Rule(down=False, deviations=4.0, relative_floor=0.5, absolute_floor=_ERROR_FLOOR, slow_share=1.0),
    Role.ERRORS: Rule(down=False, deviations=8.0, relative_floor=1.0, absolute_floor=0.2, hold_s=10.0),
    # Traffic may double at any time of day: more is only told when it lasts, nothing at all at once.
    Role.TRAFFIC: Rule(deviations=6.0, relative_floor=0.8, absolute_floor=0.5, hold_s=30.0, silence=True),
    Role.RESOURCE: Rule(up=False, down=False, hold_s=60.0, no_data_s=60.0),
    Role.DETAIL: Rule(enabled=False),
}
_DERIVED_WARM_UP: Mapping[str, float] = {"min_updates": 12, "min_observed_s": 30.0}
"""Derived metrics come in regular buckets of many requests, so fewer samples tell as much."""
_P95_NOISE: Mapping[str, float] = {"deviations": 8.0, "relative_floor": 1.5}
"""The 95th percentile of some tens of requests is close to their maximum."""


def role_of(series: SeriesDescriptor) -> Role:
    """What a series measures.

    >>> role_of(SeriesDescriptor(series_id=1, tenant="t", name="checkout.request.duration", unit="ms")).name
    'LATENCY'
    """
    if series.name in _DERIVED:
        return _DERIVED[series.name]
    name = series.name.lower()
    if _DETAIL.search(name) or "le" in series.labels or "quantile" in series.labels:
        return Role.DETAIL
    counts = series.kind in (MetricKind.COUNTER, MetricKind.DELTA)
    if _RESOURCE.search(name):
        return Role.RESOURCE
    if _ERRORS.search(name):
        if re.search(r"ratio|percent|pct", name) or series.unit == "%":
            return Role.ERROR_RATIO
        return Role.ERRORS if counts or "rate" in name else Role.GENERIC
    if not counts and not _NO_LATENCY.search(name) and (series.unit in _SECONDS or _LATENCY.search(name)):
        return Role.LATENCY
    if counts:
        # A counter of anything else (bytes, seconds spent) is about use.
        return Role.TRAFFIC if _TRAFFIC.search(name) and series.unit not in ("By", *_SECONDS) else Role.RESOURCE
    if _TRAFFIC.search(name) and ("rate" in name or "per_sec" in name or series.unit.endswith("/s")):
        return Role.TRAFFIC
    return Role.GENERIC


def rule_for(series: SeriesDescriptor, overrides: Sequence[Override] = ()) -> tuple[Role, Rule]:
    """The role of a series and the rule it is judged by."""
    role = role_of(series)
    rule = _RULES[role]
    changes: dict[str, float | bool] = {}
    if role is Role.LATENCY:
        changes["absolute_floor"] = _LATENCY_FLOOR_S / _SECONDS.get(series.unit, 1.0)
    if role is Role.ERROR_RATIO and (series.unit == "%" or re.search("percent|pct", series.name.lower())):
        changes.update(full=100.0, absolute_floor=100 * _ERROR_FLOOR)
    if role in (Role.RESOURCE, Role.GENERIC):
        changes.update(_share(series))
    if role is Role.GENERIC and series.kind in (MetricKind.UNSPECIFIED, MetricKind.GAUGE) and _looks_discrete(series):
        changes["flat_s"] = 0.0
    if series.name in _DERIVED:
        changes.update(_DERIVED_WARM_UP)
        if series.name == semantics.SERVICE_LATENCY_P95:
            changes.update(_P95_NOISE)
    rule = dataclasses.replace(rule, **changes)  # type: ignore[arg-type]  # names and kinds are ours
    for override in overrides:
        if fnmatch.fnmatchcase(series.name[:200], override.pattern):
            rule = laid_over(rule, override)
    return role, rule


def _share(series: SeriesDescriptor) -> dict[str, float | bool]:
    """Saturation settings, where the series is a share of something that can run out."""
    name = series.name.lower()
    if series.unit not in ("1", "%", "") or not _SHARE.search(name):
        return {}
    full = 100.0 if series.unit == "%" or re.search("percent|pct", name) else 1.0
    states = {value.lower() for key, value in series.labels.items() if key in ("state", "mode", "cpu.mode", "cpu_mode")}
    if states & _NOT_USED:
        return {}
    free = bool(states & _FREE) or re.search("idle|free|available", name) is not None
    return {"saturation": 0.95, "full": -full if free else full}


def _looks_discrete(series: SeriesDescriptor) -> bool:
    """Replica counts, states, versions: constant is their normal."""
    return series.unit.startswith("{") or re.search("count|state|status|info|version|replicas", series.name) is not None
