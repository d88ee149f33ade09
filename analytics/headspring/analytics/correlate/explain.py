"""Which alert of an incident says most about it.

Two things count: how rarely a definition takes part in incidents (what fires in every one tells nothing),
and whether something deeper explains it (errors and latency at a caller are expected while a callee has them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headspring.analytics.correlate.regions import Evidence, explained_by, reach_of
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Kind, Signal

_EXPLAINED = 0.2
"""Weight of a symptom that an alerted callee explains, or of traffic that is missing because of a caller."""
_DEPTH = 0.5
"""How much it helps an entity that all the others sit above it."""


def most_explanatory(signals: Sequence[Signal], shape: Shape, surprise: Mapping[str, float]) -> Signal:
    """The alert to show for an incident.

    Args:
        signals: At least one.
        shape: Topology they are in.
        surprise: By alert id, above 0: rarity of the definition, nats.
    """
    alerted: dict[str, Evidence] = {
        signal.entity: Evidence(onset_ns=0, last_ns=0, alerts=1, rank=0, causal=True, pressed=False)
        for signal in signals
    }
    felt = {signal.entity for signal in signals if signal.kind is Kind.SYMPTOM}
    above, reach = explained_by(alerted, shape), reach_of(felt, shape)
    weight = dict.fromkeys(alerted, 0.0)
    onset: dict[str, int] = {}
    for signal in signals:
        explained = signal.kind is Kind.STARVATION or (
            signal.kind is Kind.SYMPTOM and any(signal.entity not in reach[one] for one in reach[signal.entity])
        )
        weight[signal.entity] += surprise[signal.alert_id] * (_EXPLAINED if explained else 1.0)
        onset[signal.entity] = min(onset.get(signal.entity, signal.time_ns), signal.time_ns)
    # Missing traffic alone travels from caller to callee, so it begins where no caller misses any.
    only_starved = all(signal.kind is Kind.STARVATION for signal in signals)
    fed_by = {one: sum(caller in alerted for caller in shape.callers(one)) if only_starved else 0 for one in alerted}
    most = max(1, len(alerted) - 1)
    best = min(
        alerted,
        key=lambda one: (fed_by[one] > 0, -round(weight[one] * (1 + _DEPTH * above[one] / most), 9), onset[one], one),
    )
    return min(
        (signal for signal in signals if signal.entity == best),
        key=lambda signal: (
            signal.kind is Kind.STARVATION,
            -round(surprise[signal.alert_id], 9),
            signal.time_ns,
            -signal.rank,
            signal.alert_id,
        ),
    )
