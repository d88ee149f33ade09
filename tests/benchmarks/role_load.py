"""What the benchmark of scaling gives each role to do: records for its topic, or requests for its door."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tests.benchmarks import bench_faust
from tests.benchmarks.metric_load import SERIES as BODY_SAMPLES
from tests.benchmarks.metric_load import Sender

from headspring.analytics.correlate.stage import CorrelateStage
from headspring.analytics.detect.stage import DetectStage
from headspring.knowledge.writers import SeriesWriter
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import FeatureBatch
from headspring.proto.ids import entity_id
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor
from headspring.proto.topics import ALERTS, FEATURES, METRICS, SERIES, SHARD_SHIFT, partition_of, record_key, series_key
from headspring.streaming.log.port import Record

TENANT = "default"
SHARDS = 4
DETECT_SERIES, DETECT_LOOKS = 8_000, 300
STORE_SERIES, STORE_SECONDS = 8_000, 120
ALERT_ROUNDS = 1
BODIES, WARM_BODIES = 60, 10
"""Of each of two senders."""
READS_S, READERS = 10.0, 4
Step = tuple[str, list[Record]]
"""Topic and records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Work that waits on topics for a stage of a role."""

    role: str
    stage: str
    unit: str
    warm: list[Step]
    """Taken before the clock starts: kernels are compiled and shares are held then."""
    work: list[Step]
    units: int
    """In `work`."""


def _id(number: int) -> int:
    """Of a series; the upper half says its shard."""
    return (number % SHARDS) << SHARD_SHIFT | number


def _ids(series: int, shard: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array([_id(number) for number in range(shard, series, SHARDS)], dtype=np.uint64)


def detect() -> Backlog:
    """Features of series that are described, one look a second; nothing is wrong with them."""
    start_ns = time.time_ns() - DETECT_LOOKS * NS_PER_S
    described = [
        Record(
            key=series_key(TENANT, _id(number), SHARDS), time_ns=start_ns,
            value=codec.encode(SeriesDescriptor(
                series_id=_id(number), tenant=TENANT, name=semantics.SERVICE_LATENCY_MEAN, unit="s",
                entity=entity_id("service", f"svc-{number}"), labels={semantics.LABEL_SERVICE: f"svc-{number}"},
            )),
        )
        for number in range(DETECT_SERIES)
    ]  # fmt: skip
    generator = np.random.default_rng(3)
    level = generator.uniform(0.02, 0.1, DETECT_SERIES)
    looks = [
        _look(_ids(DETECT_SERIES, shard), shard, start_ns + number * NS_PER_S, level, generator)
        for number in range(DETECT_LOOKS)
        for shard in range(SHARDS)
    ]
    warm = 40 * SHARDS
    return Backlog(
        role="detect", stage=DetectStage.name, unit="feature rows",
        warm=[(SERIES.name, described), (FEATURES.name, looks[:warm])], work=[(FEATURES.name, looks[warm:])],
        units=(DETECT_LOOKS - 40) * DETECT_SERIES,
    )  # fmt: skip


def _look(
    ids: np.ndarray[Any, np.dtype[np.uint64]], shard: int, at_ns: int, level: np.ndarray[Any, np.dtype[np.float64]],
    generator: np.random.Generator,
) -> Record:  # fmt: skip
    value = level[shard::SHARDS] * generator.lognormal(0.0, 0.05, ids.size)
    times = np.full(ids.size, at_ns)
    batch = FeatureBatch(
        tenant=TENANT, shard=shard, window_end_ns=at_ns, window_ns=300 * NS_PER_S, emitted_ns=at_ns, series_id=ids,
        count=np.full(ids.size, 60), last_time_ns=times, recent_count=np.full(ids.size, 10), mean=value, std=value,
        minimum=value, maximum=value, first=value, last=value, recent_mean=value,
    )  # fmt: skip
    return Record(key=record_key(TENANT, shard), value=codec.encode(batch), time_ns=at_ns)


def correlate() -> Backlog:
    """Faults of some hours, each hour in tenants of its own."""
    hours = [bench_faust.alerts(seed, tenants=_tenants(seed)) for seed in range(ALERT_ROUNDS + 1)]
    warm, *rest = (bench_faust.records_of(hour) for hour in hours)
    work = [record for hour in rest for record in hour]
    return Backlog(
        role="correlate", stage=CorrelateStage.name, unit="alert records", warm=[(ALERTS.name, warm[:1000])],
        work=[(ALERTS.name, work)], units=len(work),
    )  # fmt: skip


def _tenants(seed: int) -> list[str]:
    """Eight, two on each partition: what one process has of them is half, whichever partitions it got."""
    found: dict[int, list[str]] = {shard: [] for shard in range(SHARDS)}
    for number in range(1000):
        name = f"estate-{seed}-{number}"
        found[partition_of(ALERTS.name, record_key(name, "x"), SHARDS)].append(name)
    return [name for names in found.values() for name in names[:2]]


def store() -> Backlog:
    """Samples for the series store, a batch a second of each shard."""
    start_ns = time.time_ns() - STORE_SECONDS * NS_PER_S
    generator = np.random.default_rng(4)
    described = [
        SeriesDescriptor(
            series_id=_id(number), tenant=TENANT, name="app.work.queue", unit="1",
            entity=entity_id("service", f"svc-{number % 100}"),
            labels={semantics.LABEL_SERVICE: f"svc-{number % 100}", "queue": f"q{number}"},
        )
        for number in range(STORE_SERIES)
    ]  # fmt: skip
    records = []
    for number in range(STORE_SECONDS):
        for shard in range(SHARDS):
            ids = _ids(STORE_SERIES, shard)
            at_ns = start_ns + number * NS_PER_S
            batch = MetricBatch(
                tenant=TENANT, shard=shard, received_ns=at_ns, series_id=ids, time_ns=np.full(ids.size, at_ns),
                value=np.round(generator.normal(100, 5, ids.size), 2), kind=np.ones(ids.size, dtype=np.uint8),
                new_series=tuple(described[shard::SHARDS]) if number == 0 else (),
            )  # fmt: skip
            records.append(Record(key=record_key(TENANT, shard), value=codec.encode(batch), time_ns=at_ns))
    series = [
        Record(key=series_key(TENANT, one.series_id, SHARDS), value=codec.encode(one), time_ns=start_ns)
        for one in described
    ]
    warm = 10 * SHARDS
    return Backlog(
        role="store", stage=SeriesWriter.name, unit="samples",
        warm=[(SERIES.name, series), (METRICS.name, records[:warm])], work=[(METRICS.name, records[warm:])],
        units=(STORE_SECONDS - 10) * STORE_SERIES,
    )  # fmt: skip


class Sending:
    """Two senders of remote write, whose load goes to one address or to two."""

    def __init__(self) -> None:
        self._senders = [Sender(), Sender()]

    def __enter__(self) -> Sending:
        for number, sender in enumerate(self._senders):
            sender.__enter__()
            start_ms = time.time_ns() // 1_000_000 - 600_000
            sender.prepare("remote write", count=BODIES, estates=2, start_ms=start_ms + number, step_ms=1000)
        return self

    def __exit__(self, *_: object) -> None:
        for sender in self._senders:
            sender.__exit__()

    def send(self, urls: Sequence[str], key: str) -> int:
        """All bodies, a half by each sender; the samples that were taken.

        Raises:
            RuntimeError: a request was refused.
        """
        refused: list[int] = []

        def one(sender: Sender, url: str) -> None:
            refused.append(int(sender.send(url, "remote write", key=key, connections=1)["refused"]))

        threads = [
            threading.Thread(target=one, args=(sender, urls[number % len(urls)]))
            for number, sender in enumerate(self._senders)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if refused != [0, 0]:
            raise RuntimeError(f"requests were refused: {refused}")
        return BODIES * 2 * BODY_SAMPLES


def read(urls: Sequence[str], key: str) -> int:
    """Lists alerts for `READS_S` by `READERS` connections, spread over the addresses; how many lists came."""
    done = [0] * READERS
    until = time.monotonic() + READS_S

    def one(number: int) -> None:
        place = urlsplit(urls[number % len(urls)])
        connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        while time.monotonic() < until:
            connection.request("GET", "/api/v1/alerts?limit=100", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or len(body) < 1000:
                raise RuntimeError(f"GET /api/v1/alerts answered {answer.status}: {body[:300]!r}")
            done[number] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)
