"""The window and the detection stage say the same on Kafka, where partitions share them out, as in one process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.real.counting import open_log, running, until, warm
from tests.servers.kafka import Kafka, kafka

from headspring.analytics.detect.stage import DetectConfig, DetectStage
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, FeatureBatch
from headspring.proto.ids import entity_id
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricBatch, MetricKind, SeriesDescriptor
from headspring.proto.topics import ALERTS, FEATURES, METRICS, SERIES, record_key
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.testing import take
from headspring.streaming.windows.stage import WindowStage

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SHARDS = 4
SERVICES = 12
STEPS = 34
"""Seconds of event time, a sample of each series in each."""
FAULT = (16, 21)
"""First and last second in which service 5 is slow."""
START_NS = 1_700_000_000 * NS_PER_S
QUICK = DetectConfig(min_updates=12, min_observed_s=10.0, recover_s=5.0)
FIELDS = ("count", "mean", "std", "minimum", "maximum", "first", "last", "recent_mean", "recent_count")
Features = dict[tuple[int, int], dict[str, float]]
"""Series and time of its newest sample → features, as told last."""


class Windows(WindowStage):
    """Counts its ticks, so that the test knows when a step of time is over."""

    ticks = 0

    async def tick(self, now_ns: int):  # type: ignore[no-untyped-def] # as of the stage
        out = await super().tick(now_ns)
        self.ticks += 1
        return out


class Detect(DetectStage):
    """As `Windows`."""

    ticks = 0

    async def tick(self, now_ns: int):  # type: ignore[no-untyped-def] # as of the stage
        out = await super().tick(now_ns)
        self.ticks += 1
        return out


class Estate:
    """The records of a small estate: mean latency of services, one of which is slow for a while."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(7)
        self._level = self._random.uniform(0.02, 0.1, SERVICES)

    def series(self) -> list[Record]:
        return [
            Record(key=record_key("default", self._shard(place), place), value=codec.encode(one), time_ns=START_NS)
            for place in range(SERVICES)
            for one in (
                SeriesDescriptor(
                    series_id=place + 1, tenant="default", name=semantics.SERVICE_LATENCY_MEAN, unit="s",
                    entity=entity_id("service", f"svc-{place}"), labels={semantics.LABEL_SERVICE: f"svc-{place}"},
                ),
            )
        ]  # fmt: skip

    def metrics(self, second: int) -> list[Record]:
        """One record a shard."""
        values = self._level * self._random.lognormal(0.0, 0.05, SERVICES)
        if FAULT[0] <= second <= FAULT[1]:
            values[5] += 0.5
        now_ns = START_NS + second * NS_PER_S
        records = []
        for shard in range(SHARDS):
            places = np.array([place for place in range(SERVICES) if self._shard(place) == shard])
            batch = MetricBatch(
                tenant="default", shard=shard, series_id=(places + 1).astype(np.uint64),
                time_ns=np.full(places.size, now_ns), value=values[places],
                kind=np.full(places.size, METRIC_KIND_CODE[MetricKind.GAUGE], dtype=np.uint8),
            )  # fmt: skip
            records.append(Record(key=record_key("default", shard), value=codec.encode(batch), time_ns=now_ns))
        return records

    @staticmethod
    def _shard(place: int) -> int:
        return place % SHARDS


async def play(
    log: KafkaLog | SegmentLog,
    clock: ManualClock,
    stages: list[Windows | Detect],
    drain: Callable[[], Awaitable[bool]],
    *,
    objects: int,
) -> None:
    """Second after second: samples, all that follows from them, then the ticks of every stage object.

    Args:
        objects: How many there are once there are records in all partitions.
    """
    estate = Estate()
    await log.append(SERIES.name, estate.series())
    await log.append(METRICS.name, estate.metrics(-1))
    await until(lambda: len(stages) == objects, "all stage objects")
    for second in range(STEPS):
        await log.append(METRICS.name, estate.metrics(second))
        assert await drain()
        # A step of time before a stage object waits for its next tick would be one tick less.
        await until(lambda: sum(not wait.done() for _, wait in clock._sleepers) >= len(stages), "all wait for a tick")
        before = [(stage, stage.ticks) for stage in stages]
        clock.advance(1.0)
        await until(lambda before=before: all(stage.ticks > ticks for stage, ticks in before), "ticks of all stages")
        assert await drain()


async def told(log: KafkaLog | SegmentLog) -> tuple[Features, set[tuple[str, str, str]]]:
    """Features as told last, and the alerts' ids, states and entities."""
    features: Features = {}
    for item in await everything(log, FEATURES.name):
        batch = codec.decode(FeatureBatch, item)
        for row, series in enumerate(batch.series_id.tolist()):
            features[series, int(batch.last_time_ns[row])] = {name: float(getattr(batch, name)[row]) for name in FIELDS}
    alerts = [codec.decode(Alert, item) for item in await everything(log, ALERTS.name)]
    return features, {(alert.alert_id, alert.status.value, alert.entity) for alert in alerts}


async def everything(log: KafkaLog | SegmentLog, topic: str) -> list[bytes]:
    count = sum((await log.end_offsets(topic)).values())
    return [item.record.value for item in await take(await log.consumer(topic, "t.check"), count)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka"), heap="384m") as started:
        warm(started)
        yield started


async def test_windows_and_detection_say_the_same_on_kafka_as_in_one_process(tmp_path: Path, broker: Kafka) -> None:
    clock = ManualClock(start_ns=START_NS)
    segments = await SegmentLog.open(tmp_path, clock=clock)
    local = LocalEngine(segments, clock=clock)
    stages: list[Windows | Detect] = [Windows(clock=clock), Detect(clock=clock, config=QUICK)]
    for stage in stages:
        local.add(stage)
    await local.start()
    await play(segments, clock, stages, lambda: local.drain(30), objects=2)
    await local.stop()
    wanted_features, wanted_alerts = await told(segments)
    await segments.close()

    clock = ManualClock(start_ns=START_NS)
    log = await open_log(broker.servers, f"t{secrets.token_hex(4)}.", partitions=SHARDS)
    shared: list[Windows | Detect] = []

    def windows() -> Windows:
        shared.append(Windows(clock=clock))
        return shared[-1]  # type: ignore[return-value] # just appended

    def detect() -> Detect:
        shared.append(Detect(clock=clock, config=QUICK))
        return shared[-1]  # type: ignore[return-value] # just appended

    # Nothing of what the machine does may end a session: with this clock nobody gets over it by waiting.
    engines = [KafkaEngine(log, clock=clock, session_s=30.0, heartbeat_s=0.5) for _ in range(2)]
    for engine in engines:
        engine.add(windows)
        engine.add(detect)

    async def drain() -> bool:
        return all(await asyncio.gather(*(engine.drain(30) for engine in engines)))

    async with running(*engines):
        await until(
            lambda: [len(of) for engine in engines for of in engine.partitions().values()] == [2, 2, 2, 2], "shares"
        )
        await play(log, clock, shared, drain, objects=2 * SHARDS)
    features, alerts = await told(log)
    await log.close()
    assert alerts == wanted_alerts
    assert len(alerts) >= 2
    assert {entity for _, _, entity in alerts} == {"service:default/svc-5"}
    assert features.keys() == wanted_features.keys()
    for at, wanted in wanted_features.items():
        assert features[at] == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True), at
