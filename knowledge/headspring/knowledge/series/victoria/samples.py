"""Samples as columns in milliseconds, and which of several at one time stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Samples:
    """Columns of equal length n."""

    series_id: NDArray[np.uint64]
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.series_id.size)


EMPTY = Samples(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.float64))


def between(parts: Sequence[Samples], start_ms: int, end_ms: int) -> Samples:
    """Samples from start_ms to end_ms, both included."""
    kept = [(part, (part.time_ms >= start_ms) & (part.time_ms <= end_ms)) for part in parts]
    if not kept:
        return EMPTY
    return Samples(
        np.concatenate([part.series_id[held] for part, held in kept]),
        np.concatenate([part.time_ms[held] for part, held in kept]),
        np.concatenate([part.value[held] for part, held in kept]),
    )


def by_series(parts: Sequence[Samples]) -> tuple[Samples, NDArray[np.intp]]:
    """All samples by series and time, each (series, time) once, the last written; and where each series begins."""
    series_id = np.concatenate([part.series_id for part in parts])
    time_ms = np.concatenate([part.time_ms for part in parts])
    value = np.concatenate([part.value for part in parts])
    order = np.lexsort((time_ms, series_id))  # stable: equal ones stay in the order of writing
    series_id, time_ms = series_id[order], time_ms[order]
    new_series = series_id[1:] != series_id[:-1]
    last = np.append(new_series | (time_ms[1:] != time_ms[:-1]), True)
    if not last.all():
        series_id, time_ms, order = series_id[last], time_ms[last], order[last]
        new_series = series_id[1:] != series_id[:-1]
    starts = np.flatnonzero(np.concatenate(([True], new_series)))
    return Samples(series_id, time_ms, value[order]), starts


def once(time_ms: NDArray[np.int64], value: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One series' samples in time order, each time once: of different values the largest, a number before a gap.

    The server keeps no order among them; this one at least is always the same.

    >>> once(np.array([2, 1, 2]), np.array([5.0, 1.0, 7.0]))[1].tolist()
    [1.0, 7.0]
    """
    if time_ms.size < 2 or bool((time_ms[1:] > time_ms[:-1]).all()):
        return time_ms, value
    order = np.lexsort((np.where(np.isnan(value), -np.inf, value), ~np.isnan(value), time_ms))
    time_ms, value = time_ms[order], value[order]
    last = np.append(time_ms[1:] != time_ms[:-1], True)
    return time_ms[last], value[last]
