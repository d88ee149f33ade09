"""Charts beside evidence: each claim's own query, run over the time around the incident."""

from __future__ import annotations

from collections.abc import Sequence

from headspring.gateway.ui.chart import Chart, Points, chart, normal_range
from headspring.knowledge.series import promql
from headspring.knowledge.series.port import SeriesStore
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import PlatformError
from headspring.proto.incident import Diagnosis, Evidence, Incident

_BEFORE_NS = 10 * 60 * NS_PER_S
_AFTER_NS = 5 * 60 * NS_PER_S
_MAX_SPAN_NS = 6 * 3600 * NS_PER_S
"""A week-long incident is drawn over its first hours, where it began."""
_POINTS = 120
_MAX_CHARTS = 16
"""Queries a page may cost."""
_MAX_LINES = 6


def charts_for(
    store: SeriesStore, tenant: str, incident: Incident, diagnosis: Diagnosis | None, now_ns: int
) -> dict[str, Chart]:
    """Charts by query text; a query that cannot be answered has none, its link says why when it is followed."""
    if diagnosis is None:
        return {}
    end_ns = min(now_ns, (incident.resolved_ns or now_ns) + _AFTER_NS, incident.opened_ns + _MAX_SPAN_NS)
    start_ns = min(incident.opened_ns, end_ns) - _BEFORE_NS
    items = [item for hypothesis in (*diagnosis.hypotheses, *diagnosis.ruled_out) for item in hypothesis.evidence]
    charts: dict[str, Chart] = {}
    for item in items:
        if not item.query or item.query in charts:
            continue
        if len(charts) >= _MAX_CHARTS:
            break
        drawn = _draw(store, tenant, item, incident.opened_ns, start_ns, end_ns)
        if drawn is not None:
            charts[item.query] = drawn
    return charts


def _draw(store: SeriesStore, tenant: str, item: Evidence, opened_ns: int, start_ns: int, end_ns: int) -> Chart | None:
    try:
        series = run(store, tenant, item.query, start_ns, end_ns)
    except PlatformError:
        return None
    onset_ns = item.onset_ns or opened_ns
    normal = normal_range(series[0][1], onset_ns) if len(series) == 1 else None
    return chart([points for _, points in series], onset_ns=onset_ns, normal=normal)


def run(
    store: SeriesStore, tenant: str, query: str, start_ns: int, end_ns: int, *, max_lines: int = _MAX_LINES
) -> Sequence[tuple[dict[str, str], Points]]:
    """A range query in about `_POINTS` steps; the first `max_lines` series.

    Raises:
        QueryError: outside the declared subset.
        LimitExceeded: it touches too much.
    """
    step_ns = max(NS_PER_S, (end_ns - start_ns) // _POINTS // NS_PER_S * NS_PER_S)
    found = promql.evaluate_range(query, store=store, tenant=tenant, start_ns=start_ns, end_ns=end_ns, step_ns=step_ns)
    return [
        (dict(labels), [(int(time), float(value)) for time, value in points]) for labels, points in found[:max_lines]
    ]
