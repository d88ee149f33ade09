"""What an anomaly says to people: name, severity, sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headspring.analytics.detect.basic import kernel
from headspring.analytics.detect.roles import Role
from headspring.proto import semantics
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Alert, AlertStatus, Direction, Severity
from headspring.proto.ids import alert_id, entity_name, fingerprint
from headspring.proto.telemetry import SeriesDescriptor

SOURCE = "detect.basic"
NO_DATA = 5
"""Beside the kernel's subjects of a score."""
_DETECTOR = {
    kernel.LEVEL: "level",
    kernel.SILENT: "silence",
    kernel.SATURATED: "saturation",
    kernel.FLATLINE: "flat-line",
    NO_DATA: "no-data",
}
_EDGE = frozenset({semantics.EDGE_LATENCY_MEAN, semantics.EDGE_ERROR_RATIO, semantics.EDGE_REQUEST_RATE})
_MANY_ERRORS, _SOME_ERRORS = 0.5, 0.05
"""Shares of failed requests from which an alert is critical, and an error."""
_SLOW_FACTOR, _SLOW_S = 3.0, 0.1
"""So many times the usual latency, and so much more in seconds, is an error."""
_STUCK_FACTOR, _STUCK_S = 20.0, 2.0
"""And so much is critical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One series' anomaly at one moment."""

    about: int
    """`kernel.LEVEL` and so on, or `NO_DATA`."""
    score: float
    value: float
    low: float
    high: float
    """Expected range, in the series' unit."""
    up: bool


def severity_of(series: SeriesDescriptor, role: Role, finding: Finding) -> Severity:
    """By what people feel: failed and slow requests and missing ones are bad by their size; the rest is a warning."""
    edge = series.name in _EDGE
    if finding.about in (kernel.SILENT, kernel.LEVEL) and role is Role.TRAFFIC:
        if finding.about == kernel.SILENT:
            return Severity.WARNING if edge else Severity.CRITICAL
        return Severity.WARNING
    if finding.about != kernel.LEVEL:
        return Severity.WARNING
    if role is Role.ERROR_RATIO:
        share = finding.value / (100.0 if series.unit == "%" else 1.0)
        if share >= _MANY_ERRORS:
            return Severity.ERROR if edge else Severity.CRITICAL
        return Severity.ERROR if share >= _SOME_ERRORS and not edge else Severity.WARNING
    if role is Role.LATENCY:
        usual, more = max(finding.high / 2, 1e-9), finding.value - finding.high
        second = {"ms": 1e3, "us": 1e6, "ns": 1e9}.get(series.unit, 1.0)
        if finding.value >= _STUCK_FACTOR * usual and more >= _STUCK_S * second and not edge:
            return Severity.CRITICAL
        slow = finding.value >= _SLOW_FACTOR * usual and more >= _SLOW_S * second
        return Severity.ERROR if slow else Severity.WARNING
    return Severity.WARNING


def alert_of(
    tenant: str,
    series: SeriesDescriptor,
    role: Role,
    finding: Finding,
    *,
    starts_ns: int,
    updated_ns: int,
    severity: Severity,
    ends_ns: int = 0,
    count: int = 1,
    why_ended: str = "",
) -> Alert:
    """The alert of one episode; `ends_ns` above 0 says that it is over."""
    detector = _DETECTOR[finding.about]
    identity = {**series.labels, "__name__": series.name, "__entity__": series.entity, "__detector__": detector}
    print_ = fingerprint(identity)
    direction = Direction.UP if finding.up else Direction.DOWN
    if finding.about == NO_DATA:
        direction = Direction.ABSENT
    annotations = {
        "detector": detector,
        "because": f"score {finding.score:.2f}, more than 1 is anomalous",
        "unit": series.unit,
    }
    if why_ended:
        annotations["ended"] = why_ended
    return Alert(
        alert_id=alert_id(tenant, print_, starts_ns),
        tenant=tenant,
        fingerprint=print_,
        entity=entity_of(series),
        name=_name(role, finding),
        severity=severity,
        status=AlertStatus.RESOLVED if ends_ns else AlertStatus.FIRING,
        starts_ns=starts_ns,
        ends_ns=ends_ns,
        updated_ns=updated_ns,
        source=SOURCE,
        summary=_summary(series, role, finding, updated_ns - starts_ns),
        labels=dict(series.labels),
        annotations=annotations,
        series_id=series.series_id,
        metric=series.name,
        direction=direction,
        score=finding.score,
        value=finding.value,
        expected_low=finding.low,
        expected_high=finding.high,
        count=count,
    )


def entity_of(series: SeriesDescriptor) -> str:
    """The series' entity, or a service that its labels name; "" unknown."""
    service = series.labels.get(semantics.LABEL_SERVICE) or series.labels.get("service_name")
    return series.entity or (f"service:default/{service}" if service else "")


def _name(role: Role, finding: Finding) -> str:
    if finding.about == kernel.LEVEL:
        return {
            Role.LATENCY: "LatencyHigh",
            Role.ERROR_RATIO: "ErrorRatioHigh",
            Role.ERRORS: "ErrorsHigh",
            Role.TRAFFIC: "TrafficHigh" if finding.up else "TrafficLow",
        }.get(role, "LevelHigh" if finding.up else "LevelLow")
    return {
        kernel.SILENT: "RequestsStopped",
        kernel.SATURATED: "Saturation",
        kernel.FLATLINE: "FlatLine",
        NO_DATA: "NoData",
    }[finding.about]


def _summary(series: SeriesDescriptor, role: Role, finding: Finding, lasted_ns: int) -> str:
    who = _who(series)
    now, expected = _amount(finding.value, series.unit), _range(finding, series.unit)
    if finding.about == NO_DATA:
        return f"{who}: no data of {series.name} any more"
    if finding.about == kernel.FLATLINE:
        return f"{who}: {series.name} has been exactly {now} for {lasted_ns / NS_PER_S + 600:.0f} s, it always varied"
    if finding.about == kernel.SILENT:
        return f"{who}: requests stopped ({now}, expected {expected})"
    if finding.about == kernel.SATURATED:
        return f"{who}: {series.name} is at {now}, close to all there is"
    what = {
        Role.LATENCY: "latency",
        Role.ERROR_RATIO: "share of failed requests",
        Role.ERRORS: "failures",
        Role.TRAFFIC: "request rate",
    }.get(role, series.name)
    return f"{who}: {what} {now}, expected {expected}"


def _who(series: SeriesDescriptor) -> str:
    labels: Mapping[str, str] = series.labels
    if series.name in _EDGE and semantics.LABEL_CALLEE in labels:
        return f"{labels.get(semantics.LABEL_CALLER, '?')} → {labels[semantics.LABEL_CALLEE]}"
    return entity_name(entity_of(series)) or series.name


def _range(finding: Finding, unit: str) -> str:
    return f"{_amount(finding.low, unit)} to {_amount(finding.high, unit)}"


def _amount(value: float, unit: str) -> str:
    """A number with its unit as people write it.

    >>> _amount(0.4321, "s"), _amount(0.4, "1"), _amount(12.0, "1/s")
    ('432 ms', '40 %', '12/s')
    """
    if unit == "s" and abs(value) < 1:
        return f"{value * 1e3:.3g} ms"
    if unit == "1" and abs(value) <= 1:
        return f"{value * 100:.3g} %"
    if unit == "1/s":
        return f"{value:.3g}/s"
    return f"{value:.4g} {unit}".rstrip()
