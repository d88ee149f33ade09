"""Whether what a plan promised holds now: asked of the alerts that fired and of the metrics behind them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from headspring.action.plan.checks import decode_check
from headspring.action.runbooks.schema import Check
from headspring.action.views import Validation
from headspring.knowledge.documents.port import DocumentStore
from headspring.knowledge.series import promql
from headspring.knowledge.series.port import SeriesStore
from headspring.proto.action import Plan
from headspring.proto.clock import Clock
from headspring.proto.detection import AlertStatus
from headspring.proto.ids import entity_name

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


class MetricValidator:
    """Three-valued: what cannot be measured is inconclusive, never a pass."""

    def __init__(self, *, series: SeriesStore, documents: DocumentStore, clock: Clock) -> None:
        self._series = series
        self._documents = documents
        self._clock = clock

    def validate(self, plan: Plan) -> Validation:
        checks = [check for check in map(decode_check, plan.validation) if check is not None]
        found = [
            self._cleared(plan) if check.kind == "alerts_cleared" else self._query(plan, check) for check in checks
        ]
        if not found:
            return Validation(verdict="inconclusive", text="the plan names nothing to check")
        for verdict in ("fail", "inconclusive"):
            texts = [one.text for one in found if one.verdict == verdict]
            if texts:
                return Validation(verdict=verdict, text="; ".join(texts))
        return Validation(verdict="pass", text="; ".join(one.text for one in found))

    def _cleared(self, plan: Plan) -> Validation:
        incident = self._documents.incident(plan.tenant, plan.incident_id)
        if incident is None or not incident.members:
            return Validation(verdict="inconclusive", text="the incident's alerts are not known")
        firing = []
        for member in incident.members:
            latest = self._documents.alert(plan.tenant, member.alert.alert_id) or member.alert
            if latest.status is AlertStatus.FIRING:
                firing.append(f"{latest.name} on {entity_name(latest.entity)}")
        if firing:
            return Validation(verdict="fail", text=f"{len(firing)} still firing: {', '.join(sorted(set(firing))[:5])}")
        return Validation(verdict="pass", text=f"all {len(incident.members)} alerts have ended")

    def _query(self, plan: Plan, check: Check) -> Validation:
        found = promql.evaluate_instant(
            check.query, store=self._series, tenant=plan.tenant, time_ns=self._clock.now_ns()
        )
        values = [points[-1][1] for _, points in found if len(points)]
        if not values:
            return Validation(verdict="inconclusive", text=f"{check.query} has no data")
        holds = _COMPARE[check.comparator]
        bad = [value for value in values if not holds(value, check.threshold)]
        if bad:
            text = f"{check.query} is {bad[0]:g}, wanted {check.comparator} {check.threshold:g}"
            return Validation(verdict="fail", text=text)
        return Validation(verdict="pass", text=f"{check.query} is {check.comparator} {check.threshold:g}")
