"""The sliding window: a tenth of it is the unit in which use is counted and forgotten.

A use counts until the slice in which it happened lies wholly before the window. So no window ever holds more than
the limit, a key needs eleven numbers at most, and use comes back a tenth of the window late in the worst case.
"""

from __future__ import annotations

from collections.abc import Mapping

from headspring.knowledge.coordination.port import Decision

SLICES = 10
"""Per window; `redis/scripts.py` does the same on the server."""


def checked(limit: int, window_s: float, cost: int) -> float:
    """Seconds of a slice.

    Raises:
        ValueError: as `RateLimiter.allow`.
    """
    if limit < 1 or window_s <= 0 or not 0 <= cost <= limit:
        raise ValueError(
            f"limit {limit}, window {window_s:g} s, cost {cost}: wanted above 0, and cost within the limit"
        )
    return window_s / SLICES


def decide(used: Mapping[int, int], *, now_s: float, slice_s: float, limit: int, cost: int) -> Decision:
    """What is to be said; whoever asks adds an allowed cost to the slice of now.

    Args:
        used: by number of slice, `floor(time / slice_s)`, those that count.
    """
    total = sum(used.values())
    wanted = max(1, cost)
    if total + wanted <= limit:
        return Decision(allowed=True, remaining=limit - total - cost, retry_after_s=0.0)
    left, retry_s = total, 0.0
    for number in sorted(used):
        left -= used[number]
        retry_s = (number + 1 + SLICES) * slice_s - now_s
        if left + wanted <= limit:
            break
    return Decision(allowed=False, remaining=max(0, limit - total), retry_after_s=max(0.0, retry_s))


def oldest(now_s: float, slice_s: float) -> int:
    """The number of the first slice that still counts."""
    return int(now_s // slice_s) - SLICES
