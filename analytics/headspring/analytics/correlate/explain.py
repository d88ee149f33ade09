"""Which alert of an incident says most about it."""

from __future__ import annotations

from collections.abc import Sequence

from headspring.analytics.correlate.regions import Evidence, explained_by
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Kind, Signal


def most_explanatory(signals: Sequence[Signal], shape: Shape) -> Signal:
    """The alert on the deepest callee that the most alerted entities sit above; then earliest, then severest.

    Args:
        signals: At least one.
        shape: Topology they are in.
    """
    evidence = {
        signal.entity: Evidence(onset_ns=0, last_ns=0, alerts=1, rank=0, causal=True, pressed=False)
        for signal in signals
        if signal.kind is not Kind.STARVATION
    } or {
        signal.entity: Evidence(onset_ns=0, last_ns=0, alerts=1, rank=0, causal=True, pressed=False)
        for signal in signals
    }
    above = explained_by(evidence, shape)
    return min(
        (signal for signal in signals if signal.entity in evidence),
        key=lambda signal: (
            signal.kind is Kind.STARVATION,
            -above[signal.entity],
            signal.time_ns,
            -signal.rank,
            signal.alert_id,
        ),
    )
