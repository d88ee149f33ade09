"""Alerts in words, from rows of a table."""

from __future__ import annotations

from headspring.analytics.detect.evaluate import RANKS
from headspring.analytics.detect.judge import JudgeKind
from headspring.analytics.detect.table import Table
from headspring.proto import ids, semantics
from headspring.proto.detection import Alert, AlertStatus, Direction
from headspring.proto.telemetry import SeriesDescriptor

SOURCE = "detect.basic"
_NAMES = {
    JudgeKind.LATENCY: "latency high", JudgeKind.ERRORS: "errors high", JudgeKind.SILENCE: "no requests",
    JudgeKind.SURGE: "traffic high", JudgeKind.NO_DATA: "no data", JudgeKind.LEVEL_UP: "level high",
    JudgeKind.LEVEL_DOWN: "level low", JudgeKind.RESOURCE: "resource use high", JudgeKind.SATURATION: "saturated",
}  # fmt: skip
_DIRECTIONS = {
    JudgeKind.SILENCE: Direction.DOWN, JudgeKind.LEVEL_DOWN: Direction.DOWN, JudgeKind.NO_DATA: Direction.ABSENT,
}  # fmt: skip
_SIGNALS = {
    semantics.SERVICE_LATENCY_P95: "95th percentile latency", semantics.SERVICE_LATENCY_MEAN: "mean latency",
    semantics.SERVICE_SELF_TIME_MEAN: "mean time of its own per request",
    semantics.EDGE_LATENCY_MEAN: "mean latency of calls", semantics.SERVICE_ERROR_RATIO: "share of failed requests",
    semantics.EDGE_ERROR_RATIO: "share of failed calls", semantics.SERVICE_REQUEST_RATE: "request rate",
}  # fmt: skip


def alert_of(table: Table, row: int, tenant: str, *, ended: bool, at_ns: int) -> Alert:
    """The alert of a row's episode as it is now; `at_ns` is the event time of what it says."""
    series, col = table.series[row], table.col
    kind = JudgeKind(int(col["judge"][row]))
    fingerprint = ids.fingerprint(
        {**series.labels, "__entity__": series.entity, "__metric__": series.name, "__judge__": kind.name.lower()}
    )
    starts_ns = int(col["starts_ns"][row])
    value, low, high = (float(col[name][row]) for name in ("value", "low", "high"))
    return Alert(
        alert_id=ids.alert_id(tenant, fingerprint, starts_ns),
        tenant=tenant,
        fingerprint=fingerprint,
        entity=series.entity,
        name=_NAMES[kind],
        severity=RANKS[int(col["severity"][row])],
        status=AlertStatus.RESOLVED if ended else AlertStatus.FIRING,
        starts_ns=starts_ns,
        ends_ns=at_ns if ended else 0,
        updated_ns=at_ns,
        source=SOURCE,
        summary=summary(series, kind, value, low, high),
        labels=dict(series.labels),
        series_id=series.series_id,
        metric=series.name,
        direction=_DIRECTIONS.get(kind, Direction.UP),
        score=float(col["score"][row]),
        value=value,
        expected_low=low,
        expected_high=high,
    )


def summary(series: SeriesDescriptor, kind: JudgeKind, value: float, low: float, high: float) -> str:
    """A sentence with the value, the expected range and the unit."""
    who = ids.entity_name(series.entity)
    caller, callee = series.labels.get(semantics.LABEL_CALLER), series.labels.get(semantics.LABEL_CALLEE)
    if caller and callee:
        who = f"{caller} → {callee}"
    what = _SIGNALS.get(series.name, series.name)
    if kind is JudgeKind.NO_DATA:
        return f"{who}: {what} stopped being reported; usual is {quantity(low, series.unit)} or more"
    now = quantity(value, series.unit)
    if kind is JudgeKind.SILENCE:
        return f"{who}: {what} is {now}; expected at least {quantity(low, series.unit)}"
    if kind is JudgeKind.SATURATION:
        return f"{who}: {what} is {now}; full is {quantity(high, series.unit)}"
    return f"{who}: {what} is {now}; expected {quantity(low, series.unit)} to {quantity(high, series.unit)}"


def quantity(value: float, unit: str) -> str:
    """A number as a person reads it.

    >>> quantity(0.042, "s"), quantity(0.4, "1"), quantity(12.34, "1/s"), quantity(3, "{threads}")
    ('42 ms', '40 %', '12/s', '3 {threads}')
    """
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "1":
        return f"{value * 100:.3g} %"
    if unit == "1/s":
        return f"{value:.2g}/s" if abs(value) < 100 else f"{value:.0f}/s"
    return f"{value:.4g} {unit}".rstrip()
