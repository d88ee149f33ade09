"""Times, numbers and states in the words that pages show. Pure functions; templates use them as filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident, IncidentState

_AGES = ((86400, "d"), (3600, "h"), (60, "min"))
_CAUSES = {
    CauseKind.LATENCY: "slow",
    CauseKind.ERRORS: "failing",
    CauseKind.CRASH: "down",
    CauseKind.SATURATION: "saturated",
    CauseKind.CHANGE: "changed",
    CauseKind.TRAFFIC: "under unusual traffic",
    CauseKind.EXTERNAL: "hit by something outside",
}
_NAMED = 2
"""Affected services a sentence names before it counts the rest."""


def utc(time_ns: int) -> str:
    """Date and time of day to the second, UTC.

    >>> utc(0), utc(1_700_000_000_000_000_000)
    ('', '2023-11-14 22:13:20 UTC')
    """
    return f"{_moment(time_ns):%Y-%m-%d %H:%M:%S} UTC" if time_ns > 0 else ""


def iso(time_ns: int) -> str:
    """For `<time datetime>`."""
    return f"{_moment(time_ns):%Y-%m-%dT%H:%M:%SZ}" if time_ns > 0 else ""


def clock_time(time_ns: int) -> str:
    """Time of day only.

    >>> clock_time(1_700_000_000_000_000_000)
    '22:13:20'
    """
    return f"{_moment(time_ns):%H:%M:%S}" if time_ns > 0 else ""


def age(time_ns: int, now_ns: int) -> str:
    """How long ago, or how far ahead.

    >>> age(0, 1), age(10 * NS_PER_S, 15 * NS_PER_S), age(7300 * NS_PER_S, 100 * NS_PER_S)
    ('', '5 s ago', 'in 2 h')
    """
    if time_ns <= 0:
        return ""
    span = duration(abs(now_ns - time_ns))
    return f"{span} ago" if time_ns <= now_ns else f"in {span}"


def duration(span_ns: int) -> str:
    """The largest whole unit.

    >>> duration(90 * NS_PER_S), duration(3 * NS_PER_S)
    ('1 min', '3 s')
    """
    seconds = span_ns // NS_PER_S
    for size, unit in _AGES:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def percent(share: float) -> str:
    """
    >>> percent(0.874), percent(0.004), percent(0.9999), percent(float("nan"))
    ('87 %', '< 1 %', '> 99 %', '–')
    """
    if not math.isfinite(share):
        return "–"
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{share * 100:.0f} %"


def number(value: float, unit: str = "") -> str:
    """Three significant digits; seconds become milliseconds below one, ratios percent.

    >>> number(0.0123, "s"), number(1234.5), number(0.25, "1"), number(2.0, "1/s"), number(float("inf"))
    ('12.3 ms', '1.23 k', '25 %', '2 /s', '–')
    """
    if not math.isfinite(value):
        return "–"
    if unit == "s" and abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "1" and abs(value) <= 1:
        return percent(value)
    suffix = {"": "", "1": "", "s": " s", "1/s": " /s"}.get(unit, f" {unit}")
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}{suffix.strip()}"
    return f"{value:.3g}{suffix}"


def unit_of(metric: str) -> str:
    """The unit a metric's name ends with, as `number` takes it.

    >>> unit_of("service_latency_p95_seconds"), unit_of("service_error_ratio"), unit_of("cpu")
    ('s', '1', '')
    """
    name = metric.partition("{")[0].rstrip(")")
    for ending, unit in (("_seconds", "s"), ("_ratio", "1"), ("_rate", "1/s"), ("_bytes", "B")):
        if name.endswith(ending):
            return unit
    return ""


def listed(names: Sequence[str], *, limit: int = _NAMED) -> str:
    """
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c", "d"])
    ('a', 'a and b', 'a, b and 2 more')
    """
    if not names:
        return "nothing"
    if len(names) <= limit:
        return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"


def cause_words(hypothesis: Hypothesis) -> str:
    """What is to blame, in three words.

    >>> cause_words(Hypothesis(entity="service:default/payment", kind=CauseKind.LATENCY))
    'payment is slow'
    """
    what = _CAUSES.get(hypothesis.kind)
    return f"{entity_name(hypothesis.entity)} is {what}" if what else entity_name(hypothesis.entity)


def leading(diagnosis: Diagnosis | None) -> Hypothesis | None:
    """The first hypothesis, unless the diagnosis says that nothing known is to blame."""
    if diagnosis is None or diagnosis.none or not diagnosis.hypotheses:
        return None
    return diagnosis.hypotheses[0]


def affected(incident: Incident, diagnosis: Diagnosis | None) -> tuple[str, ...]:
    """Who is hurt, the most visible first: the end of the propagation path, then the rest, the cause left out."""
    cause = leading(diagnosis)
    path = tuple(reversed(cause.path)) if cause else ()
    ordered = dict.fromkeys((*path, *incident.entities))
    if cause is not None and len(ordered) > 1:
        ordered.pop(cause.entity, None)
    return tuple(ordered)


def sentence(incident: Incident, diagnosis: Diagnosis | None, now_ns: int) -> str:
    """The incident in one sentence: what, since when, who is hurt."""
    names = [entity_name(entity) for entity in affected(incident, diagnosis)]
    hurt = listed(names) if names else "nobody known"
    verb = "was" if incident.state is IncidentState.RESOLVED else "is"
    if len(names) > 1:
        verb = "were" if verb == "was" else "are"
    when = f"Since {utc(incident.opened_ns)}"
    if incident.state is IncidentState.RESOLVED and incident.resolved_ns > incident.opened_ns:
        when = f"For {duration(incident.resolved_ns - incident.opened_ns)} from {utc(incident.opened_ns)}"
    cause = leading(diagnosis)
    if cause is None:
        why = "no cause is known yet" if diagnosis is None else "nothing known here is to blame"
    elif diagnosis is not None and diagnosis.status is DiagnosisStatus.INCONCLUSIVE:
        why = f"the cause is not settled, {cause_words(cause)} fits best"
    else:
        why = f"most probably because {cause_words(cause)}"
    return f"{when} {hurt} {verb} affected; {why}."


def short(identifier: str) -> str:
    """The end of an id or digest: enough to tell two apart on a page."""
    return identifier if len(identifier) <= 12 else identifier[-8:]


def _moment(time_ns: int) -> datetime:
    # Times from senders may lie beyond what a calendar can hold; a page must still be shown.
    return datetime.fromtimestamp(min(time_ns / NS_PER_S, 253_402_300_799), tz=UTC)
