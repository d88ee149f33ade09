"""What is usual for a series, learned online: quantiles of a ring of its values. Flat arrays; no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

RING = 64
"""Values a baseline is made of."""
_NORMAL_Q90 = 1.2816
"""90 % quantile of the standard normal distribution."""
_NORMAL_IQR = 1.3490
"""Distance of its quartiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Per series, shape (n,): in the series' unit."""

    median: Floats
    up: Floats
    """Spread above the median, as a standard deviation: what the quartiles and the 90 % quantile say, the larger."""
    down: Floats
    """Spread below it, likewise."""
    mean: Floats
    variance: Floats


def usual(ring: Singles, count: Ints) -> Usual:
    """Median and spreads of each row.

    Args:
        ring: Shape (n, RING); places without a value hold +inf.
        count: Values in each row, shape (n,); rows with none give zeros.

    The quantiles bear a tenth of the values being wrong on either side; skewed values (latencies are) get a
    wider spread above than below.
    """
    if not count.size:
        none = np.zeros(0)
        return Usual(median=none, up=none, down=none, mean=none, variance=none)
    ordered = np.sort(ring, axis=1)
    last = np.maximum(count - 1, 0)
    q10, q25, median, q75, q90 = (_quantile(ordered, last, share) for share in (0.10, 0.25, 0.50, 0.75, 0.90))
    middle = (q75 - q25) / _NORMAL_IQR
    # Sums in double precision: float32 sums of squares lose the small variance of a large mean.
    held = np.where(np.isfinite(ring), ring, 0).astype(np.float64)
    n = np.maximum(count, 1)
    mean = held.sum(axis=1) / n
    variance = np.maximum(np.einsum("ij,ij->i", held, held) / n - mean * mean, 0.0)
    empty = count == 0
    columns = [median, np.maximum(middle, (q90 - median) / _NORMAL_Q90),
               np.maximum(middle, (median - q10) / _NORMAL_Q90), mean, variance]  # fmt: skip
    for column in columns:
        column[empty] = 0.0
    return Usual(median=columns[0], up=columns[1], down=columns[2], mean=columns[3], variance=columns[4])


def _quantile(ordered: Singles, last: Ints, share: float) -> Floats:
    """Linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    place = share * last
    lower = place.astype(np.int64)
    upper = np.minimum(lower + 1, last)
    rows = np.arange(last.size)
    below = ordered[rows, lower].astype(np.float64)
    above = ordered[rows, upper].astype(np.float64)
    below[~np.isfinite(below)] = 0.0
    above[~np.isfinite(above)] = 0.0
    return below + (above - below) * (place - lower)
