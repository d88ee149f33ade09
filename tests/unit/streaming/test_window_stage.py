"""The window stage: fast, bounded, resumable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import FeatureBatch
from headspring.proto.errors import ConfigError, ContractError
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricBatch, MetricKind
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.windows.stage import WindowStage
from headspring.streaming.windows.state import PaneState, WindowSpec

START_S = 1_700_000_000


def stored(
    samples: Sequence[tuple[int, float, float]],
    kind: MetricKind = MetricKind.GAUGE,
    tenant: str = "default",
    shard: int = 0,
) -> StoredRecord:
    """Samples (series, second, value) as one record."""
    batch = MetricBatch(
        tenant=tenant,
        shard=shard,
        series_id=np.array([sample[0] for sample in samples], dtype=np.uint64),
        time_ns=np.array([round((START_S + sample[1]) * NS_PER_S) for sample in samples], dtype=np.int64),
        value=np.array([sample[2] for sample in samples], dtype=np.float64),
        kind=np.full(len(samples), METRIC_KIND_CODE[kind], dtype=np.uint8),
    )
    return StoredRecord(
        topic="telemetry.metrics", partition=0, offset=0, record=Record(key=b"", value=codec.encode(batch), time_ns=1)
    )


def decoded(out: Sequence[Outgoing]) -> list[FeatureBatch]:
    return [codec.decode(FeatureBatch, item.value) for item in out]


def started(**options: float) -> tuple[WindowStage, ManualClock]:
    clock = ManualClock(start_ns=START_S * NS_PER_S)
    stage = WindowStage(clock=clock, **options)  # type: ignore[arg-type]  # numbers
    stage.restore(b"")
    return stage, clock


async def send(stage: WindowStage, *records: StoredRecord) -> list[FeatureBatch]:
    return decoded(await stage.process("telemetry.metrics", records))


async def test_the_first_bad_sample_is_in_the_features_of_the_next_evaluation() -> None:
    stage, clock = started()
    for second in range(300):
        await send(stage, stored([(7, second, 1.0)]))
        clock.advance(1)
    assert await send(stage, stored([(7, 300, 1.0)])) != []
    clock.advance(0.1)
    assert await send(stage, stored([(7, 300.1, 50.0)])) == []  # an evaluation was just now
    waited_s = 0.0
    out: list[FeatureBatch] = []
    while not out:
        clock.advance(stage.tick_s)
        waited_s += stage.tick_s
        out = decoded(await stage.tick(clock.now_ns()))
    assert waited_s <= 1.0
    features = out[0]
    assert features.last.tolist() == [50.0]
    assert features.recent_mean.tolist() == [25.5]
    assert features.recent_count.tolist() == [2]
    assert features.count.tolist() == [292]
    assert features.mean[0] == pytest.approx((291 + 50) / 292)
    assert features.window_end_ns == START_S * NS_PER_S + 300_100_000_001


async def test_features_of_an_unchanged_series_are_not_repeated() -> None:
    stage, clock = started()
    await send(stage, stored([(1, 0, 1.0), (2, 0, 1.0)]))
    clock.advance(1)
    out = await send(stage, stored([(2, 1, 3.0)]))
    assert [batch.series_id.tolist() for batch in out] == [[2]]
    clock.advance(1)
    assert await stage.tick(clock.now_ns()) == []


async def test_counters_become_rates_and_a_reset_is_no_negative_rate() -> None:
    stage, clock = started()
    out = await send(
        stage, stored([(1, 0, 100.0), (1, 10, 150.0), (1, 20, 30.0), (1, 30, 40.0)], kind=MetricKind.COUNTER)
    )
    assert len(out) == 1
    assert out[0].count.tolist() == [3]
    assert out[0].maximum.tolist() == [5.0]
    assert out[0].minimum.tolist() == [1.0]
    assert out[0].first.tolist() == [5.0]
    assert clock.now_ns() == out[0].emitted_ns


async def test_a_gap_ends_a_counters_history() -> None:
    stage, _ = started()
    out = await send(
        stage,
        stored([(1, 0, 100.0), (1, 10, float("nan")), (1, 20, 900.0), (1, 30, 910.0)], kind=MetricKind.COUNTER),
    )
    assert (out[0].count.tolist(), out[0].mean.tolist()) == ([1], [1.0])


async def test_late_samples_are_counted_per_series_and_a_fast_clock_makes_nobody_else_late() -> None:
    stage, clock = started(lateness_s=5.0)
    await send(stage, stored([(1, 3600, 1.0), (2, 0, 1.0)]))  # series 1 is an hour ahead
    await send(stage, stored([(2, 10, 2.0), (2, 6, 1.5), (2, 5, 9.0), (2, 4, 9.0)]))
    clock.advance(1)
    features = decoded(await stage.tick(0))[0]
    row = features.series_id.tolist().index(2)
    assert features.count[row] == 3
    assert features.maximum[row] == 2.0
    assert stage.counts()["late"] == 2


async def test_tenants_and_shards_do_not_mix() -> None:
    stage, _ = started()
    out = await send(
        stage, stored([(1, 0, 1.0)]), stored([(1, 0, 2.0)], tenant="other"), stored([(1, 0, 3.0)], shard=1)
    )
    assert [(batch.tenant, batch.shard, batch.last.tolist()) for batch in out] == [
        ("default", 0, [1.0]), ("other", 0, [2.0]), ("default", 1, [3.0]),
    ]  # fmt: skip


async def test_large_values_keep_their_small_spread() -> None:
    stage, _ = started()
    out = await send(stage, stored([(1, second, 1e12 + second % 2) for second in range(300)]))
    assert out[0].std[0] == pytest.approx(0.5, rel=1e-3)


async def test_a_stage_goes_on_from_its_snapshot_as_if_nothing_had_happened() -> None:
    plain, clock = started()
    first = stored([(n, second, float(n * second)) for second in range(40) for n in range(50)])
    second = stored([(n, second, float(second)) for second in range(40, 50) for n in range(0, 60, 3)])
    await send(plain, first, stored([(1, 0, 1.0)], tenant="other"))
    resumed = WindowStage(clock=clock)
    resumed.restore(plain.snapshot())
    clock.advance(2)
    ours, theirs = await send(resumed, second), await send(plain, second)
    assert len(ours) >= 1
    assert [codec.encode(batch) for batch in ours if batch.tenant == "default"] == [
        codec.encode(batch) for batch in theirs if batch.tenant == "default"
    ]


async def test_a_snapshot_of_other_windows_is_not_used() -> None:
    stage, clock = started()
    await send(stage, stored([(1, 0, 1.0)]))
    other = WindowStage(clock=clock, pane_s=5.0)
    other.restore(stage.snapshot())
    assert other.counts()["series"] == 0


@pytest.mark.parametrize("state", [b"junk", b"PK\x03\x04junk"])
async def test_a_broken_snapshot_is_refused(state: bytes) -> None:
    stage, _ = started()
    with pytest.raises(ContractError, match="no window snapshot"):
        stage.restore(state)


async def test_a_record_that_is_no_batch_changes_nothing() -> None:
    stage, _ = started()
    bad = StoredRecord(
        topic="telemetry.metrics", partition=0, offset=0, record=Record(key=b"", value=b"\xff\xff", time_ns=1)
    )
    with pytest.raises(ContractError):
        await send(stage, stored([(1, 0, 1.0)]), bad)
    assert stage.counts()["series"] == 0


async def test_series_over_the_limit_are_counted_and_left_out() -> None:
    stage, _ = started(max_series=10)
    out = await send(stage, stored([(n, 0, 1.0) for n in range(1, 16)]))
    assert len(out[0]) == 10
    assert stage.counts() == {"series": 10, "late": 0, "homeless": 5, "repeated": 0}


async def test_silent_series_are_forgotten_and_the_others_keep_their_windows() -> None:
    stage, clock = started()
    await send(stage, stored([(n, 0, 1.0) for n in range(100)]))
    await send(stage, stored([(n, 100, 2.0) for n in range(50)]))
    clock.advance(3700)
    await send(stage, stored([(n, 3700, 3.0) for n in range(50)]))
    await stage.tick(clock.now_ns())
    assert stage.counts()["series"] == 50
    clock.advance(1)
    out = await send(stage, stored([(n, 3701, 4.0) for n in range(50)]))
    assert out[0].mean.tolist() == [3.5] * 50


def test_the_table_grows_with_the_series_and_finds_each_again() -> None:
    state = PaneState(WindowSpec(pane_ns=10 * NS_PER_S, panes=3, lateness_ns=0, max_series=100_000))
    ids = np.random.default_rng(5).permutation(50_000).astype(np.uint64) * np.uint64(2**40)  # low bits all zero
    ones, kinds = np.ones(ids.size), np.ones(ids.size, dtype=np.uint8)
    state.take(ids, np.full(ids.size, 1), ones, kinds)
    state.take(ids[::-1].copy(), np.full(ids.size, 2), 2 * ones, kinds)
    features = state.features()
    assert sorted(features.series_id.tolist()) == sorted(ids.tolist())
    assert set(features.count.tolist()) == {2}


@pytest.mark.parametrize(
    "options",
    [{"pane_s": 7.0}, {"pane_s": 0.0}, {"lateness_s": -1.0}, {"lateness_s": 300.0}, {"evaluate_every_s": 0.0}],
)
def test_impossible_lengths_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        started(**options)
