"""A small ordered memory of a long past: quantiles of what a series has been like, in constant space.

The memory keeps `SIZE` samples evenly spaced in time. When it is full, every second one is dropped and the spacing
doubles, until the samples span `SPAN` rows; from then on the oldest makes room. Kernels on plain arrays: `ring`
(SIZE,) in the order of arrival, `order` (SIZE,) the same samples sorted, `at` (4,) counters. A sample is seen by the
quantiles only after it was kept, so a row is judged by its past.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counters = NDArray[np.int64]

SIZE = 128
"""Samples: the 1.5 % quantile then lies between the second and the third smallest."""
SPAN = 20_000
"""Rows: two weeks of minutes. Shorter memories take a long incident for the new normal sooner."""
ENOUGH = 16
"""Samples without which there are no quantiles."""
_FILL, _HEAD, _SPACING, _NEXT = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def start() -> tuple[Floats, Floats, Counters]:
    """An empty memory: `ring`, `order`, `at`."""
    at = np.zeros(4, dtype=np.int64)
    at[_SPACING] = 1
    return np.zeros(SIZE), np.zeros(SIZE), at


@njit(cache=True, nogil=True)
def keep(ring: Floats, order: Floats, at: Counters, row: int, sample: float) -> None:
    """Takes the sample of a row into the memory, if its turn has come. Rows count up from 0."""
    if row < at[_NEXT]:
        return
    fill = at[_FILL]
    if fill == SIZE and at[_SPACING] * SIZE < SPAN:
        half = SIZE // 2
        left = np.empty(half)
        for k in range(half):
            left[k] = ring[(at[_HEAD] + 2 * k + 1) % SIZE]
        ring[:half] = left
        left.sort()
        order[:half] = left
        # This row is half a new spacing after the last sample that stayed: the next whole one has its turn.
        at[_NEXT] = row + at[_SPACING]
        at[_SPACING] *= 2
        at[_HEAD] = 0
        at[_FILL] = half
        return
    if fill == SIZE:
        oldest = ring[at[_HEAD]]
        ring[at[_HEAD]] = sample
        at[_HEAD] = (at[_HEAD] + 1) % SIZE
        for k in range(np.searchsorted(order, oldest), SIZE - 1):
            order[k] = order[k + 1]
        fill = SIZE - 1
    else:
        ring[(at[_HEAD] + fill) % SIZE] = sample
    k = fill
    while k > 0 and order[k - 1] > sample:
        order[k] = order[k - 1]
        k -= 1
    order[k] = sample
    at[_FILL] = fill + 1
    at[_NEXT] = row + at[_SPACING]


@njit(cache=True, nogil=True)
def quantile(order: Floats, at: Counters, share: float) -> float:
    """Value below which `share` of the kept samples lie, interpolated."""
    place = share * (at[_FILL] - 1)
    low = int(place)
    if low + 1 >= at[_FILL]:
        return float(order[at[_FILL] - 1])
    return float(order[low] + (place - low) * (order[low + 1] - order[low]))


@njit(cache=True, nogil=True)
def known(at: Counters) -> bool:
    """Whether there are enough samples for quantiles."""
    return bool(at[_FILL] >= ENOUGH)
