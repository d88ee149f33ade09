"""What PromQL's range functions and histogram_quantile compute, as arrays in, arrays out.

A *window* of a series is the samples `low:high` of its columns; every function takes all windows of one
series at once. Stale markers are gone before. Source: promql/functions.go and promql/quantile.go of
Prometheus 2.42; windows are closed at both ends there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_NS = 1e-9
_EXTRAPOLATE_UP_TO = 1.1
"""Times the average distance of samples: nearer to the window's border than this counts as continuing up to it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of one series."""

    time_ns: NDArray[np.int64]
    value: Floats
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    """Left border of each window, closed."""
    end_ns: NDArray[np.int64]
    """Right border of each window, closed."""

    @property
    def count(self) -> NDArray[np.int64]:
        return self.high - self.low


def windows_of(time_ns: NDArray[np.int64], value: Floats, end_ns: NDArray[np.int64], range_ns: int) -> Windows:
    """Windows [end - range, end] over samples in time order."""
    fresh = ~np.isnan(value)
    time_ns, value = time_ns[fresh], value[fresh]
    start_ns = end_ns - range_ns
    low = np.searchsorted(time_ns, start_ns, "left")
    high = np.searchsorted(time_ns, end_ns, "right")
    return Windows(time_ns, value, low, high, start_ns, end_ns)


def extrapolated(windows: Windows, range_s: float, *, counter: bool, per_second: bool) -> tuple[Floats, Bools]:
    """`rate` (counter, per second), `increase` (counter) and `delta` (neither)."""
    present = windows.count >= 2
    result = np.full(present.size, np.nan)
    if not present.any():
        return result, present
    low, last = windows.low[present], windows.high[present] - 1
    value, time_ns = windows.value, windows.time_ns
    change = value[last] - value[low]
    if counter:
        # After a reset the counter starts at 0 again: what it had before is added.
        lost = np.concatenate(([0.0], np.cumsum(np.where(value[1:] < value[:-1], value[:-1], 0.0))))
        change = change + (lost[last] - lost[low])
    to_start = (time_ns[low] - windows.start_ns[present]) * _NS
    to_end = (windows.end_ns[present] - time_ns[last]) * _NS
    sampled = (time_ns[last] - time_ns[low]) * _NS
    average = sampled / (last - low)
    if counter:
        # A counter cannot have been below 0, so do not extrapolate beyond where it would have been 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            to_zero = np.where((change > 0) & (value[low] >= 0), sampled * (value[low] / change), np.inf)
        to_start = np.where(to_zero < to_start, to_zero, to_start)
    threshold = average * _EXTRAPOLATE_UP_TO
    whole = sampled + np.where(to_start < threshold, to_start, average / 2)
    whole = whole + np.where(to_end < threshold, to_end, average / 2)
    factor = whole / sampled
    if per_second:
        factor = factor / range_s
    result[present] = change * factor
    return result, present


def instant_rate(windows: Windows) -> tuple[Floats, Bools]:
    """`irate`: between the two newest samples of each window."""
    present = windows.count >= 2
    result = np.full(present.size, np.nan)
    last = windows.high[present] - 1
    now, before = windows.value[last], windows.value[last - 1]
    seconds = (windows.time_ns[last] - windows.time_ns[last - 1]) * _NS
    result[present] = np.where(now < before, now, now - before) / seconds
    return result, present


def over_time(name: str, windows: Windows) -> tuple[Floats, Bools]:
    """`sum`, `avg`, `min`, `max`, `count` or `last` of each window."""
    present = windows.count >= 1
    result = np.full(present.size, np.nan)
    if not present.any():
        return result, present
    low, high = windows.low[present], windows.high[present]
    if name == "count":
        result[present] = high - low
    elif name == "last":
        result[present] = windows.value[high - 1]
    else:
        reduce = {"sum": np.add, "avg": np.add, "min": np.minimum, "max": np.maximum}[name]
        # reduceat takes [low, high) pairs as every other segment; the extra 0 makes `high` a valid index.
        pairs = np.stack((low, high), axis=1).ravel()
        result[present] = reduce.reduceat(np.append(windows.value, 0.0), pairs)[::2]
        if name == "avg":
            result[present] /= high - low
    return result, present


def quantile_over_time(quantile: Floats, windows: Windows) -> tuple[Floats, Bools]:
    """`quantile[i]` of window i, linear between ranks."""
    present = windows.count >= 1
    result = np.full(present.size, np.nan)
    for index in np.flatnonzero(present):
        ordered = np.sort(windows.value[windows.low[index] : windows.high[index]])
        result[index] = quantile_of_sorted(float(quantile[index]), ordered)
    return result, present


def quantile_of_sorted(quantile: float, ordered: Floats) -> float:
    """
    >>> quantile_of_sorted(0.5, np.array([1.0, 2.0, 4.0, 8.0]))
    3.0
    """
    if np.isnan(quantile):
        return float("nan")
    if quantile < 0:
        return float("-inf")
    if quantile > 1:
        return float("inf")
    rank = quantile * (ordered.size - 1)
    lower = max(0, int(np.floor(rank)))
    upper = min(ordered.size - 1, lower + 1)
    weight = rank - np.floor(rank)
    return float(ordered[lower] * (1 - weight) + ordered[upper] * weight)


def bucket_quantile(quantile: Floats, bounds: Floats, counts: Floats) -> Floats:
    """`histogram_quantile` of one classic histogram at several times.

    Args:
        quantile: shape ``(steps,)``.
        bounds: upper bounds in rising order, distinct, shape ``(buckets,)``.
        counts: cumulative counts, shape ``(buckets, steps)``.

    Returns:
        Shape ``(steps,)``; NaN where the histogram has no `+Inf` bucket, no second bucket or no observation.
    """
    steps = counts.shape[1]
    result = np.full(steps, np.nan)
    if bounds.size >= 2 and np.isposinf(bounds[-1]):
        # Buckets scraped at slightly different moments may fall; Prometheus lifts them to the one before.
        counts = np.fmax.accumulate(counts, axis=0)
        total = counts[-1]
        rank = quantile * total
        with np.errstate(invalid="ignore"):
            reached = counts[:-1] >= rank
        bucket = np.where(reached.any(axis=0), reached.argmax(axis=0), bounds.size - 1)
        column = np.arange(steps)
        below = np.maximum(bucket - 1, 0)
        first = bucket == 0
        start = np.where(first, 0.0, bounds[below])
        inside = counts[bucket, column] - np.where(first, 0.0, counts[below, column])
        within = rank - np.where(first, 0.0, counts[below, column])
        with np.errstate(divide="ignore", invalid="ignore"):
            result = start + (bounds[bucket] - start) * (within / inside)
        result = np.where(first & (bounds[0] <= 0), bounds[0], result)
        result = np.where(bucket == bounds.size - 1, bounds[-2], result)
        # NaN counts have no total to rank in.
        result = np.where((total == 0) | np.isnan(total), np.nan, result)
    result = np.where(quantile < 0, -np.inf, result)
    result = np.where(quantile > 1, np.inf, result)
    return np.where(np.isnan(quantile), np.nan, result)
