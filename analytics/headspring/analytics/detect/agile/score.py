"""One score of a series, or of the series of one entity, from two causal views: forecast error and level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from headspring.analytics.detect.agile.autoregression import errors
from headspring.analytics.detect.agile.level import distances
from headspring.analytics.detect.agile.memory import Floats

_OUTSIDE = 1.5
"""Half widths from the median up to which the level says nothing: half as far again as the edge of the band, so
that peaks of a rhythm and slow trends, which pass the edge a little, stay quiet."""
_LEVEL = 3.0
"""Error scales that one half width beyond counts for: at its cap the level counts a third of the largest error."""
SCALES = (3, 10, 30, 100)
"""Rows of the trailing means. Incidents last minutes to hours: the short ones tell early, the long ones hold on."""
_ANOMALOUS = 3.0
"""Mean evidence that scores 1. Of 400,000 independent samples each, none passes it when they are normal or Laplace,
one in a thousand when tails are heavy (Student's t with 3 degrees of freedom, lognormal)."""
CORROBORATING = 5
"""Series of an entity whose evidence is averaged: trouble of a machine shows in several metrics, noise in one."""


def evidence(values: Floats) -> Floats:
    """Evidence of every row by itself that something is wrong, in error scales; shape (n,) in and out.

    NaN where the value is, and while warming up.
    """
    distance, width = distances(values)
    return errors(values, width) + _LEVEL * np.maximum(distance - _OUTSIDE, 0.0)


@njit(cache=True, nogil=True)
def score(strength: Floats) -> Floats:
    """Mean of the trailing means of evidence over `SCALES` rows, more than 1 for an anomaly; shape (n,) in and out.

    Rows without evidence have no score and take no part. The sums are added anew for every row: a running sum would
    make the score depend on the rounding of rows long gone.
    """
    out = np.full(strength.size, np.nan)
    longest = SCALES[-1]
    recent = np.zeros(longest)
    seen = 0
    for t in range(strength.size):
        if math.isnan(strength[t]):
            continue
        recent[seen % longest] = strength[t]
        seen += 1
        total = 0.0
        mean = 0.0
        back = 0
        for rows in SCALES:
            until = min(rows, seen)
            while back < until:
                total += recent[(seen - 1 - back) % longest]
                back += 1
            mean += total / until
        out[t] = mean / (len(SCALES) * _ANOMALOUS)
    return out


def together(times: Sequence[NDArray[np.int64]], strengths: Sequence[Floats]) -> tuple[list[NDArray[np.int64]], Floats]:
    """Evidence of an entity at each moment: the mean of its strongest series, `CORROBORATING` at most.

    Args:
        times: Of each series, shape (n_i,), ascending.
        strengths: Evidence of each series, shape (n_i,).

    Returns:
        For each series the place of its rows among the moments, shape (n_i,); evidence at each moment, shape (m,),
        NaN where no series has any.
    """
    moments, joined = np.unique(np.concatenate(times), return_inverse=True)
    places = np.split(joined, np.cumsum([part.size for part in times])[:-1])
    table = np.full((moments.size, len(times)), -1.0)
    for column, (place, strength) in enumerate(zip(places, strengths, strict=True)):
        table[place, column] = np.where(np.isnan(strength), -1.0, strength)
    known = np.minimum((table >= 0.0).sum(axis=1), CORROBORATING)
    top = -np.partition(-table, min(CORROBORATING, len(times)) - 1, axis=1)[:, :CORROBORATING]
    with np.errstate(invalid="ignore"):
        return places, np.where(known > 0, np.maximum(top, 0.0).sum(axis=1) / np.maximum(known, 1), np.nan)
