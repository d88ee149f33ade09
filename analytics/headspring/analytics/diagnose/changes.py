"""Changes as a bounded prior: only on an entity that other evidence already points at, only before the onset.

Blaming the last deploy is wrong most of the time (`RootCauseBench`: 1 of 24), so recency alone adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from headspring.analytics.diagnose.case import Clue
from headspring.proto.clock import NS_PER_S
from headspring.proto.incident import CauseKind
from headspring.proto.telemetry import Change, ChangeKind

MAX_LLR = 1.5
"""A change multiplies the odds by 4.5 at most."""
_DECAY_S = 900.0
"""The prior falls to a third in this time between change and onset."""
_HORIZON_S = 3600.0
_ACTIVE = (ChangeKind.DEPLOY, ChangeKind.CONFIG, ChangeKind.FLAG, ChangeKind.SCALE, ChangeKind.ROLLBACK)


def change_clues(
    changes: Iterable[Change], own: Mapping[str, float], onset_ns: int, *, tolerance_ns: int, mechanism: float = 1.0
) -> list[Clue]:
    """The nearest change before the onset of every entity whose own evidence reaches `mechanism`.

    Args:
        own: Entity → log-likelihood ratio of its other clues.
        tolerance_ns: A change this much after the measured onset still counts as before it.
    """
    nearest: dict[str, Change] = {}
    for change in sorted(changes, key=lambda c: (c.time_ns, c.change_id)):
        lag_ns = onset_ns - change.time_ns
        if change.kind in _ACTIVE and -tolerance_ns <= lag_ns <= _HORIZON_S * NS_PER_S:
            nearest[change.entity] = change
    found = []
    for entity, change in sorted(nearest.items()):
        if own.get(entity, 0.0) < mechanism:
            continue
        lag_s = max(0.0, (onset_ns - change.time_ns) / NS_PER_S)
        name = change.version or change.summary or change.change_id
        found.append(
            Clue(
                entity=entity,
                kind="change",
                llr=MAX_LLR * math.exp(-lag_s / _DECAY_S),
                summary=f"{change.kind.value} {name} {lag_s:.0f} s before the trouble began",
                cause=CauseKind.CHANGE,
                onset_ns=change.time_ns,
                change_id=change.change_id,
            )
        )
    return found
