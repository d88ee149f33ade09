"""Windows give the same features however the input is split, ordered within the lateness, or resumed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headspring.proto.clock import NS_PER_S
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricKind
from headspring.streaming.windows.state import Features, PaneState, WindowSpec

LATENESS_NS = 5 * NS_PER_S
SPEC = WindowSpec(pane_ns=10 * NS_PER_S, panes=30, lateness_ns=LATENESS_NS, max_series=1000)
START_NS = 1_700_000_000 * NS_PER_S
GAUGE, COUNTER, DELTA = (METRIC_KIND_CODE[kind] for kind in (MetricKind.GAUGE, MetricKind.COUNTER, MetricKind.DELTA))
KIND_OF = {1: GAUGE, 2: COUNTER, 3: DELTA}
Sample = tuple[int, int, float]
"""Series, time (ns), value."""

VALUES = st.one_of(st.floats(-1e9, 1e9), st.floats(1e15, 1e15 + 10), st.just(math.nan), st.integers(0, 5).map(float))
# Crowded enough for samples of one series to overtake each other, long enough for windows to slide.
TIMES_NS = st.one_of(st.integers(0, 20_000), st.integers(290_000, 310_000), st.integers(0, 400_000)).map(
    lambda ms: START_NS + ms * 1_000_000
)
SAMPLES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), TIMES_NS, VALUES),
    min_size=1,
    max_size=60,
    unique_by=lambda sample: (sample[0], sample[1]),
)


def in_order(samples: list[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: (sample[1], sample[0]))


def shuffled(samples: list[Sample], delays: list[float]) -> list[Sample]:
    """Each sample arrives up to just under the lateness after its time."""
    arrival = [
        (sample[1] + delays[place % len(delays)] * LATENESS_NS, place) for place, sample in enumerate(in_order(samples))
    ]
    ordered = in_order(samples)
    return [ordered[place] for _, place in sorted(arrival)]


def feed(state: PaneState, samples: list[Sample]) -> None:
    state.take(
        np.array([sample[0] for sample in samples], dtype=np.uint64),
        np.array([sample[1] for sample in samples], dtype=np.int64),
        np.array([sample[2] for sample in samples], dtype=np.float64),
        np.array([KIND_OF[sample[0]] for sample in samples], dtype=np.uint8),
    )


def by_series(features: Features) -> dict[int, tuple[float, ...]]:
    return {
        int(sid): (
            int(features.count[row]), features.mean[row], features.std[row], features.minimum[row],
            features.maximum[row], features.first[row], features.last[row], int(features.last_time_ns[row]),
            features.recent_mean[row], int(features.recent_count[row]),
        )
        for row, sid in enumerate(features.series_id)
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    samples=SAMPLES,
    delays=st.lists(st.floats(0, 0.999), min_size=1, max_size=7),
    cuts=st.sets(st.integers(1, 59)),
    looks=st.sets(st.integers(1, 59)),
    resumes=st.sets(st.integers(1, 59), max_size=3),
)
def test_split_order_and_resumption_change_nothing(
    samples: list[Sample], delays: list[float], cuts: set[int], looks: set[int], resumes: set[int]
) -> None:
    plain = PaneState(SPEC)
    feed(plain, in_order(samples))

    arrived = shuffled(samples, delays)
    state = PaneState(SPEC)
    edges = sorted({0, len(arrived), *(cut for cut in cuts | looks | resumes if cut < len(arrived))})
    for start, end in pairwise(edges):
        feed(state, arrived[start:end])
        if end in looks:
            state.features()
        if end in resumes:
            resumed = PaneState.load(SPEC, state.dump())
            assert resumed is not None
            state = resumed
    assert state.late == 0
    assert by_series(state.features(everything=True)) == by_series(plain.features(everything=True))


def reference(samples: list[Sample]) -> dict[int, tuple[float, ...]]:
    """The definition in plain Python: rates, window of 30 panes up to the newest, then statistics."""
    result: dict[int, tuple[float, ...]] = {}
    for series in {sample[0] for sample in samples}:
        rates: list[tuple[int, float]] = []
        previous: tuple[int, float] | None = None
        for _, time, value in in_order([sample for sample in samples if sample[0] == series]):
            if not math.isfinite(value):
                previous = None
                continue
            if KIND_OF[series] == GAUGE:
                rates.append((time, value))
                continue
            if previous is not None and time - previous[0] <= 300 * NS_PER_S:
                grew = value
                if KIND_OF[series] == COUNTER and value >= previous[1]:
                    grew = value - previous[1]
                rates.append((time, grew / ((time - previous[0]) * 1e-9)))
            previous = (time, value)
        if not rates:
            continue
        newest = rates[-1][0] // SPEC.pane_ns
        inside = [(time, x) for time, x in rates if time // SPEC.pane_ns > newest - SPEC.panes]
        xs = np.array([x for _, x in inside])
        recent = np.array([x for time, x in inside if time // SPEC.pane_ns == newest])
        result[series] = (
            xs.size, xs.mean(), xs.std(), xs.min(), xs.max(), xs[0], xs[-1], inside[-1][0], recent.mean(), recent.size,
        )  # fmt: skip
    return result


@settings(max_examples=150, deadline=None)
@given(samples=SAMPLES)
def test_features_are_what_their_definition_says(samples: list[Sample]) -> None:
    state = PaneState(SPEC)
    feed(state, in_order(samples))
    got, wanted = by_series(state.features(everything=True)), reference(samples)
    assert got.keys() == wanted.keys()
    for series, row in wanted.items():
        scale = max(abs(row[3]), abs(row[4]), 1e-300)
        for place, (mine, theirs) in enumerate(zip(got[series], row, strict=True)):
            assert abs(mine - theirs) <= 1e-7 * scale, (place, mine, theirs)


@settings(max_examples=50, deadline=None)
@given(samples=SAMPLES, again=st.integers(1, 60))
def test_the_same_input_twice_changes_nothing(samples: list[Sample], again: int) -> None:
    once, twice = PaneState(SPEC), PaneState(SPEC)
    feed(once, in_order(samples))
    feed(twice, in_order(samples))
    feed(twice, in_order(samples)[-again:])
    assert by_series(twice.features(everything=True)) == by_series(once.features(everything=True))


@settings(max_examples=30, deadline=None)
@given(samples=SAMPLES, cut=st.integers(0, 60))
def test_only_changed_series_are_emitted(samples: list[Sample], cut: int) -> None:
    ordered = in_order(samples)
    state = PaneState(SPEC)
    if ordered[:cut]:
        feed(state, ordered[:cut])
    state.features()
    if ordered[cut:]:
        feed(state, ordered[cut:])
    rows = by_series(state.features())
    assert rows.keys() <= {sample[0] for sample in ordered[cut:] if math.isfinite(sample[2])}
    assert len(state.features()) == 0
