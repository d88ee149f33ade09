"""Online ridge autoregression: how far each sample lies from what the series' own past leads to expect.

Closed-form linear autoregression matches or beats deep detectors on operations series (arXiv 2602.00672). The
normal equations are updated with every sample and solved now and then, so scoring is causal: an error depends on
the past and on its own sample, nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from headspring.analytics.detect.agile.memory import Floats, keep, known, quantile, start

ORDER = 64
"""Past samples that predict the next one: an hour of minutes, five hours of five-minute values."""
_WARM = 2 * ORDER
"""Samples before the first fit; no error until then."""
_LATER = 2000
"""Samples between two fits at most; the first ones come as the past grows by a quarter."""
_RIDGE = 1e-2
"""On the diagonal, relative to it: keeps constant, periodic and collinear pasts solvable, and the weights small."""
_FORGET = 0.9999
"""Per sample: the fit remembers about ten thousand samples."""
_MASK = 3.0
"""Errors beyond so many scales teach as much as one of that size: an anomaly does not become the rule."""
_FLOOR = 0.03
"""Least error scale, as a share of the width of the past: a nearly exact fit must not make trifles anomalous."""
_RATE = 0.0003
"""Per sample, for the root mean square of errors: what is normal changes over days, not within an incident."""
_PRIOR = 50
"""Samples as which the start of that root mean square counts."""
_CLIP = 12.0
"""Scales at which an error counts towards the root mean square at most: one incident must not blind the next days."""
CAP = 30.0
"""Scales at most."""


@njit(cache=True, nogil=True)
def _solve(gram: Floats, moment: Floats, weights: Floats) -> None:
    """Cholesky of the ridged normal equations, in place into `weights`; leaves them as they are when not solvable."""
    n = moment.size
    lower = np.zeros((n, n))
    mean = 0.0
    for i in range(n):
        mean += gram[i, i]
    ridge = _RIDGE * mean / n
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
def errors(values: Floats, width: Floats) -> Floats:
    """Absolute forecast error of every sample in scales of the errors of the past.

    The scale is the largest of three: what normal errors with these quantiles would have; their root mean square,
    which knows the rare bursts that belong to a series; and a share of the width of the past.

    Args:
        values: One series in time order, shape (n,); NaN is missing.
        width: How far the past values of each row spread, in their unit, shape (n,), as `level.distances` tells it.

    Returns:
        Shape (n,), dimensionless, 0 … `CAP`; NaN where the sample is missing or the fit is not warm yet. The same
        for a·values + b with a ≠ 0 up to rounding.
    """
    n = values.size
    out = np.full(n, np.nan)
    past = np.zeros(ORDER)
    row = np.zeros(ORDER)
    gram = np.zeros((ORDER, ORDER))
    moment = np.zeros(ORDER)
    weights = np.zeros(ORDER)
    ring, order, at = start()
    square = 0.0
    first = 0.0
    seen = 0
    fitted = 0
    next_fit = _WARM
    for t in range(n):
        if math.isnan(values[t]):
            continue
        if seen == 0:
            first = values[t]
        value = values[t] - first
        if seen >= ORDER:
            mean = past.sum() / ORDER
            forecast = 0.0
            for k in range(ORDER):
                row[k] = past[k] - mean
                forecast += weights[k] * row[k]
            target = value - mean
            error = abs(target - forecast)
            strength = 0.0
            scale = 0.0
            if seen > _WARM:
                if known(at):
                    quantiles = max(
                        quantile(order, at, 0.5) / 0.6745,
                        quantile(order, at, 0.9) / 1.645,
                        quantile(order, at, 0.97) / 2.170,
                    )
                    scale = max(quantiles, math.sqrt(square), _FLOOR * width[t])
                    strength = 0.0 if error == 0.0 else min(CAP, error / scale) if scale > 0.0 else CAP
                    out[t] = strength
                held = min(error, _CLIP * scale) if scale > 0.0 else error
                fitted += 1
                square += max(_RATE, 1.0 / (fitted + _PRIOR)) * (held * held - square)
                keep(ring, order, at, seen, error)
            weight = _MASK / strength if strength > _MASK else 1.0
            for i in range(ORDER):
                part = weight * row[i]
                moment[i] = _FORGET * moment[i] + part * target
                for j in range(i + 1):
                    gram[i, j] = _FORGET * gram[i, j] + part * row[j]
            if seen >= next_fit:
                _solve(gram, moment, weights)
                next_fit = seen + max(_WARM, min(_LATER, seen // 4))
        for k in range(ORDER - 1, 0, -1):
            past[k] = past[k - 1]
        past[0] = value
        seen += 1
    return out
