"""A simulated estate's request metrics, through the real window stage and the real detection stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from headspring.analytics.detect.stage import DetectConfig, DetectStage
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, AlertStatus
from headspring.proto.ids import digest, entity_id
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricBatch, MetricKind, SeriesDescriptor
from headspring.proto.topics import FEATURES, METRICS, SERIES
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.windows.stage import WindowStage

START_NS = 1_700_000_003 * NS_PER_S
BUCKET_S = 2.0
DERIVED = (
    semantics.SERVICE_LATENCY_MEAN,
    semantics.SERVICE_LATENCY_P95,
    semantics.SERVICE_SELF_TIME_MEAN,
    semantics.SERVICE_ERROR_RATIO,
    semantics.SERVICE_REQUEST_RATE,
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    where: int
    begins_s: float
    ends_s: float = 1e9
    delay_s: float = 0.0
    errors: float = 0.0
    share: float = 1.0
    """Of the usual requests; 0 for a crash."""

    def active(self, at_s: float) -> bool:
        return self.begins_s <= at_s < self.ends_s


@dataclass(kw_only=True)
class World:
    """Services with log-normal latencies, Poisson arrivals and a rare failed request."""

    seed: int
    services: int = 8
    faults: list[Fault] = field(default_factory=list)
    rates: tuple[float, float] = (10.0, 30.0)
    clock: ManualClock = field(default_factory=lambda: ManualClock(start_ns=START_NS))
    config: DetectConfig = field(default_factory=DetectConfig)
    alerts: list[Alert] = field(default_factory=list)
    seen_s: list[float] = field(default_factory=list)
    """When each alert came, seconds since the start."""

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.windows = WindowStage(clock=self.clock)
        self.detect = DetectStage(clock=self.clock, config=self.config)
        self.rate = self.random.uniform(*self.rates, size=self.services)
        self.latency = self.random.uniform(0.01, 0.15, size=self.services)
        self.at_s = 0.0
        self.dead: set[str] = set()
        """Metrics that are reported no more."""
        self.unspoken = True

    def series(self, place: int, metric: str) -> SeriesDescriptor:
        name = f"svc-{place}"
        return SeriesDescriptor(
            series_id=int(digest(name, metric, size_bytes=8), 16), tenant="default", name=metric,
            unit=semantics.DERIVED_METRICS[metric], entity=entity_id("service", name),
            labels={semantics.LABEL_SERVICE: name},
        )  # fmt: skip

    def bucket(self, place: int) -> Mapping[str, float]:
        """Metrics of the two seconds that end now; requests spread evenly over them, faults apply to each."""
        active = [fault for fault in self.faults if fault.where == place]
        count = int(self.random.poisson(self.rate[place] * BUCKET_S))
        at = self.at_s - BUCKET_S + BUCKET_S * self.random.random(count)
        took = self.latency[place] * self.random.lognormal(0.0, 0.4, size=count)
        failed = self.random.random(count) < 0.002
        kept = np.ones(count, dtype=bool)
        for fault in active:
            hit = (at >= fault.begins_s) & (at < fault.ends_s)
            took[hit] += fault.delay_s
            failed |= hit & (self.random.random(count) < fault.errors)
            kept &= ~hit | (self.random.random(count) < fault.share)
        took, failed = took[kept], failed[kept]
        values = {semantics.SERVICE_REQUEST_RATE: took.size / BUCKET_S}
        if took.size:
            values[semantics.SERVICE_LATENCY_MEAN] = float(took.mean())
            values[semantics.SERVICE_LATENCY_P95] = float(np.percentile(took, 95))
            values[semantics.SERVICE_SELF_TIME_MEAN] = float(took.mean() * 0.6)
            values[semantics.SERVICE_ERROR_RATIO] = float(failed.mean())
        return {metric: value for metric, value in values.items() if metric not in self.dead}

    async def run(self, seconds: float) -> None:
        """Time passes in steps of half a second, as the engine's ticks have it."""
        if self.unspoken:
            self.unspoken = False
            await self.tell(
                SERIES.name, [codec.encode(self.series(p, m)) for p in range(self.services) for m in DERIVED]
            )
        end_s = self.at_s + seconds
        while self.at_s < end_s - 1e-9:
            self.clock.advance(0.5)
            self.at_s += 0.5
            features: list[bytes] = []
            if self.at_s % BUCKET_S == 0:
                features += await self.window()
            features += [item.value for item in await self.windows.tick(self.clock.now_ns())]
            if features:
                await self.tell(FEATURES.name, features)
            if self.at_s % 1.0 == 0:
                self.keep(item.value for item in await self.detect.tick(self.clock.now_ns()))

    async def window(self) -> list[bytes]:
        rows = [
            (self.series(place, metric).series_id, value)
            for place in range(self.services)
            for metric, value in self.bucket(place).items()
        ]
        batch = MetricBatch(
            tenant="default",
            series_id=np.array([row[0] for row in rows], dtype=np.uint64),
            time_ns=np.full(len(rows), self.clock.now_ns(), dtype=np.int64),
            value=np.array([row[1] for row in rows]),
            kind=np.full(len(rows), METRIC_KIND_CODE[MetricKind.GAUGE], dtype=np.uint8),
        )
        return [
            item.value for item in await self.windows.process(METRICS.name, stored(METRICS.name, [codec.encode(batch)]))
        ]

    async def tell(self, topic: str, values: list[bytes]) -> None:
        self.keep(item.value for item in await self.detect.process(topic, stored(topic, values)))

    def keep(self, values: Iterable[bytes]) -> None:
        for value in values:
            self.alerts.append(codec.decode(Alert, value))
            self.seen_s.append(self.at_s)

    def first_s(self, place: int, metrics: tuple[str, ...], status: AlertStatus = AlertStatus.FIRING) -> float:
        """When the first such alert about a service came; infinity if none did."""
        entity = entity_id("service", f"svc-{place}")
        return min(
            (at for at, alert in zip(self.seen_s, self.alerts, strict=True)
             if alert.entity == entity and alert.metric in metrics and alert.status is status), default=np.inf,
        )  # fmt: skip

    def restart(self) -> None:
        """Detection is a new process, from its last snapshot."""
        state = self.detect.snapshot()
        self.detect = DetectStage(clock=self.clock, config=replace(self.config))
        self.detect.restore(state)


def stored(topic: str, values: list[bytes]) -> list[StoredRecord]:
    return [
        StoredRecord(topic=topic, partition=0, offset=place, record=Record(key=b"", value=value, time_ns=0))
        for place, value in enumerate(values)
    ]
