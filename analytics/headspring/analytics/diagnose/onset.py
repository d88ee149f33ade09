"""When each series left its normal, with an uncertainty of at least one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 3.0
"""Robust deviations that count as having left normal."""
_STAYS = 0.5
"""Share of the samples from an onset to the end that are beyond the threshold: trouble that began stays for a while,
a burst of noise long before does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Onset:
    time_ns: int
    uncertainty_ns: int


def onset(
    time_ns: NDArray[np.int64], scores: NDArray[np.float64], *, threshold: float = THRESHOLD, sustained: int = 2
) -> Onset | None:
    """First time from which `sustained` samples in a row are beyond the threshold on one side, and most later ones too.

    Where no such time leads to lasting trouble (it is over already), the first one counts.

    Args:
        time_ns: Shape (n,), ascending.
        scores: Signed robust deviations, shape (n,).
        sustained: Samples in a row; a window with fewer is judged by all it has.

    Returns:
        None when the series never leaves its normal. The uncertainty is one sample interval.
    """
    n = scores.size
    if n == 0:
        return None
    need = min(sustained, n)
    gap = int(np.median(np.diff(time_ns))) if n > 1 else 0
    best: int | None = None
    lasting: int | None = None
    for side in (scores >= threshold, scores <= -threshold):
        runs = np.convolve(side.astype(np.int64), np.ones(need, dtype=np.int64), mode="valid") == need
        if runs.any():
            first = int(np.argmax(runs))
            best = first if best is None else min(best, first)
            share = np.cumsum(side[::-1])[::-1] / np.arange(n, 0, -1)
            stays = np.flatnonzero(runs & (share[: runs.size] >= _STAYS))
            if stays.size:
                lasting = int(stays[0]) if lasting is None else min(lasting, int(stays[0]))
    if best is None:
        return None
    return Onset(time_ns=int(time_ns[best if lasting is None else lasting]), uncertainty_ns=max(gap, 1))
