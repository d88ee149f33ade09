"""From scores to alerts: a state machine as a table, one state per series. Arrays in, arrays out.

::

    quiet ──above 1──► pending ──long enough──► firing ──calm──► recovering ──calm long enough──► quiet
                          └──not above 1──► quiet   ▲──not calm────┘
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

QUIET, PENDING, FIRING, RECOVERING = range(4)
CALM, BETWEEN, HIGH, RIPE, CALMED = range(5)
"""What an evaluation says: below the release score; between it and 1; above 1; above 1 for long enough; calm for
long enough."""

TRANSITIONS: Bytes = np.array(
    #  calm        between  high     ripe     calmed
    [
        [QUIET, QUIET, PENDING, PENDING, QUIET],  # quiet
        [QUIET, QUIET, PENDING, FIRING, QUIET],  # pending
        [RECOVERING, FIRING, FIRING, FIRING, RECOVERING],  # firing
        [RECOVERING, FIRING, FIRING, FIRING, QUIET],  # recovering
    ],
    dtype=np.uint8,
)


def step(
    state: Bytes, since_ns: Ints, streak: Ints, score: Floats, now_ns: Ints, need_ns: Ints, need_streak: Ints,
    release: float, recover_ns: int,
) -> tuple[Bytes, Ints, Ints]:  # fmt: skip
    """Moves each series on by one evaluation.

    Args:
        state: Current states, shape (n,).
        since_ns: Event time at which the state began; for `RECOVERING` also the time calm began.
        streak: Evaluations above 1 in a row.
        score: Of this evaluation.
        now_ns: Event time of this evaluation.
        need_ns, need_streak: How long and how often the score must be above 1 to fire.
        release: Below this score a series is calm.
        recover_ns: How long it must stay calm to end.

    Returns:
        New states, since and streak.
    """
    high = score > 1.0
    streak = np.where(high, streak + 1, 0)
    lasted = now_ns - since_ns
    seen = np.where(score < release, CALM, BETWEEN)
    seen = np.where(high, HIGH, seen)
    seen = np.where(high & (state == PENDING) & (lasted >= need_ns) & (streak >= need_streak), RIPE, seen)
    seen = np.where((seen == CALM) & (state == RECOVERING) & (lasted >= recover_ns), CALMED, seen)
    new = TRANSITIONS[state, seen]
    return new, np.where(new != state, now_ns, since_ns), streak


def fired(old: Bytes, new: Bytes) -> Flags:
    """An episode became an alert."""
    return np.asarray((old == PENDING) & (new == FIRING))


def ended(old: Bytes, new: Bytes) -> Flags:
    """An alert is over."""
    return np.asarray((old == RECOVERING) & (new == QUIET))
