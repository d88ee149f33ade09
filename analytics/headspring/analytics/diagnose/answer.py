"""Probabilities and clues into a `Diagnosis`: hypotheses, paths, what is explained, what is ruled out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from headspring.analytics.diagnose.case import Case, Clue
from headspring.analytics.diagnose.posterior import CAPS, Posterior, reach
from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Evidence, Hypothesis

MAX_HYPOTHESES = 5
_CONFIRMED, _LIKELY = 0.85, 0.5
"""Probabilities from which a hypothesis counts as confirmed (with two kinds of evidence) or likely."""
_CONFIRMING = ("trace", "metric", "rule", "log")
_MAX_EVIDENCE = 12
_RULED_OUT = 0.05
_NEAR_CHANGES_S = 3600


def answer(
    case: Case,
    clues: Sequence[Clue],
    posterior: Posterior,
    symptoms: Mapping[str, float],
    paths: Mapping[str, tuple[str, ...]],
    alerted: Sequence[str],
    *,
    target_calm: bool,
    onset_ns: int,
    method: str,
    seconds: float,
    outside: str = "",
) -> Diagnosis:
    """The answer; statuses are INCONCLUSIVE throughout when what is to be explained did not happen."""
    by_entity: dict[str, list[Clue]] = defaultdict(list)
    for clue in clues:
        by_entity[clue.entity].append(clue)
    ranked = sorted(
        posterior.probability,
        key=lambda e: (-round(posterior.probability[e], 9), -posterior.own.get(e, 0.0), -symptoms.get(e, 0.0), e),
    )
    affected = sorted(entity for entity, llr in symptoms.items() if llr > 0)
    made = []
    for entity in ranked:
        probability = posterior.probability[entity]
        status = DiagnosisStatus.INCONCLUSIVE if target_calm else _status(probability, by_entity[entity])
        made.append(_hypothesis(case, entity, probability, status, by_entity[entity], paths, alerted, affected))
    top = made[:MAX_HYPOTHESES]
    best = top[0] if top else None
    # Trouble that comes from outside has a first victim here, but nothing here is to blame.
    none = best is None or posterior.none > best.probability or bool(outside)
    for_others = [one for one in made[1:] if one.probability < _LIKELY][: 2 * MAX_HYPOTHESES]
    ruled_out = tuple(_with_reason(one, best, by_entity) for one in for_others if by_entity[one.entity])
    return Diagnosis(
        incident_id=case.incident_id,
        tenant=case.tenant,
        created_ns=case.now_ns,
        status=best.status if best and not none else DiagnosisStatus.INCONCLUSIVE,
        none=none,
        hypotheses=tuple(top[:1] + [_with_reason(one, best, by_entity) for one in top[1:]]),
        ruled_out=tuple(one for one in ruled_out if one.probability < _RULED_OUT),
        missing_telemetry=_missing(case, alerted),
        changes=tuple(
            change
            for change in case.changes
            if onset_ns - _NEAR_CHANGES_S * NS_PER_S <= change.time_ns <= max(onset_ns, case.detected_ns)
        )[:20],
        method=method,
        seconds=seconds,
        would_settle=f"comes from outside: {outside}" if outside else _would_settle(case, top),
    )


def _status(probability: float, clues: Sequence[Clue]) -> DiagnosisStatus:
    kinds = {clue.kind for clue in clues if clue.llr > 0.5 and clue.kind in _CONFIRMING}
    if probability >= _CONFIRMED and len(kinds) >= 2:
        return DiagnosisStatus.CONFIRMED
    return DiagnosisStatus.LIKELY if probability >= _LIKELY else DiagnosisStatus.INCONCLUSIVE


def _hypothesis(
    case: Case,
    entity: str,
    probability: float,
    status: DiagnosisStatus,
    clues: Sequence[Clue],
    paths: Mapping[str, tuple[str, ...]],
    alerted: Sequence[str],
    affected: Sequence[str],
) -> Hypothesis:
    ordered = sorted(clues, key=lambda c: (-abs(c.llr), c.kind, c.metric, c.summary))
    supporting = [clue for clue in ordered if clue.llr > 0]
    kind = _kind(supporting)
    change_id = next((clue.change_id for clue in supporting if clue.change_id), "")
    if change_id and kind in (CauseKind.LATENCY, CauseKind.ERRORS, CauseKind.UNSPECIFIED):
        kind = CauseKind.CHANGE
    node = case.topology.by_entity.get(entity)
    if node is not None and node.kind == "external":
        kind = CauseKind.EXTERNAL
    metric = next((clue.metric for clue in supporting if clue.metric), "")
    spread = reach(case.topology, entity)
    explained = tuple(e for e in affected if spread.get(e, 0.0) > 0.05)
    lead = supporting[0].summary if supporting else "nothing else explains the symptoms better"
    return Hypothesis(
        entity=entity,
        kind=kind,
        metric=metric,
        probability=probability,
        status=status,
        summary=f"{entity_name(entity)}: {lead}",
        evidence=tuple(_evidence(clue) for clue in ordered[:_MAX_EVIDENCE]),
        path=_path(case, entity, paths, alerted),
        explained=explained,
        unexplained=tuple(e for e in affected if e not in explained),
        change_id=change_id,
    )


def _kind(supporting: Sequence[Clue]) -> CauseKind:
    weight: dict[CauseKind, float] = defaultdict(float)
    for clue in supporting:
        if clue.cause not in (CauseKind.UNSPECIFIED, CauseKind.CHANGE):
            weight[clue.cause] += clue.llr
    if weight.get(CauseKind.CRASH, 0.0) >= 2.0:
        return CauseKind.CRASH
    return max(sorted(weight), key=lambda kind: weight[kind]) if weight else CauseKind.UNSPECIFIED


def _path(case: Case, entity: str, paths: Mapping[str, tuple[str, ...]], alerted: Sequence[str]) -> tuple[str, ...]:
    """Walked path if there is one, else the shortest to an alerted entity: up to its callers, then any way."""
    if entity in paths:
        return paths[entity]
    if entity in alerted:
        return (entity,)
    for down in (False, True, None):
        found = [path for start in alerted if (path := case.topology.path(entity, start, down=down))]
        if found:
            return min(found, key=lambda path: (len(path), path))
    return ()


def _evidence(clue: Clue) -> Evidence:
    return Evidence(
        kind=clue.kind,
        summary=clue.summary,
        entity=clue.entity,
        metric=clue.metric,
        query=clue.query,
        baseline=clue.baseline,
        value=clue.value,
        deviation=clue.deviation,
        onset_ns=clue.onset_ns,
        weight=max(-CAPS.get(clue.kind, 2.0), min(CAPS.get(clue.kind, 2.0), clue.llr)),
    )


def _with_reason(one: Hypothesis, best: Hypothesis | None, by_entity: Mapping[str, Sequence[Clue]]) -> Hypothesis:
    """The same with `why_not`: the strongest thing against it, or what the first hypothesis has more."""
    if best is None:
        return one
    against = sorted((c for c in by_entity[one.entity] if c.llr < 0), key=lambda c: (c.llr, c.summary))
    if against:
        why = against[0].summary
    else:
        held = {c.kind for c in by_entity[one.entity] if c.llr > 0.5}
        lead = [c for c in by_entity[best.entity] if c.llr > 0.5 and c.kind not in held]
        name = entity_name(best.entity)
        if lead:
            strongest = max(lead, key=lambda c: (c.llr, c.summary))
            why = f"only {name} {strongest.summary}"
        elif len(one.unexplained) > len(best.unexplained):
            why = f"leaves {len(one.unexplained)} symptoms unexplained, {name} {len(best.unexplained)}"
        else:
            why = f"its evidence is weaker than that of {name}, which explains its symptoms too"
    names = ("entity", "kind", "metric", "probability", "status", "summary", "evidence", "path", "explained")
    kept = {name: getattr(one, name) for name in (*names, "unexplained", "change_id")}
    return Hypothesis(**kept, why_not=why)


def _missing(case: Case, alerted: Sequence[str]) -> tuple[str, ...]:
    """Telemetry that would have helped and was not there."""
    missing = [f"{what}: the store does not answer" for what in case.unavailable]
    if case.spans is None or not len(case.spans):
        missing.append("traces of the window")
    if (case.logs is None or not len(case.logs)) and "logs" not in case.unavailable:
        missing.append("logs of the window")
    if not case.topology.edges and "topology" not in case.unavailable:
        missing.append("topology")
    measured = {series.entity for series in case.series}
    missing += [f"metrics of {entity_name(entity)}" for entity in alerted if entity not in measured]
    return tuple(missing)


def _would_settle(case: Case, top: Sequence[Hypothesis]) -> str:
    """What to look at next when the first two are close."""
    if not top or top[0].status is DiagnosisStatus.CONFIRMED:
        return ""
    first = entity_name(top[0].entity)
    if len(top) > 1 and top[1].probability > 0.3 * top[0].probability:
        second = entity_name(top[1].entity)
        if case.spans is None or not len(case.spans):
            return f"traces that pass {first} and {second} would show which of the two is slow or fails first"
        return f"the time inside {first} and inside {second}, compared over the next minutes, would tell them apart"
    if case.logs is None or not len(case.logs):
        return f"the logs of {first} since the onset would confirm or refute it"
    return f"recovery of the symptoms after acting on {first} would confirm it"
