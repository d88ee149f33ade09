"""Settings, policies, the state table and the stage's edges."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.analytics.test_detect_world import START_NS, stored

from headspring.analytics.detect import hold
from headspring.analytics.detect.baseline import RING, usual
from headspring.analytics.detect.policy import Policy, rule_of
from headspring.analytics.detect.stage import DetectConfig, DetectStage
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, FeatureBatch
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import MetricKind, SeriesDescriptor
from headspring.proto.topics import FEATURES, SERIES


def test_settings_survive_json() -> None:
    config = DetectConfig(latency_ratio=2.0, min_updates=30, resources=False)
    assert DetectConfig.from_json(config.to_json()) == config
    assert DetectConfig.from_json({}) == DetectConfig()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"latencyratio": 2}, "latencyratio"),
        ({"latency_ratio": 0.5}, "latency_ratio"),
        ({"latency_ratio": "2"}, "latency_ratio"),
        ({"latency_ratio": float("nan")}, "latency_ratio"),
        ({"min_updates": 20.5}, "min_updates"),
        ({"resources": 1}, "resources"),
        ({"error_points": True}, "error_points"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(values: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DetectConfig.from_json(values)


def test_spreads_of_a_normal_sample_are_its_standard_deviation_and_outliers_do_not_move_them() -> None:
    values = np.random.default_rng(0).normal(100, 5, size=(200, RING)).astype(np.float32)
    clean = usual(values, np.full(200, RING))
    assert abs(float(np.median(clean.up)) - 5) < 1
    assert abs(float(np.median(clean.down)) - 5) < 1
    values[:, :4] = 1e6
    dirty = usual(values, np.full(200, RING))
    assert abs(float(np.median(dirty.median)) - 100) < 1
    assert float(np.median(dirty.up)) < 8


def test_the_table_of_states_fires_only_after_pending_and_ends_only_after_recovering() -> None:
    for old in range(4):
        for new in set(hold.TRANSITIONS[old].tolist()):
            assert not (new == hold.FIRING and old == hold.QUIET)
            assert not (new == hold.QUIET and old == hold.FIRING)


def series(
    name: str,
    unit: str = "1",
    kind: MetricKind = MetricKind.GAUGE,
    entity: str = "service:default/a",
    **labels: str,
) -> SeriesDescriptor:
    return SeriesDescriptor(
        series_id=7, tenant="default", name=name, unit=unit, kind=kind, entity=entity, labels=labels
    )


@pytest.mark.parametrize(
    ("described", "policy"),
    [
        (series(semantics.SERVICE_LATENCY_P95, "s"), Policy.LATENCY),
        (series(semantics.EDGE_ERROR_RATIO), Policy.ERRORS),
        (series(semantics.SERVICE_REQUEST_RATE, "1/s"), Policy.REQUESTS),
        (series("http_server_request_duration_seconds_sum", "s", MetricKind.COUNTER), Policy.NONE),
        (series("http.client.request.duration_count", "1", MetricKind.COUNTER), Policy.NONE),
        (series("system.cpu.utilization", entity="host:default/h", state="idle"), Policy.NONE),
        (series("system.cpu.utilization", entity="host:default/h", state="user"), Policy.SHARE),
        (series("system.disk.io", "By", MetricKind.COUNTER, entity="host:default/h"), Policy.NONE),
        (series("process.memory.usage", "By", MetricKind.UPDOWN), Policy.RESOURCE),
        (series("jvm.gc.duration_count", "1", MetricKind.COUNTER), Policy.NONE),
        (series("orders_in_queue", "{orders}"), Policy.LEVEL),
        (series("orders_in_queue", "{orders}", entity=""), Policy.NONE),
    ],
)
def test_a_series_gets_the_judge_of_its_meaning(described: SeriesDescriptor, policy: Policy) -> None:
    assert rule_of(described).policy is policy


class Feed:
    """One series, a value every five seconds."""

    def __init__(self, described: SeriesDescriptor, config: DetectConfig | None = None) -> None:
        self.clock = ManualClock(start_ns=START_NS)
        self.stage = DetectStage(clock=self.clock, config=config)
        self.described = described
        self.alerts: list[Alert] = []

    async def values(self, values: list[float]) -> None:
        await self.stage.process(SERIES.name, stored(SERIES.name, [codec.encode(self.described)]))
        for value in values:
            self.clock.advance(5)
            one = np.array([value])
            batch = FeatureBatch(
                tenant="default", window_end_ns=self.clock.now_ns() + 1, window_ns=300 * NS_PER_S,
                series_id=np.array([7], dtype=np.uint64), count=np.array([1]), mean=one, std=one * 0, minimum=one,
                maximum=one, first=one, last=one, last_time_ns=np.array([self.clock.now_ns()]), recent_mean=one,
                recent_count=np.array([1]),
            )  # fmt: skip
            # Twice: features that bring nothing new must not count.
            for _ in range(2):
                out = await self.stage.process(FEATURES.name, stored(FEATURES.name, [codec.encode(batch)]))
                self.alerts += [codec.decode(Alert, item.value) for item in out]


async def test_a_busy_minute_of_a_process_is_no_alert_and_three_are_for_information() -> None:
    noise = (100e6 + 5e6 * np.random.default_rng(1).standard_normal(200)).tolist()
    feed = Feed(series("process.memory.usage", "By", MetricKind.UPDOWN))
    await feed.values([*noise[:80], *[400e6] * 12, *noise[80:120]])
    assert feed.alerts == []
    await feed.values([500e6] * 40)
    assert {(alert.name, str(alert.severity)) for alert in feed.alerts} == {("resource use high", "info")}
    off = Feed(series("process.memory.usage", "By", MetricKind.UPDOWN), DetectConfig(resources=False))
    await off.values([*noise[:80], *[500e6] * 40])
    assert off.alerts == []


async def test_a_share_at_its_limit_for_a_minute_is_told_unless_it_is_always_there() -> None:
    feed = Feed(series("db.pool.utilization"))
    await feed.values([0.4] * 40 + [0.99] * 10)
    assert feed.alerts == []
    await feed.values([0.99] * 6)
    assert [alert.name for alert in feed.alerts][:1] == ["saturated"]
    chronic = Feed(series("system.memory.utilization", entity="host:default/h"))
    await chronic.values([0.96] * 200)
    assert chronic.alerts == []


async def test_an_unknown_level_must_last_and_a_single_spike_of_a_latency_is_nothing() -> None:
    noise = (50 + 2 * np.random.default_rng(2).standard_normal(200)).tolist()
    feed = Feed(series("orders_in_queue", "{orders}"))
    await feed.values([*noise[:60], 400.0, *noise[60:80], *[400.0] * 12])
    assert {alert.name for alert in feed.alerts} == {"level high"}
    spike = Feed(series(semantics.SERVICE_LATENCY_MEAN, "s"))
    await spike.values([0.05] * 40 + [3.0] + [0.05] * 20 + [3.0] + [0.05] * 20)
    assert spike.alerts == []


@pytest.mark.parametrize("state", [b"nonsense", b"PK\x03\x04half", b"\x80\x04"])
def test_bytes_that_are_no_snapshot_are_refused(state: bytes) -> None:
    with pytest.raises(ContractError, match="snapshot"):
        DetectStage(clock=ManualClock()).restore(state)


async def test_a_record_that_is_no_feature_batch_is_refused_and_nothing_was_used() -> None:
    stage = DetectStage(clock=ManualClock())
    with pytest.raises(ContractError):
        await stage.process(FEATURES.name, stored(FEATURES.name, [b"\xff\xff\xff"]))
    assert stage.counts() == {"series": 0, "homeless": 0, "firing": 0}


async def test_series_beyond_the_limit_are_counted_and_left_out() -> None:
    stage = DetectStage(clock=ManualClock(), config=DetectConfig(max_series=3))
    many = [
        SeriesDescriptor(
            series_id=place + 1, tenant="default", name=semantics.SERVICE_ERROR_RATIO, entity=f"service:default/{place}"
        )
        for place in range(5)
    ]
    await stage.process(SERIES.name, stored(SERIES.name, [codec.encode(one) for one in many]))
    assert stage.counts() == {"series": 3, "homeless": 2, "firing": 0}
