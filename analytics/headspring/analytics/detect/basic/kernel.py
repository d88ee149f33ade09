"""The kernel of the basic tier: a batch of features against what each series' normal is. No clock, no I/O.

What is normal is learned per series from a ring of samples, spread over the last half hour: the median as
level, and per side the larger of two quantile spreads as deviation, so that skew and heavy tails widen the
range on their own side only. Samples that look anomalous are not learned, unless they go on for so long that
they are the new normal.

Two views of each series are judged: its newest sample, and a mean of about the last half minute in which one
sample counts only so far. Either may exceed the range that the rule allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RING = 64
"""Samples a level is learned from; quantile q95 then survives three outliers."""
MAX_SCORE = 100.0
"""Scores end here: beyond, more says nothing."""
NEVER = np.iinfo(np.int64).min

# Columns of the state, integers: ring fill, ring start, spacing of its samples (ns), time of the newest learned
# sample, time of the oldest, first and newest time seen, updates, run of equal values, start of that run, start of
# an anomaly (NEVER: none), usual time between samples (ns), slot of the request rate that belongs to an error
# ratio (-1: none).
FILL, HEAD, STRIDE, LEARNED, BEGAN, FIRST, SEEN, UPDATES, RUN, RUN_FROM, ODD_FROM, PERIOD, RATE_SLOT = range(13)
INTS = 13
# Columns of the state, floats: newest value, slow mean, failures counted lately, last score.
VALUE, SLOW, FAILURES, SCORE = range(4)
FLOATS = 4
# Columns of the rules.
(
    UP, DOWN, DEVIATIONS, RELATIVE, ABSOLUTE, SLOW_SHARE, MIN_UPDATES, MIN_OBSERVED, SILENCE, SATURATION, FULL, FLAT,
    RATIO, TRAFFIC, ENABLED, HOLD_EVALUATIONS, HOLD, RECOVER, NO_DATA,
) = range(19)  # fmt: skip
RULE_COLUMNS = 19

# What a score is about.
NONE, LEVEL, SILENT, SATURATED, FLATLINE = range(5)

_SLOW_NS = 30e9
"""Time constant of the slow mean, ns."""
_FAILURES_NS = 10e9
"""Time constant of the count of failures, ns."""
_LEAST_FAILURES = 3.0
"""Fewer failed requests than this are no anomaly, whatever their share."""
_SIGMA_75 = 0.6745
"""Normal quantile at 0.75."""
_SIGMA_95 = 1.6449
"""Normal quantile at 0.95."""
_CALM = 0.7
"""Scores from here on are not learned."""
_SILENT_SHARE = 0.05
_STEADY_SHARE = 0.1
"""A rate is steady if its 5th percentile is above this share of its median."""
_LEAST_REQUESTS = 4.0
"""Usual requests per sample from which one sample of none says something (chance e^-4 each)."""
_LEAST_SLOW_REQUESTS = 15.0
"""The same for the slow mean."""
_LEAST_ERROR_SHARE = 0.005
"""Assumed share of errors where none was seen yet."""


def compiled(function: F) -> F:
    """The function as machine code, with its own signature for type checkers."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@compiled
def quantile(ordered: Floats, fill: int, q: float) -> float:
    """The q-quantile of `ordered[:fill]`, ascending, linear between samples."""
    at = q * (fill - 1)
    low = int(at)
    if low + 1 >= fill:
        return float(ordered[fill - 1])
    return float(ordered[low] + (at - low) * (ordered[low + 1] - ordered[low]))


@compiled
def learn(ring: Floats, ordered: Floats, ints: Ints, time: int, x: float, horizon_ns: int) -> None:
    """Adds a sample to one series' ring, shape (RING,), and to the same samples in order of size.

    The ring covers `horizon_ns` at last: when it is full before, every other sample goes and the spacing doubles.
    """
    fill = ints[FILL]
    if fill > 0 and time - ints[LEARNED] < ints[STRIDE]:
        return
    if fill == 0:
        ints[BEGAN] = time
        ints[HEAD] = 0
        ints[STRIDE] = 0
    if fill == RING and ints[STRIDE] * RING < horizon_ns:
        half = RING // 2
        kept = np.empty(half)
        for j in range(half):
            kept[j] = ring[(ints[HEAD] + 2 * j + 1) % RING]
        ring[:half] = kept
        kept.sort()
        ordered[:half] = kept
        ints[STRIDE] = max(2 * ints[STRIDE], 2 * (ints[LEARNED] - ints[BEGAN]) // RING)
        ints[HEAD] = 0
        fill = half
        if time - ints[LEARNED] < ints[STRIDE]:
            ints[FILL] = fill
            return
    if fill == RING:
        gone = ring[ints[HEAD]]
        ring[ints[HEAD]] = x
        ints[HEAD] = (ints[HEAD] + 1) % RING
        at = 0
        while ordered[at] != gone:
            at += 1
        for j in range(at, RING - 1):
            ordered[j] = ordered[j + 1]
        fill = RING - 1
    else:
        ring[fill] = x
    at = fill
    while at > 0 and ordered[at - 1] > x:
        ordered[at] = ordered[at - 1]
        at -= 1
    ordered[at] = x
    ints[FILL] = fill + 1
    ints[LEARNED] = time


@compiled
def evaluate(
    slots: Ints,
    times: Ints,
    lasts: Floats,
    recents: Floats,
    recent_counts: Ints,
    rules: Floats,
    ring: Floats,
    ordered: Floats,
    ints: Ints,
    floats: Floats,
    horizon_ns: int,
    adopt_ns: int,
    sensitivity: float,
    score: Floats,
    about: Ints,
    value: Floats,
    low: Floats,
    high: Floats,
) -> None:
    """Scores n features of different series and learns from them.

    Args:
        slots: Row of each in the state; shape (n,) as all of the batch.
        times: Time of the newest sample, ns; a feature that is not newer than the last gets no score.
        lasts: Newest sample.
        recents, recent_counts: Mean and count of the newest pane.
        rules: Shape (series, RULE_COLUMNS), as the rest of the state has one row a series.
        ring, ordered: Shape (series, RING).
        ints, floats: Shape (series, INTS) and (series, FLOATS).
        horizon_ns, adopt_ns, sensitivity: See `DetectConfig`.
        score: Filled; above 1 is anomalous, NaN where nothing new came.
        about: Filled with what the score is about.
        value: Filled with what was compared with the range.
        low, high: Filled with the expected range.
    """
    # First pass: request rates of this batch, which the error ratios of this batch need.
    for i in range(slots.size):
        s = slots[i]
        if rules[s, TRAFFIC] > 0 and times[i] > ints[s, SEEN]:
            floats[s, VALUE] = lasts[i]
    for i in range(slots.size):
        s, time = slots[i], times[i]
        rule, state, numbers = rules[s], ints[s], floats[s]
        score[i], about[i], value[i], low[i], high[i] = np.nan, NONE, lasts[i], np.nan, np.nan
        if time <= state[SEEN] or not np.isfinite(lasts[i]):
            continue
        first = state[UPDATES] == 0
        gap = 0 if first else time - state[SEEN]
        if first:
            state[FIRST] = time
            state[ODD_FROM] = NEVER
        elif state[UPDATES] == 1 or state[PERIOD] == 0:
            state[PERIOD] = gap
        else:
            state[PERIOD] += (min(gap, 4 * state[PERIOD]) - state[PERIOD]) // 8
        state[UPDATES] += 1
        state[SEEN] = time
        # Where samples come faster than evaluations, the newest is only one of many.
        x = recents[i] if recent_counts[i] > 12 else lasts[i]
        if x == numbers[VALUE] and not first and rule[TRAFFIC] == 0:
            state[RUN] += 1
        else:
            state[RUN], state[RUN_FROM] = 0, time
        numbers[VALUE] = x
        value[i] = x
        if rule[RATIO] > 0:
            failed = x / abs(rule[FULL])
            if state[RATE_SLOT] >= 0:
                failed *= floats[state[RATE_SLOT], VALUE] * gap * 1e-9
            else:
                failed = _LEAST_FAILURES if failed > 0 else 0.0
            numbers[FAILURES] = numbers[FAILURES] * np.exp(-gap / _FAILURES_NS) + failed
        fill = state[FILL]
        warm = fill >= 8 and state[UPDATES] > rule[MIN_UPDATES] and (time - state[FIRST]) * 1e-9 >= rule[MIN_OBSERVED]
        if not warm:
            learn(ring[s], ordered[s], state, time, x, horizon_ns)
            numbers[SLOW] = quantile(ordered[s], state[FILL], 0.5)
            score[i] = 0.0
            numbers[SCORE] = 0.0
            continue

        known = ordered[s]
        median = quantile(known, fill, 0.5)
        q05, q25, q75, q95 = (
            quantile(known, fill, 0.05),
            quantile(known, fill, 0.25),
            quantile(known, fill, 0.75),
            quantile(known, fill, 0.95),
        )
        # Few samples know their spread badly: 64 widen it by 6 %, 12 by a third.
        doubt = 1.0 + 4.0 / fill
        above = max((q75 - median) / _SIGMA_75, (q95 - median) / _SIGMA_95) * doubt
        below = max((median - q25) / _SIGMA_75, (median - q05) / _SIGMA_95) * doubt
        level = median
        if rule[RATIO] > 0:
            full = abs(rule[FULL])
            most = max(1, int(0.95 * fill))
            level = max(median, known[:most].mean())
            requests = 20.0
            if state[RATE_SLOT] >= 0:
                requests = max(1.0, floats[state[RATE_SLOT], VALUE] * max(gap, 1) * 1e-9)
            p = min(0.5, max(level / full, _LEAST_ERROR_SHARE))
            above = max(above, full * np.sqrt(p * (1 - p) / requests))
        floor = max(rule[RELATIVE] * abs(level), rule[ABSOLUTE], 1e-9 * abs(level), 1e-300)
        reach_up = max(rule[DEVIATIONS] * above, floor)
        reach_down = max(rule[DEVIATIONS] * below, floor)
        low[i] = level - reach_down
        if known[0] >= 0.0:
            low[i] = max(low[i], 0.0)
        high[i] = level + reach_up

        # The slow view: a mean in which one sample counts at most twice the reach.
        limited = min(max(x, level - 2 * reach_down), level + 2 * reach_up)
        numbers[SLOW] += (limited - numbers[SLOW]) * (1 - np.exp(-gap / _SLOW_NS))
        slow = numbers[SLOW] - level
        best, what = 0.0, NONE
        fast = x - level
        up = max(fast / reach_up, slow / (rule[SLOW_SHARE] * reach_up))
        down = max(-fast / reach_down, -slow / (rule[SLOW_SHARE] * reach_down))
        if rule[RATIO] > 0 and numbers[FAILURES] < _LEAST_FAILURES:
            up = min(up, 0.65)
        if rule[UP] > 0 and up > best:
            best, what = up, LEVEL
        if rule[DOWN] > 0 and down > best:
            best, what = down, LEVEL
        if rule[SILENCE] > 0 and median > 0:
            per_sample = median * state[PERIOD] * 1e-9
            # The share left is zero at silence and 1 at the usual rate.
            if per_sample >= _LEAST_REQUESTS and q05 > _STEADY_SHARE * median and x <= _SILENT_SHARE * median:
                best, what = max(best, 3.0), SILENT
            elif (
                median * _SLOW_NS * 1e-9 >= _LEAST_SLOW_REQUESTS
                and numbers[SLOW] <= 2 * _SILENT_SHARE * median
                and x <= _SILENT_SHARE * median
            ):
                best, what = max(best, 2.0), SILENT
        if rule[SATURATION] > 0:
            full = abs(rule[FULL])
            share = x / full if rule[FULL] > 0 else 1.0 - x / full
            usual = median / full if rule[FULL] > 0 else 1.0 - median / full
            limit = rule[SATURATION]
            if share >= limit and share >= usual + 0.5 * (1.0 - limit):
                near = 1.05 + (share - limit) / max(1.0 - limit, 1e-9)
            else:
                near = min(0.95, 0.6 + 4.0 * (share / limit - 0.9)) if share > usual + 0.02 else 0.0
            if near > best:
                best, what = near, SATURATED
        if rule[FLAT] > 0 and x != 0.0 and state[RUN] >= 20:
            distinct = 1
            for j in range(1, fill):
                if known[j] != known[j - 1]:
                    distinct += 1
            if distinct > 0.7 * fill:
                flat = (time - state[RUN_FROM]) * 1e-9 / rule[FLAT]
                if flat > best:
                    best, what = flat, FLATLINE
        best = min(best * sensitivity, MAX_SCORE)
        score[i], about[i] = best, what
        numbers[SCORE] = best

        if best < _CALM or what == NONE:
            state[ODD_FROM] = NEVER
            # A value that repeats is learned only where repeating is not what is watched for.
            if rule[FLAT] == 0 or state[RUN] < 20:
                learn(ring[s], ordered[s], state, time, x, horizon_ns)
        elif state[ODD_FROM] == NEVER:
            state[ODD_FROM] = time
        elif time - state[ODD_FROM] >= adopt_ns:
            # It stayed: what was an anomaly is the new normal, learned from here on.
            state[FILL] = 0
            state[UPDATES] = 1
            state[FIRST] = time
            state[ODD_FROM] = NEVER
            state[RUN], state[RUN_FROM] = 0, time
            numbers[SCORE] = 0.0
