"""Strong steps of series that report seldom: told at once where a value says enough, and never for a single spike."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.analytics import test_detect_world
from tests.unit.analytics.test_detect_parts import series
from tests.unit.analytics.test_detect_world import START_NS, World, stored

from headspring.analytics.detect.stage import DetectStage
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, FeatureBatch
from headspring.proto.telemetry import SeriesDescriptor
from headspring.proto.topics import FEATURES, SERIES

INTERVAL_S = 5.0
BASELINE = 40


async def first_alert_at(described: list[SeriesDescriptor], rows: list[list[float]]) -> int | None:
    """Feeds rows of values, one value a series, every `INTERVAL_S`; the number of bad rows until the first alert."""
    clock = ManualClock(start_ns=START_NS)
    stage = DetectStage(clock=clock)
    await stage.process(SERIES.name, stored(SERIES.name, [codec.encode(one) for one in described]))
    for number, row in enumerate(rows):
        clock.advance(INTERVAL_S)
        values, n = np.array(row), len(row)
        batch = FeatureBatch(
            tenant="default", window_end_ns=clock.now_ns() + 1, window_ns=300 * NS_PER_S,
            series_id=np.array([one.series_id for one in described], dtype=np.uint64), count=np.ones(n, dtype=np.int64),
            mean=values, std=values * 0, minimum=values, maximum=values, first=values, last=values,
            last_time_ns=np.full(n, clock.now_ns()), recent_mean=values, recent_count=np.ones(n, dtype=np.int64),
        )  # fmt: skip
        for item in await stage.process(FEATURES.name, stored(FEATURES.name, [codec.encode(batch)])):
            codec.decode(Alert, item.value)
            return number - BASELINE + 1
    return None


def latency_and_rate(rate: float) -> tuple[list[SeriesDescriptor], list[float], list[float]]:
    slow = series(semantics.SERVICE_LATENCY_MEAN, "s")
    asked = SeriesDescriptor(
        series_id=8, tenant="default", name=semantics.SERVICE_REQUEST_RATE, unit="1/s", entity=slow.entity
    )
    return [asked, slow], [rate, 0.08], [rate, 0.9]


async def test_a_strong_rise_of_the_mean_of_many_requests_is_told_with_its_first_value() -> None:
    described, well, ill = latency_and_rate(20.0)
    assert await first_alert_at(described, [well] * BASELINE + [ill] * 3) == 1


async def test_a_mean_of_few_requests_or_of_nobody_knows_how_many_needs_a_second_value() -> None:
    described, well, ill = latency_and_rate(2.0)
    assert await first_alert_at(described, [well] * BASELINE + [ill] * 3) == 2
    assert await first_alert_at(described[1:], [well[1:]] * BASELINE + [ill[1:]] * 3) == 2


async def test_a_strong_step_of_a_gauge_of_unknown_meaning_is_told_with_its_second_value() -> None:
    gauge = [series("orders_in_queue", "{orders}")]
    assert await first_alert_at(gauge, [[50.0]] * BASELINE + [[400.0]] * 3) == 2
    assert await first_alert_at(gauge, [[50.0]] * BASELINE + [[400.0]] + [[50.0]] * 20) is None


async def test_a_gauge_of_unknown_meaning_that_is_somewhat_high_must_last() -> None:
    gauge = [series("orders_in_queue", "{orders}")]
    found = await first_alert_at(gauge, [[50.0]] * BASELINE + [[100.0]] * 12)
    assert found is not None
    assert found >= 7, "thirty seconds"


@pytest.mark.parametrize("seed", range(5))
async def test_healthy_services_that_report_every_five_seconds_give_no_alert(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_detect_world, "BUCKET_S", INTERVAL_S)
    world = World(seed=seed)
    await world.run(900)
    assert [alert.summary for alert in world.alerts] == []
