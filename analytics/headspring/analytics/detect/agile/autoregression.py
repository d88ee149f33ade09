"""Online ridge autoregression: how far each sample lies from what the series' own past leads to expect.

Closed-form linear autoregression matches or beats deep detectors on operations series (arXiv 2602.00672). The
normal equations are updated with every sample that is not itself anomalous and solved now and then, so scoring
is causal: a score depends on the past and on its own sample, nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

ORDER = 48
"""Past samples that predict the next one."""
_WARM = 4 * ORDER
"""Samples before the first fit; no score until then."""
_RIDGE = 1e-2
"""On the diagonal, relative to it: keeps constant and collinear pasts solvable."""
_FORGET = 0.9998
"""Per sample: the fit remembers about five thousand samples."""
_SCALE_RATE = 0.0003
"""Per sample, for residual scale and spread: what is normal changes over days, not within an incident."""
_CLIP = 12.0
"""Scales at which a residual counts towards the scale at most."""
_MASK = 6.0
"""Residuals beyond so many scales are not learned from …"""
_ADOPT = 720
"""… unless this many came in a row: then the series has changed for good."""
_FLOOR = 0.1
"""Least residual scale, as a share of the series' own spread: a nearly exact fit must not make trifles anomalous."""
_CAP = 30.0
_SMOOTH = 10
"""Rows of the trailing mean: the width at which real incidents of some minutes part best from single spikes."""


@njit(cache=True)
def _solve(gram: NDArray[np.float64], moment: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Cholesky of the ridged normal equations, in place into `weights`; leaves them as they are when not solvable."""
    n = moment.size
    lower = np.zeros((n, n))
    mean = 0.0
    for i in range(n):
        mean += gram[i, i]
    ridge = _RIDGE * mean / n + 1e-12
    for i in range(n):
        for j in range(i + 1):
            total = gram[i, j] + (ridge if i == j else 0.0)
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if total <= 0.0:
                    return
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    half = np.empty(n)
    for i in range(n):
        total = moment[i]
        for k in range(i):
            total -= lower[i, k] * half[k]
        half[i] = total / lower[i, i]
    for i in range(n - 1, -1, -1):
        total = half[i]
        for k in range(i + 1, n):
            total -= lower[k, i] * weights[k]
        weights[i] = total / lower[i, i]


@njit(cache=True, nogil=True)
def deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smoothed distance from expectation of every sample, in residual scales.

    Args:
        values: One series in time order, shape (n,); NaN is missing.

    Returns:
        Shape (n,), dimensionless, 0 … `_CAP`; NaN where the sample is missing or the fit is not warm yet. The same
        for a·values + b with a ≠ 0 up to rounding.
    """
    n = values.size
    out = np.full(n, np.nan)
    past = np.zeros(ORDER)
    gram = np.zeros((ORDER, ORDER))
    moment = np.zeros(ORDER)
    weights = np.zeros(ORDER)
    recent = np.zeros(_SMOOTH)
    seen = 0
    next_fit = _WARM
    fitted = False
    center = 0.0
    spread2 = 0.0
    scale = 0.0
    strange = 0
    filled = 0
    for t in range(n):
        x = values[t]
        if math.isnan(x):
            continue
        if seen == 0:
            center = x
        z = x - center
        if seen >= ORDER:
            prediction = 0.0
            mean_past = 0.0
            for k in range(ORDER):
                mean_past += past[k]
            mean_past /= ORDER
            for k in range(ORDER):
                prediction += weights[k] * (past[k] - mean_past)
            target = z - mean_past
            residual = target - prediction
            size = abs(residual)
            strength = 0.0
            if fitted:
                rate = max(_SCALE_RATE, 1.0 / (filled + 50))
                floor = max(scale, _FLOOR * math.sqrt(spread2))
                strength = min(_CAP, size / floor) if floor > 0.0 else (0.0 if size == 0.0 else _CAP)
                recent[filled % _SMOOTH] = strength
                filled += 1
                total = 0.0
                count = min(filled, _SMOOTH)
                for k in range(count):
                    total += recent[k]
                out[t] = total / count
                # The root mean square follows bursts that belong to the series; the clip keeps one outlier from
                # moving it much, and trouble that stays is what is normal after a while.
                held = min(size, _CLIP * scale) if scale > 0.0 else size
                scale = math.sqrt(scale * scale + rate * (held * held - scale * scale))
            learn = not fitted or strength < _MASK or strange >= _ADOPT
            strange = 0 if strength < _MASK else strange + 1
            if learn:
                spread2 += (
                    _SCALE_RATE * (target * target - spread2)
                    if seen > _WARM
                    else (target * target - spread2) / (seen - ORDER + 1)
                )
                for i in range(ORDER):
                    a = past[i] - mean_past
                    moment[i] = _FORGET * moment[i] + a * target
                    for j in range(i + 1):
                        gram[i, j] = _FORGET * gram[i, j] + a * (past[j] - mean_past)
            if seen == next_fit:
                _solve(gram, moment, weights)
                if not fitted:
                    # The scale before the first fit is not known; half the spread is a careful start.
                    scale = 0.5 * math.sqrt(spread2)
                    fitted = True
                next_fit += max(_WARM, min(2000, seen // 4))
        for k in range(ORDER - 1, 0, -1):
            past[k] = past[k - 1]
        past[0] = z
        seen += 1
    return out
