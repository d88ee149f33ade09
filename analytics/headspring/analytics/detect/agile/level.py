"""How far each value lies outside the band in which nearly all of the series' past values lie.

A forecast follows a series to wherever it goes, so trouble that lasts looks normal to it after some rows. The
band does not move with it: both views are needed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headspring.analytics.detect.agile.memory import Floats, keep, known, quantile, start

_TAIL = 0.015
"""Share of the past beyond either edge of the band: the furthest that `SIZE` samples tell without being extremes."""
_LEAST = 1.5
"""Least distance of an edge from the median, in robust deviations (a normal series has 2.2)."""
CAP = 5.0
"""Half widths at most."""
_IQR = 1.349
"""Quartile distance of a normal distribution in deviations; `_IDR` is that of the 5 % and 95 % quantiles."""
_IDR = 3.29


@njit(cache=True, nogil=True)
def distances(values: Floats) -> tuple[Floats, Floats]:
    """Distance from the median of the past, in half widths of the band on that side; and the width of the past.

    Args:
        values: One series in time order, shape (n,); NaN is missing.

    Returns:
        Shape (n,) each: the distance, 0 … `CAP`, 1 at the edge of the band, the same for a·values + b with a ≠ 0;
        the distance of the 5 % and 95 % quantiles of the past, in the unit of the values. NaN for missing and early
        rows.
    """
    n = values.size
    out = np.full(n, np.nan)
    width = np.full(n, np.nan)
    ring, order, at = start()
    first = 0.0
    seen = 0
    for t in range(n):
        if math.isnan(values[t]):
            continue
        if seen == 0:
            first = values[t]
        value = values[t] - first
        if known(at):
            middle = quantile(order, at, 0.5)
            width[t] = quantile(order, at, 0.95) - quantile(order, at, 0.05)
            quartiles = quantile(order, at, 0.75) - quantile(order, at, 0.25)
            least = _LEAST * max(quartiles / _IQR, width[t] / _IDR)
            edge = quantile(order, at, 1 - _TAIL) - middle if value >= middle else middle - quantile(order, at, _TAIL)
            half = max(edge, least)
            gap = abs(value - middle)
            out[t] = 0.0 if gap == 0.0 else min(CAP, gap / half) if half > 0.0 else CAP
        keep(ring, order, at, seen, value)
        seen += 1
    return out, width
