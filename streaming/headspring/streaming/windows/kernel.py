"""The pane kernel: samples into panes, panes into features. Compiled loops over flat arrays; no clock, no I/O.

A series' samples wait until the series itself has moved on by the allowed lateness, then they are applied
in order of time. So a pane's numbers do not depend on how the input was split or, within the lateness, on
its order: the same additions happen in the same order, bit for bit. Samples that still wait count in
features all the same: they are applied to a copy.

Lateness is judged per series, against the newest sample of that series, so one sender with a fast clock or
a short delay makes nobody else late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from headspring.proto.telemetry import METRIC_KIND_CODE, MetricKind

F = TypeVar("F", bound=Callable[..., Any])
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ids = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

NONE_NS = np.iinfo(np.int64).min
"""No time yet."""
_COUNTER = METRIC_KIND_CODE[MetricKind.COUNTER]
_DELTA = METRIC_KIND_CODE[MetricKind.DELTA]
CELL = 8
"""Numbers of one pane: one cache line. Pane number, count, mean, sum of squared deviations, min, max, first, last."""
_PANE, _N, _MEAN, _M2, _MIN, _MAX, _FIRST, _LAST = range(CELL)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio (Knuth, TAOCP 3, sec. 6.4): spreads ids over the table whatever made them."""


def compiled(function: F) -> F:
    """The function as machine code, with its own signature for type checkers."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@compiled
def find_slots(table: Ints, ids: Ids, known: int, limit: int, batch: Ids, slots: Ints) -> tuple[int, int]:
    """Slot of each series of `batch` into `slots`; new series get the next slot, -1 beyond `limit` series.

    Stops early where `ids` or the table (half full) has no room. Returns (samples done, series known).
    `table` has a power of two of entries: slot + 1, or 0 for free.
    """
    mask = table.size - 1
    shift = np.uint64(64)
    size = table.size
    while size > 1:
        size >>= 1
        shift -= np.uint64(1)
    for i in range(batch.size):
        sid = batch[i]
        at = np.int64((sid * _SPREAD) >> shift) & mask
        while True:
            entry = table[at]
            if entry == 0:
                if known >= limit:
                    slots[i] = -1
                    break
                if known >= ids.size or 2 * known >= table.size:
                    return i, known
                ids[known] = sid
                known += 1
                table[at] = known
                slots[i] = known - 1
                break
            if ids[entry - 1] == sid:
                slots[i] = entry - 1
                break
            at = (at + 1) & mask
    return batch.size, known


@compiled
def admit(
    slots: Ints, times: Ints, values: Floats, lateness_ns: int, newest: Ints, changed: Bytes, keep: Bytes
) -> tuple[int, int]:
    """Marks in `keep` what is in time; moves `newest` and `changed` of each series on.

    Returns (late samples, samples of series beyond the limit).
    """
    late, homeless = 0, 0
    for i in range(slots.size):
        slot = slots[i]
        if slot < 0:
            homeless += 1
            keep[i] = 0
            continue
        time = times[i]
        if newest[slot] != NONE_NS and time <= newest[slot] - lateness_ns:
            late += 1
            keep[i] = 0
            continue
        keep[i] = 1
        if time > newest[slot]:
            newest[slot] = time
        if np.isfinite(values[i]):
            changed[slot] = 1
    return late, homeless


@compiled
def group(slots: Ints, times: Ints, values: Floats, series: int) -> tuple[Ints, Ints]:
    """Order of samples by (series, time, value), and where each series starts, shape (series + 1,).

    A counting sort over series, then insertion within each: samples mostly come in order.
    """
    starts = np.zeros(series + 1, dtype=np.int64)
    for i in range(slots.size):
        starts[slots[i] + 1] += 1
    for s in range(series):
        starts[s + 1] += starts[s]
    place = starts[:-1].copy()
    order = np.empty(slots.size, dtype=np.int64)
    for i in range(slots.size):
        s = slots[i]
        at = place[s]
        time, value = times[i], values[i]
        while at > starts[s]:
            before = order[at - 1]
            if times[before] < time or (times[before] == time and (np.isnan(value) or values[before] <= value)):
                break
            order[at] = before
            at -= 1
        order[at] = i
        place[s] += 1
    return order, starts


@compiled
def absorb(
    cells: Floats, kind: int, time: int, value: float, prev_time: int, prev_value: float, pane_ns: int, gap_ns: int
) -> tuple[int, float, int]:
    """One sample into one series' panes, shape (panes, CELL); returns (previous time, previous value, counted).

    A counter's value becomes the rate since its previous sample; after a reset, the rate of what it counted
    since. A delta becomes a rate too. Neither is known after a gap: a value that is not finite, or no sample for
    `gap_ns`.
    """
    if not np.isfinite(value):
        return NONE_NS, 0.0, 0
    x = value
    if kind in (_COUNTER, _DELTA):
        if prev_time == NONE_NS or time - prev_time > gap_ns:
            return time, value, 0
        increase = value
        if kind == _COUNTER and value >= prev_value:
            increase = value - prev_value
        x = increase / ((time - prev_time) * 1e-9)
    pane = time // pane_ns
    cell = cells[pane % cells.shape[0]]
    if cell[_N] == 0.0 or cell[_PANE] != pane:
        cell[_PANE] = pane
        cell[_N] = 1.0
        cell[_MEAN] = x
        cell[_M2] = 0.0
        cell[_MIN] = x
        cell[_MAX] = x
        cell[_FIRST] = x
        cell[_LAST] = x
        return time, value, 1
    # Welford, Note on a method for calculating corrected sums of squares, Technometrics 4(3), 1962.
    cell[_N] += 1.0
    delta = x - cell[_MEAN]
    cell[_MEAN] += delta / cell[_N]
    cell[_M2] += delta * (x - cell[_MEAN])
    cell[_MIN] = min(cell[_MIN], x)
    cell[_MAX] = max(cell[_MAX], x)
    cell[_LAST] = x
    return time, value, 1


@compiled
def evaluate(
    order: Ints,
    starts: Ints,
    times: Ints,
    values: Floats,
    kinds: Bytes,
    lateness_ns: int,
    pane_ns: int,
    cells: Floats,
    newest: Ints,
    last_time: Ints,
    prev_time: Ints,
    prev_value: Floats,
    changed: Bytes,
    emit: bool,
    waiting: Ints,
    rows: Ints,
    ints: Ints,
    floats: Floats,
) -> tuple[int, int, int]:
    """Settles what is due, then the features of every changed series.

    Args:
        order, starts: From `group`, over the waiting samples `times`, `values`, `kinds`.
        cells: Panes, shape (series, panes, CELL).
        emit: False only settles.
        waiting: Filled with the samples that still wait.
        rows: Filled with the slots that have a feature row.
        ints: Per row count, time of the last sample (ns), count of the newest pane.
        floats: Per row mean, variance, min, max, first, last, mean of the newest pane.

    Returns:
        Samples that wait, rows, samples that repeat another of the same series and time.
    """
    series, panes = starts.size - 1, cells.shape[1]
    gap_ns = pane_ns * panes
    left, made, repeated = 0, 0, 0
    scratch = np.empty((panes, CELL), dtype=np.float64)
    for s in range(series):
        begin, end = starts[s], starts[s + 1]
        if begin == end and changed[s] == 0:
            continue
        first_waiting = left
        seen = NONE_NS
        for j in range(begin, end):
            i = order[j]
            time = times[i]
            if time == seen:
                repeated += 1
                continue
            seen = time
            if time > newest[s] - lateness_ns:
                waiting[left] = i
                left += 1
                continue
            prev_time[s], prev_value[s], counted = absorb(
                cells[s], kinds[i], time, values[i], prev_time[s], prev_value[s], pane_ns, gap_ns
            )
            if counted == 1:
                last_time[s] = time
        if not emit or changed[s] == 0:
            continue
        changed[s] = 0
        scratch[:, :] = cells[s]
        before, value, last = prev_time[s], prev_value[s], last_time[s]
        for j in range(first_waiting, left):
            i = waiting[j]
            before, value, counted = absorb(scratch, kinds[i], times[i], values[i], before, value, pane_ns, gap_ns)
            if counted == 1:
                last = times[i]
        if last == NONE_NS:
            continue
        newest_pane = last // pane_ns
        n, mean, m2 = 0.0, 0.0, 0.0
        low, high, first, final = np.inf, -np.inf, np.nan, np.nan
        for pane in range(newest_pane - panes + 1, newest_pane + 1):
            cell = scratch[pane % panes]
            if cell[_N] == 0.0 or cell[_PANE] != pane:
                continue
            if n == 0.0:
                first = cell[_FIRST]
            # Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm, STAN-CS-79-773, 1979, eq. 2.1.
            total = n + cell[_N]
            delta = cell[_MEAN] - mean
            mean += delta * cell[_N] / total
            m2 += cell[_M2] + delta * delta * n * cell[_N] / total
            n = total
            low = min(low, cell[_MIN])
            high = max(high, cell[_MAX])
            final = cell[_LAST]
        recent = scratch[newest_pane % panes]
        rows[made] = s
        ints[made, 0] = np.int64(n)
        ints[made, 1] = last
        ints[made, 2] = np.int64(recent[_N])
        floats[made, 0] = mean
        floats[made, 1] = m2 / n
        floats[made, 2] = low
        floats[made, 3] = high
        floats[made, 4] = first
        floats[made, 5] = final
        floats[made, 6] = recent[_MEAN]
        made += 1
    return left, made, repeated
