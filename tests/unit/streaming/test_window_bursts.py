"""Many samples within the lateness of a window: taken at a cost in proportion to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from headspring.proto.clock import NS_PER_S
from headspring.streaming.windows.state import PaneState, WindowSpec

SPEC = WindowSpec(pane_ns=10 * NS_PER_S, panes=30, lateness_ns=2 * NS_PER_S, max_series=10_000)
SERIES, BATCHES, EACH = 1000, 100, 10


class Counting(PaneState):
    """Counts how often all waiting samples were sorted."""

    evaluations = 0

    def _evaluate(self, *, emit: bool) -> Any:
        self.evaluations += 1
        return super()._evaluate(emit=emit)


def test_samples_that_must_wait_are_not_sorted_anew_with_every_batch() -> None:
    state = Counting(SPEC)
    ids = np.repeat(np.arange(1, SERIES + 1, dtype=np.uint64), EACH)
    kinds = np.ones(ids.size, dtype=np.uint8)
    step_ns = NS_PER_S // (BATCHES * EACH)  # a million samples within one second
    for batch in range(BATCHES):
        times = 1000 * NS_PER_S + np.tile(batch * EACH + np.arange(EACH), SERIES) * step_ns
        state.take(ids, times.astype(np.int64), np.full(ids.size, float(batch)), kinds)
    assert state.evaluations <= 3
    features = state.features()
    assert features.count.tolist() == [BATCHES * EACH] * SERIES
    assert features.last.tolist() == [BATCHES - 1.0] * SERIES
