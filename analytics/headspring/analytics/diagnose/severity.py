"""How far each series is from its normal, in robust deviations with floors.

Spreads are floored so that near-constant series cannot explode (the known defect of median/MAD scores),
and results are capped so that no single series can outvote everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.diagnose.case import Role, Series

CAP = 50.0
"""Largest deviation that is told apart, robust standard deviations."""
_IQR_PER_SIGMA = 1.349
_RELATIVE_FLOOR = 0.05
"""Of the median: changes below a few percent are never an incident by themselves."""
_ROLE_FLOOR = {
    Role.LATENCY: 5e-4,  # seconds
    Role.SELF_TIME: 5e-4,
    Role.ERRORS: 5e-3,  # half a percentage point
    Role.TRAFFIC: 0.1,  # requests per second
}
_PERCENT_FLOOR = 0.5
"""Percentage points, for shares that are given as 0..100."""
MIN_NORMAL = 5
"""Samples without which there is no normal to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """What one series did in the window."""

    series: int
    """Index into the case's series."""
    signed: float
    """Robust deviations, -CAP..CAP."""
    adverse: float
    """The part of it that is bad news, 0..CAP: up for latency and errors, down for success, either for the rest."""
    baseline: float
    value: float
    scale: float
    first: int
    """Index (within the series) where the strongest stretch begins."""


def spread(normal: NDArray[np.float64], role: Role) -> tuple[float, float]:
    """Median and floored spread of the normal samples, shape (n,), n ≥ 1."""
    low, median, high = (float(x) for x in np.quantile(normal, (0.25, 0.5, 0.75)))
    floor = _ROLE_FLOOR.get(role, 0.0)
    if role is Role.SUCCESS:
        floor = _PERCENT_FLOOR if median > 1.5 else _PERCENT_FLOOR / 100
    relative = 0.0 if role is Role.SUCCESS else _RELATIVE_FLOOR * abs(median)
    deviation = float(np.std(normal, ddof=1)) if normal.size > 1 else 0.0
    return median, max((high - low) / _IQR_PER_SIGMA, 0.5 * deviation, relative, floor, 1e-6)


def stretch(scores: NDArray[np.float64]) -> tuple[float, int, int]:
    """Signed score of the strongest sustained stretch of a window, where it begins and its length.

    Short windows (8 samples or fewer) use the 90 % quantile; longer ones the rolling median over a tenth of
    the window (at least 3 samples) that is largest in size, so that one odd sample counts for nothing.
    """
    n = scores.size
    if n <= 8:
        at = int(np.argmax(np.abs(scores)))
        size = float(np.quantile(np.abs(scores), 0.9))
        return float(np.copysign(size, scores[at])), at, 1
    width = int(min(max(3, n // 10), 30))
    rolled = np.median(np.lib.stride_tricks.sliding_window_view(scores, width), axis=1)
    at = int(np.argmax(np.abs(rolled)))
    return float(rolled[at]), at, width


def adverse_part(signed: float, role: Role) -> float:
    """The size of a deviation where it points the bad way, else 0."""
    if role in (Role.LATENCY, Role.SELF_TIME, Role.ERRORS):
        return max(signed, 0.0)
    if role is Role.SUCCESS:
        return max(-signed, 0.0)
    return abs(signed)


def deviations(
    series: Sequence[Series], normal: tuple[int, int], window: tuple[int, int], *, min_normal: int = MIN_NORMAL
) -> tuple[Deviation, ...]:
    """One deviation for each series that has enough normal samples and any in the window, in series order."""
    found = []
    for index, one in enumerate(series):
        edge = np.searchsorted(one.time_ns, (*normal, *window))
        before = one.value[edge[0] : edge[1]]
        after = one.value[edge[2] : edge[3]]
        before = before[np.isfinite(before)]
        good = np.isfinite(after)
        if before.size < min_normal or not good.any():
            continue
        positions = np.flatnonzero(good)
        median, scale = spread(before, one.role)
        scores = np.clip((after[good] - median) / scale, -CAP, CAP)
        signed, at, width = stretch(scores)
        found.append(
            Deviation(
                series=index,
                signed=signed,
                adverse=adverse_part(signed, one.role),
                baseline=median,
                value=float(np.median(after[good][at : at + width])),
                scale=scale,
                first=int(edge[2] + positions[at]),
            )
        )
    return tuple(found)
