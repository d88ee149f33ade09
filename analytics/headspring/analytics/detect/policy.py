"""Which judge a series gets, from its name, unit and kind. Names follow OpenTelemetry's and Prometheus' conventions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from headspring.proto import semantics
from headspring.proto.ids import split_entity
from headspring.proto.telemetry import MetricKind, SeriesDescriptor


class Policy(IntEnum):
    """How a series is judged; the numbers are part of snapshots."""

    NONE = 0
    LATENCY = 1
    ERRORS = 2
    REQUESTS = 3
    LEVEL = 4
    """Meaning unknown: a level shift that lasts."""
    RESOURCE = 5
    """A gauge of a process, runtime or pool: rises of several times the usual, for minutes."""
    SHARE = 6
    """How full or busy something limited is, 0..1 or per cent: only fullness is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    policy: Policy
    floor: float = 0.0
    """Least spread, in the series' unit: smaller changes do not matter to anybody."""
    scale: float = 1.0
    """What one second, or one whole, is in the series' unit."""
    edge: bool = False
    """A call between two services, not a service."""


_SPLIT = re.compile(r"[^a-z0-9]+")
_LATENCIES = (
    semantics.SERVICE_LATENCY_P95, semantics.SERVICE_LATENCY_MEAN, semantics.SERVICE_SELF_TIME_MEAN,
    semantics.EDGE_LATENCY_MEAN,
)  # fmt: skip
_EDGES = (semantics.EDGE_LATENCY_MEAN, semantics.EDGE_ERROR_RATIO, semantics.EDGE_REQUEST_RATE)
_RESOURCE_ROOTS = {
    "system", "process", "container", "k8s", "node", "host", "jvm", "go", "python", "cpython", "nodejs", "v8js",
    "dotnet", "aspnetcore", "kestrel", "runtime", "hw", "otel", "otelcol", "otlp", "scrape", "up", "prometheus",
    "target", "machine", "kubelet", "kube", "vm",
}  # fmt: skip
_LIBRARY_ROOTS = {"http", "rpc", "grpc", "messaging", "db", "traces", "gen", "headspring"}
"""Instrumentation whose counters and histogram parts say what the derived metrics say better."""
_PARTS = {"sum", "count", "bucket", "total", "created", "info", "min", "max"}
_SHARES = {"utilization", "utilisation", "saturation"}
_NOT_BUSY = {"idle", "free", "available", "cached", "buffered", "buffers", "slab_reclaimable", "iowait", "nice"}
_STATE_LABELS = ("state", "cpu.mode", "mode", "system.cpu.state", "system.memory.state", "system.filesystem.state")
_FLOORS = {"s": 0.005, "ms": 5.0, "us": 5e3, "ns": 5e6, "1": 0.02, "%": 2.0, "By": 16e6, "MiBy": 16.0, "MBy": 16.0}
"""Least spread per unit (UCUM): 5 ms, two points of a share, 16 MB."""
_COUNT_FLOOR = 1.0
"""And of what is counted in pieces or has no unit."""
_SECONDS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NOTHING = Rule(policy=Policy.NONE)


def rule_of(series: SeriesDescriptor) -> Rule:
    """The rule for a series; `Policy.NONE` for what is not worth a judge."""
    name = series.name
    if name in semantics.DERIVED_METRICS:
        return _derived(name)
    words = [word for word in _SPLIT.split(name.lower()) if word]
    if not words or not series.entity:
        return _NOTHING
    share = _share(series, words)
    if share is not None:
        return share
    if _PARTS & {words[-1]} or (series.kind in (MetricKind.COUNTER, MetricKind.DELTA) and words[0] in _RESOURCE_ROOTS):
        return _NOTHING
    if words[0] in _LIBRARY_ROOTS or _about_host(series, words):
        return _NOTHING
    floor = _FLOORS.get(series.unit, _COUNT_FLOOR)
    if series.kind in (MetricKind.COUNTER, MetricKind.DELTA):
        return Rule(policy=Policy.LEVEL, floor=0.2)
    if words[0] in _RESOURCE_ROOTS or series.unit in ("By", "MiBy", "MBy", "KiBy", "bytes") or words[-1] == "bytes":
        return Rule(policy=Policy.RESOURCE, floor=16e6 if words[-1] == "bytes" else floor)
    return Rule(policy=Policy.LEVEL, floor=floor)


def _derived(name: str) -> Rule:
    edge = name in _EDGES
    if name in _LATENCIES:
        return Rule(policy=Policy.LATENCY, floor=_FLOORS["s"], edge=edge)
    if name in (semantics.SERVICE_ERROR_RATIO, semantics.EDGE_ERROR_RATIO):
        return Rule(policy=Policy.ERRORS, floor=_FLOORS["1"], edge=edge)
    # How often one service calls another follows from what both are asked for: kept as evidence, not judged.
    return Rule(policy=Policy.REQUESTS, edge=edge)


def _share(series: SeriesDescriptor, words: list[str]) -> Rule | None:
    """A used share of something limited."""
    named = bool(_SHARES & set(words)) or words[-1] in ("ratio", "percent")
    if not (series.unit in ("1", "%", "") and named and series.kind not in (MetricKind.COUNTER, MetricKind.DELTA)):
        return None
    if not (
        _SHARES & set(words) or {"cpu", "memory", "disk", "filesystem", "pool", "heap", "usage", "used"} & set(words)
    ):
        return None
    states = {series.labels[label].lower() for label in _STATE_LABELS if label in series.labels}
    if (states | set(words)) & _NOT_BUSY:
        return _NOTHING
    percent = series.unit == "%" or words[-1] == "percent"
    return Rule(policy=Policy.SHARE, floor=2.0 if percent else 0.02, scale=100.0 if percent else 1.0)


def _about_host(series: SeriesDescriptor, words: list[str]) -> bool:
    """Counters and levels of a machine follow whatever runs on it; only how full it is says something."""
    try:
        kind = split_entity(series.entity)[0]
    except ValueError:
        kind = ""
    return kind == "host" or words[0] in ("system", "node", "host", "hw", "up", "otel", "otelcol", "otlp", "scrape")
