"""Clues from metrics: own time, own errors, consumption and silence of each entity.

What an entity shows may come from those it calls. So its extra time and errors count only as far as the
edges to its callees do not explain them, measured in milliseconds × calls and failures per second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headspring.analytics.diagnose.case import Case, Clue, Role, Series
from headspring.analytics.diagnose.roles import is_shared, words
from headspring.analytics.diagnose.severity import Deviation
from headspring.proto.incident import CauseKind
from headspring.proto.semantics import EDGE_ERROR_RATIO, EDGE_REQUEST_RATE, SERVICE_ERROR_RATIO, SERVICE_REQUEST_RATE

_CALM = 3.0
"""Robust deviations below which a metric says nothing."""


def strength(deviation: float, *, calm: float = _CALM) -> float:
    """0 at `calm` deviations, 1 at ten times that; logarithmic between, 0..1.3."""
    return float(np.clip(np.log(max(deviation, 1e-9) / calm) / np.log(10.0), 0.0, 1.3))


@dataclass(frozen=True, slots=True)
class View:
    """Deviations by entity, with their series."""

    case: Case
    deviations: Sequence[Deviation]

    def of(self, role: Role, *, outbound: bool = False) -> dict[str, Deviation]:
        """The most adverse deviation of a role per entity; the larger one wins, ties go to the first."""
        best: dict[str, Deviation] = {}
        for item in self.deviations:
            one = self.case.series[item.series]
            if (
                one.role is role
                and one.outbound == outbound
                and (one.entity not in best or item.adverse > best[one.entity].adverse)
            ):
                best[one.entity] = item
        return best

    def edges(self, metric: str) -> dict[tuple[str, str], Deviation]:
        """Deviation of an edge metric by (caller, callee)."""
        return {
            (one.entity, one.peer): item
            for item in self.deviations
            if (one := self.case.series[item.series]).metric == metric and one.outbound and one.peer
        }

    def named(self, metric: str) -> dict[str, Deviation]:
        return {one.entity: item for item in self.deviations if (one := self.case.series[item.series]).metric == metric}


def metric_clues(view: View) -> list[Clue]:
    """All metric clues, ordered by entity."""
    return [*_self_time(view), *_latency_of_its_own(view), *_own_errors(view), *_consumption(view)]


def clue(view: View, item: Deviation, llr: float, summary: str, cause: CauseKind, onset_ns: int = 0) -> Clue:
    """A clue with the figures of a deviation."""
    one: Series = view.case.series[item.series]
    return Clue(
        entity=one.entity,
        kind="metric",
        llr=llr,
        summary=summary,
        cause=cause,
        metric=one.metric,
        query=one.query,
        baseline=item.baseline,
        value=item.value,
        deviation=item.signed,
        onset_ns=onset_ns or int(one.time_ns[item.first]),
    )


def _self_time(view: View) -> list[Clue]:
    own = view.of(Role.SELF_TIME)
    rate = view.named(SERVICE_REQUEST_RATE)
    # Milliseconds per second that each entity adds: its extra time times how often it is called.
    added = {
        entity: max(item.value - item.baseline, 0.0) * max(rate[entity].baseline if entity in rate else 1.0, 1e-3)
        for entity, item in own.items()
        if item.adverse >= _CALM
    }
    total = sum(added.values())
    found = []
    for entity in sorted(added):
        item = own[entity]
        share = added[entity] / total if total > 0 else 0.0
        found.append(
            clue(
                view,
                item,
                (5.0 * share - 0.5) * min(1.0, strength(item.adverse) * 2),
                f"time in the service itself went from {item.baseline * 1e3:.0f} to {item.value * 1e3:.0f} ms "
                f"({share:.0%} of the added time)",
                CauseKind.LATENCY,
            )
        )
    return found


def _latency_of_its_own(view: View) -> list[Clue]:
    """Where no self time is measured: extra latency × calls, less what the callees add, as share of the whole.

    A callee's addition is charged to its callers by their traffic.
    """
    topology = view.case.topology
    if view.of(Role.SELF_TIME) or not topology.edges:
        return []
    latency = _mean_latency(view)
    traffic = view.of(Role.TRAFFIC)
    calls = {e: max(traffic[e].value, 0.0) if e in traffic else 1.0 for e in latency}
    extra = {e: max(item.value - item.baseline, 0.0) * calls[e] for e, item in latency.items()}
    own: dict[str, float] = {}
    for entity, item in latency.items():
        if item.adverse < _CALM:
            continue
        below = 0.0
        for callee in topology.callees(entity):
            callers = [caller for caller in topology.callers(callee) if caller in calls]
            all_calls = sum(calls[caller] for caller in callers)
            below += extra.get(callee, 0.0) * (calls[entity] / all_calls if all_calls > 0 else 0.0)
        own[entity] = max(extra[entity] - below, 0.0)
    total = sum(own.values())
    if total <= 0:
        return []
    return [
        clue(
            view,
            latency[entity],
            (4.5 * own[entity] / total - 0.7) * min(1.0, strength(latency[entity].adverse) * 2),
            f"adds {own[entity] / total:.0%} of the extra waiting that no callee explains",
            CauseKind.LATENCY,
        )
        for entity in sorted(own)
    ]


def _mean_latency(view: View) -> dict[str, Deviation]:
    """The latency metric that most entities share, means before quantiles."""
    by_metric: dict[str, dict[str, Deviation]] = defaultdict(dict)
    for item in view.deviations:
        one = view.case.series[item.series]
        if one.role is Role.LATENCY and not one.outbound and not one.peer:
            by_metric[one.metric].setdefault(one.entity, item)
    if not by_metric:
        return {}
    best = max(sorted(by_metric), key=lambda m: (len(by_metric[m]), bool(words(m) & {"mean", "avg", "average"})))
    return by_metric[best]


def _own_errors(view: View) -> list[Clue]:
    errors, rate = view.named(SERVICE_ERROR_RATIO), view.named(SERVICE_REQUEST_RATE)
    edge_errors, edge_rate = view.edges(EDGE_ERROR_RATIO), view.edges(EDGE_REQUEST_RATE)
    below: dict[str, float] = defaultdict(float)
    received: dict[str, float] = defaultdict(float)
    for (caller, callee), item in sorted(edge_errors.items()):
        calls = edge_rate[(caller, callee)].baseline if (caller, callee) in edge_rate else 1.0
        failing = max(item.value - item.baseline, 0.0) * calls
        below[caller] += failing
        received[callee] += failing
    own: dict[str, float] = {}
    for entity, item in errors.items():
        calls = rate[entity].baseline if entity in rate else 1.0
        if item.adverse >= _CALM:
            own[entity] = max(max(item.value - item.baseline, 0.0) * calls - below[entity], 0.0)
    silent = silences(view)
    for entity in silent:
        own[entity] = max(own.get(entity, 0.0), received[entity])
    total = sum(own.values())
    found = []
    for entity in sorted(errors):
        item = errors[entity]
        if item.adverse < _CALM:
            continue
        share = own.get(entity, 0.0) / total if total > 0 else 0.0
        found.append(
            clue(
                view,
                item,
                (4.0 * share - 0.8) * min(1.0, strength(item.adverse) * 2),
                f"errors went from {item.baseline:.1%} to {item.value:.1%}; {share:.0%} of what no callee explains",
                CauseKind.ERRORS,
            )
        )
    return found


def _consumption(view: View) -> list[Clue]:
    """Resources out of line; the strongest counts in full, each further metric a little."""
    by_entity: dict[str, dict[str, Deviation]] = defaultdict(dict)
    for item in view.deviations:
        one = view.case.series[item.series]
        if one.role not in (Role.RESOURCE, Role.OTHER) or one.outbound or one.peer:
            continue
        held = by_entity[one.entity].get(one.metric)
        if held is None or item.adverse > held.adverse:
            by_entity[one.entity][one.metric] = item
    found = []
    for _, metrics in sorted(by_entity.items()):
        ranked = sorted(metrics.items(), key=lambda pair: (-_weight(view, pair[1]) * pair[1].adverse, pair[0]))
        top = ranked[0][1]
        if _weight(view, top) * top.adverse < _CALM:
            continue
        more = sum(_weight(view, item) * float(np.log1p(item.adverse)) for _, item in ranked)
        llr = 2.4 * strength(_weight(view, top) * top.adverse) + 0.05 * min(more, 10.0)
        found.append(
            clue(
                view,
                top,
                llr,
                f"{ranked[0][0]} went from {top.baseline:.4g} to {top.value:.4g}",
                CauseKind.SATURATION,
            )
        )
    return found


def _weight(view: View, item: Deviation) -> float:
    """Shared machines' metrics and metrics of unknown meaning count less; falling consumption is a symptom."""
    one = view.case.series[item.series]
    weight = 0.15 if is_shared(one.metric) else 1.0
    if one.role is Role.OTHER:
        weight *= 0.5
    return weight * (0.3 if item.signed < 0 else 1.0)


def silences(view: View, *, share: float = 0.1) -> dict[str, Deviation]:
    """Entities whose traffic fell below `share` of its baseline."""
    return {
        entity: item
        for entity, item in sorted(view.of(Role.TRAFFIC).items())
        if item.baseline > 0 and item.value <= share * item.baseline and item.signed < -_CALM
    }


def symptom_strengths(view: View, starved: frozenset[str] = frozenset()) -> Mapping[str, float]:
    """Entity → adverse deviation of what its users notice (latency, errors, availability, no traffic), 0..CAP.

    Less traffic travels from caller to callee, so it says nothing about who is to blame further down: only silence
    counts, and not that of `starved` entities, which lack traffic because others do not ask.
    """
    found: dict[str, float] = {}
    for role in (Role.LATENCY, Role.ERRORS, Role.SUCCESS, Role.SELF_TIME):
        for entity, item in view.of(role).items():
            found[entity] = max(found.get(entity, 0.0), item.adverse)
    for entity, item in silences(view).items():
        if entity not in starved:
            found[entity] = max(found.get(entity, 0.0), -item.signed)
    return found
