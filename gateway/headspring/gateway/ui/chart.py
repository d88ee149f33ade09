"""Line charts as numbers: samples in, SVG coordinates out; a template draws them. Pure, no markup here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[int, float]]
"""(unix nanoseconds, value) in time order."""

_SIGMA_PER_MAD = 1.4826
"""Makes the MAD of a normal sample estimate its standard deviation."""
_BAND_SIGMAS = 3.0
"""Half width of the normal band in robust standard deviations."""
_MIN_BAND_SAMPLES = 5
"""Fewer samples before the onset say nothing about what is normal."""
_ROOM = 0.08
"""Share of the height kept free above and below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Geometry in pixels of a `width` × `height` view box."""

    width: int
    height: int
    lines: tuple[str, ...]
    """`points` of a polyline each; a gap in the samples starts a new one."""
    band: tuple[float, float] | None
    """y and height of the normal range."""
    onset_x: float | None
    low: float
    high: float
    """Values at the bottom and the top."""
    first_ns: int
    last_ns: int
    normal: tuple[float, float] | None
    """The normal range in the metric's unit."""
    last: float


def chart(
    series: Sequence[Points], *, width: int = 320, height: int = 72, onset_ns: int = 0,
    normal: tuple[float, float] | None = None,
) -> Chart | None:  # fmt: skip
    """Lines of several series over one scale; None when there is nothing to draw.

    Args:
        series: Samples; values that are not finite are gaps.
        onset_ns: Where trouble began, 0 unknown.
        normal: Range of ordinary values in the metric's unit; None leaves the band out.
    """
    finite = [[point for point in points if np.isfinite(point[1])] for points in series]
    flat = [point for points in finite for point in points]
    if len(flat) < 2:
        return None
    times = [time for time, _ in flat]
    values = [value for _, value in flat] + list(normal or ())
    first, last = min(times), max(times)
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    low, high = low - _ROOM * spread, high + _ROOM * spread
    if min(values) >= 0:
        low = max(low, 0.0)

    def x(time_ns: int) -> float:
        return round((time_ns - first) / max(last - first, 1) * width, 1)

    def y(value: float) -> float:
        return round((high - value) / (high - low) * height, 1)

    lines: list[str] = []
    for points in finite:
        if len(points) < 2:
            continue
        steps = np.diff([time for time, _ in points])
        gap = 4 * float(np.median(steps))
        start = 0
        for cut in [*(np.nonzero(steps > gap)[0] + 1).tolist(), len(points)]:
            lines.append(" ".join(f"{x(time)},{y(value)}" for time, value in points[start:cut]))
            start = cut
    return Chart(
        width=width,
        height=height,
        lines=tuple(lines),
        band=(y(normal[1]), round(y(normal[0]) - y(normal[1]), 1)) if normal else None,
        onset_x=x(onset_ns) if first <= onset_ns <= last else None,
        low=low,
        high=high,
        first_ns=first,
        last_ns=last,
        normal=normal,
        last=max(flat, key=lambda point: point[0])[1],
    )


def normal_range(points: Points, before_ns: int) -> tuple[float, float] | None:
    """Median ± 3 robust standard deviations of the samples before a moment; None when there are too few.

    >>> normal_range([(time, 10.0 + time % 2) for time in range(20)], 10)
    (8.2761, 12.7239)
    """
    values = np.array([value for time, value in points if time < before_ns and np.isfinite(value)])
    if values.size < _MIN_BAND_SAMPLES:
        return None
    middle = float(np.median(values))
    # A flat metric still needs a band that can be seen: 2 % of its level.
    half = max(_BAND_SIGMAS * _SIGMA_PER_MAD * float(np.median(np.abs(values - middle))), 0.02 * abs(middle))
    low = middle - half
    return (max(low, 0.0) if values.min() >= 0 else low), middle + half
