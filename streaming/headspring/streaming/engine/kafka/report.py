"""Health of a stage put together from its partitions, and figures about a process's share of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headspring.streaming.engine.health import StageHealth, StageState

_WORST_FIRST = (StageState.BACKING_OFF, StageState.STARTING, StageState.RUNNING, StageState.STOPPED)
NOTHING_YET = StageHealth(
    state=StageState.RUNNING, lag=0, records_in=0, records_out=0, errors=0, dead_letters=0, restarts=0, last_batch_s=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMetrics:
    """One process's share of a stage. Counters are since the engine started."""

    partitions: int
    """Numbers owned now."""
    asleep: int
    """Of these, without a runner: nothing ever came."""
    rebalances: int
    """Assignments received from the group."""
    leases_lost: int
    """Numbers that went to others before the work under way was committed."""
    commits: int
    commit_retries: int
    """Commits that the broker could not take at once, mostly during a rebalance."""
    last_commit_s: float
    missed: int
    """Records that retention deleted before they were read."""
    buffered_bytes: int
    """Read ahead and not yet taken."""


def joined_health(parts: Sequence[StageHealth], *, at_least: StageState = StageState.RUNNING) -> StageHealth:
    """The worst state, sums of lag and counters, the longest last batch, the error of the worst part.

    Args:
        parts: Not empty.
        at_least: A state that the whole has even where its parts do better.
    """
    worst = min(parts, key=lambda part: (_WORST_FIRST.index(part.state), not part.last_error))
    return StageHealth(
        state=min(worst.state, at_least, key=_WORST_FIRST.index),
        lag=sum(part.lag for part in parts),
        records_in=sum(part.records_in for part in parts),
        records_out=sum(part.records_out for part in parts),
        errors=sum(part.errors for part in parts),
        dead_letters=sum(part.dead_letters for part in parts),
        restarts=sum(part.restarts for part in parts),
        last_batch_s=max(part.last_batch_s for part in parts),
        last_error=worst.last_error,
    )


def plus(health: StageHealth, **changes: Any) -> StageHealth:
    """The same but for some fields."""
    return replace(health, **changes)
