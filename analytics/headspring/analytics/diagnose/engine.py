"""The diagnosis of one case: kernels in order, then probabilities, then an answer that says what it knows.

Pure and deterministic: nothing depends on hash order or on the clock, except that kernels which would
start after the deadline are left out (the answer then names that in `method`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from headspring.analytics.diagnose.answer import answer
from headspring.analytics.diagnose.case import Case, Clue, Role
from headspring.analytics.diagnose.changes import change_clues, outside_cause
from headspring.analytics.diagnose.logs import level, log_clues
from headspring.analytics.diagnose.metrics import View, metric_clues, symptom_strengths
from headspring.analytics.diagnose.onset import Onset, onset
from headspring.analytics.diagnose.paths import path_clues
from headspring.analytics.diagnose.posterior import infer, own_evidence
from headspring.analytics.diagnose.roles import is_demand
from headspring.analytics.diagnose.rules import crash_clues, no_demand, starved
from headspring.analytics.diagnose.severity import CAP, Deviation, deviations
from headspring.analytics.diagnose.spans import EMPTY
from headspring.analytics.diagnose.traces import TraceFacts, joined, select, trace_facts
from headspring.knowledge.topology.graph import EdgeType
from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import entity_name
from headspring.proto.incident import Diagnosis

_ALERT_LAG_NS = 60 * NS_PER_S
"""Without a measurable onset, trouble is assumed to have begun at most this long before the first alert…"""
_SURE_NS = 20 * NS_PER_S
"""…and to be there for certain this long before it."""
_LOOK_BACK_NS = 180 * NS_PER_S
"""An onset earlier than this before the first alert is something else."""
CALM_LLR = -0.7
TARGET_CALM = 3.0
_DECISIVE = 2.0
_ENOUGH_SPANS = 60
_MAX_TEXT_LINES, _MAX_TEXTS = 5_000, 200
_STEP_NS = 25 * NS_PER_S


def diagnose(case: Case, *, deadline_s: float = 5.0) -> Diagnosis:
    """Ranked causes with evidence; `none` and INCONCLUSIVE are legal answers."""
    began = time.monotonic()

    def in_time() -> bool:
        return time.monotonic() - began < deadline_s

    found = deviations(case.series, case.normal, case.window)
    view = View(case, found)
    onsets = _onsets(case, found)
    alerted = tuple(dict.fromkeys(alert.entity for alert in case.alerts if alert.entity))
    start_ns, sure_ns = _begin(case, found, onsets, alerted)
    methods = ["rules"]
    facts = TraceFacts(clues=(), symptoms={}, unreachable=frozenset())
    if in_time() and case.spans is not None and len(case.spans):
        facts = _traces(case, start_ns, sure_ns, alerted)
        methods.append("traces")
    clues: list[Clue] = [*facts.clues, *crash_clues(view, facts.unreachable), *metric_clues(view)]
    if in_time() and case.logs is not None and len(case.logs):
        clues += log_clues(case.logs, start_ns, case.window[1], _called(case))
        methods.append("logs")
    value = _walk_values(view, facts)
    walked, paths = path_clues(case.topology, value, alerted)
    clues += walked
    first = _first_onsets(case, found, onsets)
    clues += _order(case, first, own_evidence(clues))
    texts = _error_texts(case, start_ns)
    # A crash is at fault whatever the lines say; extra time or failures in its own spans outweigh mere traffic.
    crashed = any(one.kind == "rule" and one.llr > _DECISIVE for one in clues)
    seen = any(one.kind == "trace" and one.llr > _DECISIVE for one in clues)
    ratio = 1.0 if seen else _traffic_ratio(view, alerted)
    outside = "" if crashed or not case.changes else outside_cause(texts, ratio)
    if not crashed and not seen and case.target is None:
        outside = outside or no_demand(view, alerted, facts.unreachable)
    if not outside:
        clues += change_clues(
            case.changes,
            own_evidence(clues),
            sure_ns,
            onsets=_usual_onsets(case, found, onsets),
            tolerance_ns=10 * NS_PER_S,
            texts=texts,
        )
    clues = [one for one in clues if one.entity not in case.elsewhere]
    symptoms = _symptoms(value, facts, alerted, case)
    posterior = infer(clues, symptoms, case.topology)
    methods.append("bayes")
    return answer(
        case,
        clues,
        posterior,
        symptoms,
        paths,
        alerted,
        target_calm=_target_calm(case, found),
        onset_ns=sure_ns,
        method="+".join(methods if in_time() else [*methods, "deadline"]),
        seconds=time.monotonic() - began,
        outside=outside,
    )


def _called(case: Case) -> dict[str, list[str]]:
    """Entity → names of what it calls."""
    return {
        entity: [entity_name(edge.callee) for edge in edges if edge.type is not EdgeType.RUNS_ON]
        for entity, edges in case.topology.out_edges.items()
    }


def _onsets(case: Case, found: Sequence[Deviation]) -> dict[int, Onset]:
    """Series index → onset within the window, for series that deviate."""
    result = {}
    for item in found:
        if item.adverse < TARGET_CALM:
            continue
        one = case.series[item.series]
        low, high = np.searchsorted(one.time_ns, case.window)
        scores = np.clip((one.value[low:high] - item.baseline) / item.scale, -CAP, CAP)
        begin = onset(one.time_ns[low:high], np.nan_to_num(scores))
        if begin is not None:
            result[item.series] = begin
    return result


def _begin(
    case: Case, found: Sequence[Deviation], onsets: Mapping[int, Onset], alerted: Sequence[str]
) -> tuple[int, int]:
    """(earliest time trouble may have begun, a time at which it had begun for certain)."""
    detected = case.detected_ns or case.window[0]
    times = sorted(
        (begin.time_ns, begin.uncertainty_ns)
        for item in found
        if (begin := onsets.get(item.series)) is not None
        and case.series[item.series].role in (Role.LATENCY, Role.ERRORS, Role.SUCCESS, Role.SELF_TIME)
        and (not alerted or case.series[item.series].entity in alerted)
        and detected - _LOOK_BACK_NS <= begin.time_ns <= detected + begin.uncertainty_ns
    )
    if times and times[0][1] <= 15 * NS_PER_S:
        return times[0][0] - times[0][1], times[0][0]
    return max(detected - _ALERT_LAG_NS, case.window[0]), max(detected - _SURE_NS, case.window[0])


def _traces(case: Case, start_ns: int, sure_ns: int, alerted: Sequence[str]) -> TraceFacts:
    """Spans before the earliest possible onset against spans from the certain one on.

    Only traces that pass an alerted entity count, where there are enough: others are not part of the trouble.
    """
    spans = joined(
        case.normal_spans if case.normal_spans is not None else EMPTY, case.spans if case.spans is not None else EMPTY
    )
    end_ns = spans.start_ns + spans.duration_ns
    touched = set(spans.trace_id[np.isin(spans.entity, list(alerted))].tolist())
    through = np.fromiter((trace in touched for trace in spans.trace_id), dtype=np.bool_, count=len(spans))
    best: tuple[float, TraceFacts] | None = None
    # A measured onset is one boundary. Otherwise several are tried, and the one that parts the spans best is kept.
    coarse = sure_ns - start_ns > 2 * _STEP_NS // 2
    for boundary in [(start_ns, sure_ns)] if not coarse else [(sure_ns - k * _STEP_NS,) * 2 for k in range(5)]:
        before, after = end_ns < boundary[0], end_ns >= boundary[1]
        if (through & before).sum() >= _ENOUGH_SPANS and (through & after).sum() >= _ENOUGH_SPANS:
            before, after = before & through, after & through
        if coarse and after.sum() < _ENOUGH_SPANS:
            continue
        facts = trace_facts(
            select(spans, before), select(spans, after), case.topology, ignore=case.elsewhere, logs=case.logs
        )
        parted = max((clue.deviation * clue.llr for clue in facts.clues if clue.llr > 0), default=0.0)
        if best is None or parted > best[0]:
            best = (parted, facts)
    return best[1] if best is not None else trace_facts(EMPTY, spans, case.topology, ignore=case.elsewhere)


def _walk_values(view: View, facts: TraceFacts) -> dict[str, float]:
    """Entity → deviation for the walk: of the target's metric where several entities have it, else of all symptoms."""
    case = view.case
    if case.target is not None:
        same = view.named(case.target[1])
        if len(same) > 1 and same.get(case.target[0]) is not None:
            return {entity: item.adverse for entity, item in same.items()}
    value = dict(symptom_strengths(view, starved(view, facts.unreachable)))
    for entity, strength in facts.symptoms.items():
        value[entity] = max(value.get(entity, 0.0), 30.0 * strength)
    for entity in facts.unreachable:
        value[entity] = CAP
    return value


def _error_texts(case: Case, start_ns: int) -> list[str]:
    """What alerts and error lines since the onset say, each text once."""
    texts = dict.fromkeys(alert.summary for alert in case.alerts if alert.summary)
    if case.logs is not None:
        first = int(np.searchsorted(case.logs.time_ns, start_ns))
        for row in range(first, min(len(case.logs), first + _MAX_TEXT_LINES)):
            body = str(case.logs.body[row])
            if level(int(case.logs.severity[row]), body) != "info":
                texts.setdefault(body)
    return list(texts)[:_MAX_TEXTS]


def _traffic_ratio(view: View, alerted: Sequence[str]) -> float:
    """Traffic of the alerted entities over their normal; the largest."""
    return max(
        (
            item.value / item.baseline
            for item in view.deviations
            if (one := view.case.series[item.series]).entity in alerted
            and one.role is Role.TRAFFIC
            and not one.outbound
            and is_demand(one.metric)
            and item.baseline > 0
        ),
        default=1.0,
    )


def _first_onsets(
    case: Case, found: Sequence[Deviation], onsets: Mapping[int, Onset]
) -> dict[str, tuple[int, int, int]]:
    """Entity → (time, uncertainty, series) of its first clear deviation of its own."""
    first: dict[str, tuple[int, int, int]] = {}
    for item in found:
        begin = onsets.get(item.series)
        if begin is None or case.series[item.series].outbound or item.adverse < 2 * TARGET_CALM:
            continue
        key = (begin.time_ns, begin.uncertainty_ns, item.series)
        entity = case.series[item.series].entity
        if entity not in first or key < first[entity]:
            first[entity] = key
    return first


def _usual_onsets(case: Case, found: Sequence[Deviation], onsets: Mapping[int, Onset]) -> dict[str, int]:
    """Entity → median of when its clear deviations began.

    What caused them came before most of them. The first alone may be noise: a busy minute before, a pause.
    """
    times: dict[str, list[int]] = defaultdict(list)
    for item in found:
        begin = onsets.get(item.series)
        one = case.series[item.series]
        if begin is not None and not one.outbound and item.adverse >= 2 * TARGET_CALM:
            times[one.entity].append(begin.time_ns)
    return {entity: sorted(group)[len(group) // 2] for entity, group in times.items()}


def _order(case: Case, first: Mapping[str, tuple[int, int, int]], own: Mapping[str, float]) -> list[Clue]:
    """Entities that left normal clearly first get a little more, if something else already speaks for them."""
    if len(first) < 2:
        return []
    ranked = sorted((key[0], entity) for entity, key in first.items())
    clues = []
    for entity, (time_ns, uncertainty_ns, series) in sorted(first.items()):
        others = [at for at, name in ranked if name != entity]
        lead_ns = min(others) - time_ns
        if own.get(entity, 0.0) <= 0 or lead_ns <= uncertainty_ns:
            continue
        one = case.series[series]
        clues.append(
            Clue(
                entity=entity,
                kind="onset",
                llr=0.7,
                summary=f"left its normal {lead_ns / NS_PER_S:.0f} s before anything else",
                metric=one.metric,
                query=one.query,
                onset_ns=time_ns,
            )
        )
    return clues


def _symptoms(value: Mapping[str, float], facts: TraceFacts, alerted: Sequence[str], case: Case) -> dict[str, float]:
    """Entity → log-likelihood ratio of "affected"."""
    result: dict[str, float] = defaultdict(float)
    for entity, deviation in value.items():
        result[entity] = float(np.clip(1.7 * np.log(max(deviation, 1.2) / 3.0), CALM_LLR, 4.0))
    for entity, strength in facts.symptoms.items():
        result[entity] = max(result[entity], 4.0 * strength)
    for entity in facts.unreachable:
        result[entity] = max(result[entity], 3.0)
    for entity in alerted:
        result[entity] = max(result[entity], 1.5)
    return {entity: value for entity, value in result.items() if entity not in case.elsewhere or entity in alerted}


def _target_calm(case: Case, found: Sequence[Deviation]) -> bool:
    """The metric that is to be explained was measured and does not deviate."""
    if case.target is None:
        return False
    own = [
        item.adverse
        for item in found
        if (case.series[item.series].entity, case.series[item.series].metric) == case.target
    ]
    return bool(own) and max(own) < TARGET_CALM
