"""Recent samples in memory: a small log-structured merge of sorted columns.

A write appends columns as they came. A read first sorts what was appended into a *run* (ordered by
series, time, sequence) and merges runs of like size, so n samples cost O(n log n) in all however they
are split; then it finds each series by binary search. The sequence number of a sample says which of
two writes of the same (series, time) came later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_UNSORTED = 65_536
"""Samples appended before they are sorted without a read asking for it; keeps the first read quick."""
_MERGE_RATIO = 2
"""A run is merged into the one before it unless that one is this many times larger: O(log n) runs."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Samples as columns of equal length n."""

    series_id: NDArray[np.uint64]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    sequence: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.series_id.size)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Columns:
        return Columns(self.series_id[index], self.time_ns[index], self.value[index], self.sequence[index])


EMPTY = Columns(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.int64))


def concatenate(parts: list[Columns]) -> Columns:
    """The samples of all parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return EMPTY
    return Columns(
        np.concatenate([part.series_id for part in parts]),
        np.concatenate([part.time_ns for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.sequence for part in parts]),
    )


def ordered(columns: Columns) -> Columns:
    """Sorted by series and time; of several samples of one (series, time) only the latest written stays.

    >>> same = Columns(np.array([7, 7], np.uint64), np.array([5, 5]), np.array([1.0, 2.0]), np.array([2, 1]))
    >>> ordered(same).value.tolist()
    [1.0]
    """
    if len(columns) < 2:
        return columns
    columns = columns.take(np.lexsort((columns.sequence, columns.time_ns, columns.series_id)))
    last = np.ones(len(columns), dtype=np.bool_)
    last[:-1] = (columns.series_id[1:] != columns.series_id[:-1]) | (columns.time_ns[1:] != columns.time_ns[:-1])
    return columns if bool(last.all()) else columns.take(last)


def rows_of(run: Columns, series_ids: NDArray[np.uint64], start_ns: int, end_ns: int) -> Columns:
    """Samples of a sorted run that belong to `series_ids` and have start_ns <= time < end_ns."""
    low = np.searchsorted(run.series_id, series_ids, "left")
    high = np.searchsorted(run.series_id, series_ids, "right")
    lengths = high - low
    total = int(lengths.sum())
    if total == 0:
        return EMPTY
    # Positions low..high-1 of every series, one after the other, without a Python loop over series.
    starts = np.repeat(low - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
    index = starts + np.arange(total)
    times = run.time_ns[index]
    return run.take(index[(times >= start_ns) & (times < end_ns)])


class Tail:
    """The recent samples of one tenant. Not thread-safe: its store holds the lock."""

    def __init__(self) -> None:
        self._unsorted: list[Columns] = []
        self._unsorted_count = 0
        self._runs: list[Columns] = []

    def __len__(self) -> int:
        return self._unsorted_count + sum(len(run) for run in self._runs)

    def append(self, columns: Columns) -> None:
        if len(columns) == 0:
            return
        self._unsorted.append(columns)
        self._unsorted_count += len(columns)
        if self._unsorted_count >= _MAX_UNSORTED:
            self._settle()

    def select(self, series_ids: NDArray[np.uint64], start_ns: int, end_ns: int) -> list[Columns]:
        """Matching samples, one part a run; `ordered(concatenate(...))` of them is the answer."""
        self._settle()
        return [rows_of(run, series_ids, start_ns, end_ns) for run in self._runs]

    def trim(self, floor_ns: int, *, up_to_sequence: int) -> int:
        """Forgets samples before `floor_ns` that were written at or before a sequence number; returns how many."""
        self._settle()
        before = len(self)
        if before:
            whole = ordered(concatenate(self._runs))
            kept = whole.take((whole.time_ns >= floor_ns) | (whole.sequence > up_to_sequence))
            self._runs = [kept] if len(kept) else []
        return before - len(self)

    def times(self) -> NDArray[np.int64]:
        """Times of all samples, in no order."""
        self._settle()
        return concatenate(self._runs).time_ns

    def _settle(self) -> None:
        if not self._unsorted:
            return
        run = ordered(concatenate(self._unsorted))
        self._unsorted, self._unsorted_count = [], 0
        while self._runs and len(self._runs[-1]) < _MERGE_RATIO * len(run):
            run = ordered(concatenate([self._runs.pop(), run]))
        self._runs.append(run)
