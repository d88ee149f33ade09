"""Judges: from what a series does now and what is usual for it to a score. Pure: columns in, columns out.

A score above 1 means anomaly. Every condition that a judge has gives a ratio to its threshold, and the smallest
counts: only what meets all of them is above 1. The newest value alone must say so too (at half strength), so
that a single spike, which stays in the mean of the last values for a while, counts as one evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.detect.baseline import Floats
from headspring.analytics.detect.config import DetectConfig

NEAR = 3
"""Values that "now" is the mean of."""
RECENT = 8
"""Values kept; the mean of all finds what is too rare for the last three."""
_RELATIVE_FLOOR = 0.10
"""Least spread, as a share of the usual level."""
_RESOURCE_FLOOR = 0.25
_MOST = 100.0
"""Scores end here: beyond, a larger number tells nobody more."""
_CHRONIC = 0.9
"""A share that is usually so high is full by design, as a cache is."""


class JudgeKind(IntEnum):
    """Who found it; the numbers are part of snapshots, the names part of fingerprints."""

    NONE = 0
    LATENCY = 1
    ERRORS = 2
    SILENCE = 3
    SURGE = 4
    NO_DATA = 5
    LEVEL_UP = 6
    LEVEL_DOWN = 7
    RESOURCE = 8
    SATURATION = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a judge sees: columns of shape (n,), one row a series that has just reported."""

    recent: NDArray[np.float64]
    """Last values, newest first, shape (n, RECENT); NaN where there was none yet."""
    median: Floats
    up: Floats
    down: Floats
    mean: Floats
    variance: Floats
    floor: Floats
    scale: Floats
    interval_s: Floats
    """Usual time between values."""
    quiet_s: Floats
    """Time for which values have been below the silence share without a break."""
    rate: Floats
    """Requests per second now of what the series is about; NaN unknown."""
    usual_rate: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Columns of shape (n,)."""

    score: Floats
    alone: Floats
    """Score of the newest value alone: what decides whether it is learned."""
    judge: NDArray[np.uint8]
    value: Floats
    low: Floats
    high: Floats
    """Expected range."""


def latency(sight: Sight, config: DetectConfig) -> Verdict:
    """Up only: many spreads, several times the usual and by some milliseconds."""
    last, near = sight.recent[:, 0], _near(sight)
    # Means of fewer requests than usual vary more, by the square root (standard error of a mean).
    fewer = np.sqrt(np.clip(_ratio(sight.usual_rate, sight.rate), 1.0, 25.0))
    fewer[~np.isfinite(fewer)] = 1.0
    spread = np.maximum(sight.up * fewer, np.maximum(_RELATIVE_FLOOR * sight.median, sight.floor))
    least = config.latency_least_s * sight.scale

    def score(value: Floats) -> Floats:
        rise = value - sight.median
        parts = [rise / (config.latency_spreads * spread), rise / ((config.latency_ratio - 1.0) * sight.median + 1e-12)]
        if config.latency_least_s > 0:
            parts.append(rise / least)
        return _least(*parts)

    high = sight.median + np.maximum(
        config.latency_spreads * spread, np.maximum((config.latency_ratio - 1.0) * sight.median, least)
    )
    alone = score(last)
    return _verdict(
        JudgeKind.LATENCY,
        np.minimum(score(near), 2 * alone),
        alone,
        near,
        np.maximum(sight.median - 2 * sight.down, 0),
        high,
    )


def errors(sight: Sight, config: DetectConfig) -> Verdict:
    """Up only: points of the ratio, and enough failed requests to tell it from chance."""
    last, near = sight.recent[:, 0], _near(sight)
    base = np.maximum(sight.median, sight.mean)
    points = np.maximum(config.error_points, 3.0 * sight.up)
    known = np.isfinite(sight.rate)
    requests = np.where(known, sight.rate * sight.interval_s, 1.0)
    failing = np.nan_to_num(sight.recent) > base[:, None] + 1e-9

    def score(ratio: Floats, values: Floats) -> Floats:
        seen, expected = ratio * requests * values, base * requests * values
        evidence = _least(
            (seen - expected) / config.error_evidence, (seen - expected) / (3.0 * np.sqrt(expected + 1.0))
        )
        return _least((ratio - base) / points, np.where(known, evidence, np.inf))

    count = np.isfinite(sight.recent).sum(axis=1)
    in_near, in_all = failing[:, :NEAR].sum(axis=1), failing.sum(axis=1)
    at_once = known & (last * requests >= 5.0)
    alone = score(last, np.ones(last.size))
    close = np.where((in_near >= 2) | at_once, score(near, np.minimum(count, NEAR).astype(np.float64)), 0.0)
    wide = np.where((in_all >= 3) & (in_near >= 1) & known, score(_mean(sight.recent), count.astype(np.float64)), 0.0)
    return _verdict(JudgeKind.ERRORS, np.maximum(close, wide), alone, near, np.zeros(last.size), base + points)


def requests(sight: Sight, config: DetectConfig) -> Verdict:
    """Silence of a service that is usually asked steadily, or several times its usual requests."""
    last, near = sight.recent[:, 0], _near(sight)
    steady = np.minimum(sight.median, sight.mean)
    # Index of dispersion: 1 for Poisson arrivals, larger for bursts, which need a longer silence to be one.
    counts = np.maximum(sight.mean * sight.interval_s, 1e-12)
    dispersion = np.maximum(sight.variance * sight.interval_s**2 / counts, 1.0)
    missing = steady * sight.quiet_s
    silence = np.where(
        (steady >= config.silence_least_per_s) & (sight.quiet_s > 0),
        _least(missing / (config.silence_evidence * dispersion), np.full(last.size, _MOST)),
        0.0,
    )
    spread = np.maximum(sight.up, _RELATIVE_FLOOR * sight.median + 0.5)

    def surge(value: Floats) -> Floats:
        rise = value - sight.median
        return _least(rise / ((config.surge_ratio - 1.0) * sight.median + 1e-12), rise / (5.0 * spread))

    alone = surge(last)
    rising = np.minimum(surge(near), 2 * alone)
    judge = np.where(silence > rising, JudgeKind.SILENCE, JudgeKind.SURGE)
    return _verdict(
        judge, np.maximum(silence, rising), np.maximum(np.where(silence > 0.5, 2.0, 0.0), alone),
        np.where(silence > rising, last, near), config.silence_share * steady,
        np.maximum(config.surge_ratio * sight.median, sight.median + 5.0 * spread),
    )  # fmt: skip


def level(sight: Sight, config: DetectConfig) -> Verdict:
    """Either direction: many spreads."""
    last, near = sight.recent[:, 0], _near(sight)
    floor = np.maximum(_RELATIVE_FLOOR * np.abs(sight.median), sight.floor)
    above = config.level_spreads * np.maximum(sight.up, floor)
    below = config.level_spreads * np.maximum(sight.down, floor)

    def score(value: Floats) -> tuple[Floats, Floats]:
        return (value - sight.median) / above, (sight.median - value) / below

    (up, down), (up_alone, down_alone) = score(near), score(last)
    up, down = np.minimum(up, 2 * up_alone), np.minimum(down, 2 * down_alone)
    judge = np.where(up >= down, JudgeKind.LEVEL_UP, JudgeKind.LEVEL_DOWN)
    return _verdict(
        judge, np.maximum(up, down), np.maximum(up_alone, down_alone), near, sight.median - below, sight.median + above
    )


def resource(sight: Sight, config: DetectConfig) -> Verdict:
    """Up only, and by several times the usual level."""
    last, near = sight.recent[:, 0], _near(sight)
    spread = np.maximum(sight.up, np.maximum(_RESOURCE_FLOOR * np.abs(sight.median), sight.floor))
    alone = (last - sight.median) / (config.resource_spreads * spread)
    score = np.minimum((near - sight.median) / (config.resource_spreads * spread), 2 * alone)
    low = np.maximum(sight.median - 2 * sight.down, 0)
    return _verdict(JudgeKind.RESOURCE, score, alone, near, low, sight.median + config.resource_spreads * spread)


def saturation(sight: Sight, config: DetectConfig) -> Verdict:
    """A share at its limit that is not always there."""
    last, near = sight.recent[:, 0] / sight.scale, _near(sight) / sight.scale
    chronic = sight.median / sight.scale >= _CHRONIC

    def score(share: Floats) -> Floats:
        # 1 at the limit, below the release score from 5 points under it on.
        return np.where(chronic, 0.0, 1.0 + (share - config.saturation) * 6.5 + 1e-9)

    high = np.full(last.size, config.saturation) * sight.scale
    alone = score(last)
    return _verdict(
        JudgeKind.SATURATION, np.minimum(score(near), 2 * alone), alone, near * sight.scale, np.zeros(last.size), high
    )


def _near(sight: Sight) -> Floats:
    return _mean(sight.recent[:, :NEAR])


def _mean(values: NDArray[np.float64]) -> Floats:
    """Mean of what is there in each row."""
    there = np.isfinite(values)
    return np.asarray(np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1))


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.asarray(over / np.maximum(under, 1e-12))


def _least(*parts: Floats) -> Floats:
    least = parts[0]
    for part in parts[1:]:
        least = np.minimum(least, part)
    return least


def _verdict(
    judge: JudgeKind | NDArray[np.int64], score: Floats, alone: Floats, value: Floats, low: Floats, high: Floats
) -> Verdict:
    kinds = np.broadcast_to(np.asarray(judge, dtype=np.uint8), score.shape)
    clean = np.clip(np.nan_to_num(score, nan=0.0, posinf=_MOST, neginf=0.0), 0.0, _MOST)
    return Verdict(
        score=clean, alone=np.nan_to_num(alone, nan=0.0, posinf=_MOST, neginf=0.0), judge=kinds, value=value, low=low,
        high=high,
    )  # fmt: skip
