"""Which runbooks fit a diagnosis, best first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headspring.action.runbooks.conditions import holds
from headspring.action.runbooks.schema import Runbook
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.ids import ENTITY_KINDS
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident

_SPECIFIC = 0.15
"""Weight of how narrowly a runbook describes its case, against probability. A choice: a runbook made for the case
beats a general one of the same hypothesis, and does not lift an unlikely cause over a likely one by more than this."""

_RISK = {"low": 0.0, "medium": 0.01, "high": 0.02}
"""Breaks ties towards the gentler runbook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A runbook that fits a hypothesis, and why."""

    runbook: Runbook
    hypothesis: Hypothesis
    score: float
    reasons: tuple[str, ...] = ()


def candidates(diagnosis: Diagnosis, incident: Incident, runbooks: Mapping[str, Runbook]) -> list[Match]:
    """Runbooks for what the diagnosis blames, best first; [] where it is inconclusive or blames nothing.

    A runbook that only reads comes after everything that helps.
    """
    if diagnosis.none or diagnosis.status not in (DiagnosisStatus.CONFIRMED, DiagnosisStatus.LIKELY):
        return []
    found = [
        match
        for hypothesis in diagnosis.hypotheses
        for runbook in runbooks.values()
        if (match := _match(runbook, hypothesis, diagnosis, incident)) is not None
    ]
    return sorted(found, key=lambda one: (one.runbook.read_only, -one.score, one.runbook.name, one.hypothesis.entity))


def _match(runbook: Runbook, hypothesis: Hypothesis, diagnosis: Diagnosis, incident: Incident) -> Match | None:
    wanted = runbook.match
    kind = hypothesis.entity.partition(":")[0]
    change = _known_change(hypothesis, diagnosis)
    if hypothesis.kind not in wanted.cause_kinds or hypothesis.kind is CauseKind.UNSPECIFIED:
        return None
    if wanted.entity_kinds and kind not in wanted.entity_kinds:
        return None
    if hypothesis.probability < wanted.min_probability or (wanted.needs_change and not change):
        return None
    try:
        if not holds(wanted.condition, hypothesis=hypothesis, diagnosis=diagnosis, incident=incident):
            return None
    except (ConfigError, PreconditionFailed):  # a condition that cannot be answered is not met
        return None
    reasons = [f"{hypothesis.kind.value} on a {kind}, {hypothesis.probability:.0%} probable"]
    if wanted.needs_change:
        reasons.append(f"change {hypothesis.change_id} is blamed")
    if wanted.condition:
        reasons.append(f"its condition holds: {wanted.condition}")
    score = hypothesis.probability + _SPECIFIC * _specificity(runbook) - _RISK[runbook.risk]
    return Match(runbook=runbook, hypothesis=hypothesis, score=score, reasons=tuple(reasons))


def _known_change(hypothesis: Hypothesis, diagnosis: Diagnosis) -> bool:
    return bool(hypothesis.change_id) and any(one.change_id == hypothesis.change_id for one in diagnosis.changes)


def _specificity(runbook: Runbook) -> float:
    """0..3: a needed change counts most, then a condition, then how few kinds of things it takes."""
    wanted = runbook.match
    kinds = len(wanted.entity_kinds) or len(ENTITY_KINDS)
    breadth = (kinds / len(ENTITY_KINDS) + len(wanted.cause_kinds) / len(CauseKind)) / 2
    return 1.5 * wanted.needs_change + 0.5 * bool(wanted.condition) + (1.0 - breadth)
