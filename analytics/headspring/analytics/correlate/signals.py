"""What the correlation kernel knows of an alert, and how alike two alerts are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from headspring.proto import semantics
from headspring.proto.detection import Alert, Direction


class Kind(StrEnum):
    """What an alert is about, as far as it matters for the way trouble travels."""

    SYMPTOM = "symptom"
    """Errors, latency: travel callee → caller."""
    STARVATION = "starvation"
    """Missing traffic: travels caller → callee."""
    PRESSURE = "pressure"
    """More traffic or a used-up resource: may be its own cause, or come from a caller."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One alert as the kernel sees it."""

    alert_id: str
    time_ns: int
    """Start of the episode, event time."""
    entity: str
    """Where it is in the topology."""
    fingerprint: str
    rank: int
    """`Severity.rank`."""
    words: frozenset[str]
    """`name=value` of the labels and the alert's name, for the label similarity."""
    kind: Kind = Kind.OTHER
    points_at: str = ""
    """The callee that the alert itself blames, where a label names one; "" otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of the four components; they add up to 1. Source: the usual 30/40/20/10 of published Dynamic-X-Y designs."""

    time: float = 0.30
    topology: float = 0.40
    labels: float = 0.20
    severity: float = 0.10


CLOSENESS = (1.0, 0.8, 0.5, 0.3)
"""Topology component by hop distance; 0 beyond."""
_MAX_WORDS = 64
"""Labels of one alert that are compared; more are left out."""
_PRESSURE_RATE = (semantics.SERVICE_REQUEST_RATE, semantics.EDGE_REQUEST_RATE)
_SYMPTOM = re.compile(
    r"error|fail|5xx|http_?5\d\d|exception|latency|slow|duration|timeout|response_time|refused|unavailable|down$", re.I
)
_RATE = re.compile(
    r"request_?rate|requests_?(received|per)|throughput|traffic|no_?requests|qps|rps|operations_total", re.I
)
_RESOURCE = re.compile(r"cpu|mem(ory)?|disk|heap|queue|saturation|pool|connections|lag|rss|inode|network|softirq", re.I)


def kind_of(alert: Alert) -> Kind:
    """From the derived metric where there is one, else from the usual words in metric and alert names."""
    name = alert.metric or alert.name
    falls = alert.direction in (Direction.DOWN, Direction.ABSENT)
    if name in _PRESSURE_RATE or _RATE.search(name) or _RATE.search(alert.name):
        return Kind.STARVATION if falls or alert.direction is Direction.UNSPECIFIED else Kind.PRESSURE
    if alert.direction is Direction.ABSENT:
        return Kind.STARVATION
    if _SYMPTOM.search(name) or _SYMPTOM.search(alert.name):
        return Kind.SYMPTOM
    if _RESOURCE.search(name):
        return Kind.OTHER if falls else Kind.PRESSURE
    return Kind.OTHER


def signal_of(alert: Alert, *, entity: str = "") -> Signal:
    """What the kernel needs; `entity` places it where the topology knows it under another name."""
    return Signal(
        alert_id=alert.alert_id,
        time_ns=alert.starts_ns,
        entity=entity or alert.entity,
        fingerprint=alert.fingerprint,
        rank=alert.severity.rank,
        words=words_of(alert.name, alert.labels),
        kind=kind_of(alert),
        points_at=alert.labels.get("callee", ""),
    )


def words_of(name: str, labels: Mapping[str, str]) -> frozenset[str]:
    return frozenset([f"name={name}", *(f"{key}={labels[key]}" for key in sorted(labels)[:_MAX_WORDS])])


def components(left: Signal, right: Signal, *, hops: int | None, gap_ns: int) -> dict[str, float]:
    """The four similarities, each 0..1.

    Args:
        left, right: Two alerts.
        hops: Distance of their entities; None when there is no way within the radius.
        gap_ns: Session gap, where the time component reaches 0.
    """
    both = len(left.words & right.words)
    return {
        "time": max(0.0, 1.0 - abs(left.time_ns - right.time_ns) / gap_ns),
        "topology": CLOSENESS[hops] if hops is not None and hops < len(CLOSENESS) else 0.0,
        "labels": both / (len(left.words) + len(right.words) - both),
        "severity": 1.0 - abs(left.rank - right.rank) / 4,
    }


def score(parts: Mapping[str, float], weights: Weights) -> float:
    return (
        weights.time * parts["time"]
        + weights.topology * parts["topology"]
        + weights.labels * parts["labels"]
        + weights.severity * parts["severity"]
    )
