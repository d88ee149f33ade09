"""How well an entity is, from the alerts about it: 1 is well, 0 is bad."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headspring.proto.detection import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    score: float
    """0 (bad) to 1 (well)."""
    reasons: tuple[str, ...] = ()
    """What pulls it down, worst first."""

    def __float__(self) -> float:
        return self.score


_LEFT = {Severity.CRITICAL: 0.1, Severity.ERROR: 0.4, Severity.WARNING: 0.7, Severity.INFO: 0.9}
"""Health left by the worst anomaly of each severity."""
_EACH_FURTHER = 0.9
"""Every further anomaly leaves this share of the rest."""
_MOST_REASONS = 10


def health(anomalies: Iterable[tuple[Severity, str]]) -> Health:
    """
    Args:
        anomalies: Severity and a sentence of each anomaly that lasts.

    >>> health([]).score
    1.0
    >>> health([(Severity.WARNING, "b"), (Severity.ERROR, "a")])
    Health(score=0.36, reasons=('a', 'b'))
    """
    ordered = sorted(anomalies, key=lambda one: (-one[0].rank, one[1]))
    if not ordered:
        return Health(score=1.0)
    score = _LEFT.get(ordered[0][0], 0.9) * _EACH_FURTHER ** (len(ordered) - 1)
    return Health(score=round(score, 6), reasons=tuple(text for _, text in ordered[:_MOST_REASONS]))
