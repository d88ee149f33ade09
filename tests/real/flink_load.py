"""Recorded metrics with everything that is hard about them, what the kernel makes of them, and what Flink made."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # public, but not in __all__

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import FeatureBatch
from headspring.proto.telemetry import METRIC_KIND_CODE, MetricBatch, MetricKind
from headspring.proto.topics import FEATURES, METRICS, partition_of, record_key
from headspring.streaming.engine.flink.sql import RECEIVED, WindowJob
from headspring.streaming.windows.state import Features, PaneState, WindowSpec

START_NS = 1_800_000_000 * NS_PER_S
FLUSH_NS = NS_PER_S // 2
"""Ingestion publishes a shard's samples this often."""
Place = tuple[str, int, int, int]
"""Tenant, shard, series, window end (ns)."""
Row = tuple[float, ...]
"""The numbers of a feature row, in the order of `_COLUMNS`."""
_COLUMNS = (
    "count", "last_time_ns", "recent_count", "mean", "std", "minimum", "maximum", "first", "last", "recent_mean",
)  # fmt: skip
_EXACT = 3
_KINDS = (MetricKind.GAUGE, MetricKind.COUNTER, MetricKind.DELTA, MetricKind.UPDOWN, MetricKind.COUNTER)


def recording(
    seconds: float, *, tenants: Sequence[str] = ("default", "acme"), shards: int = 3, series: int = 10, seed: int = 4,
    late: bool = True,
) -> list[MetricBatch]:  # fmt: skip
    """Batches in order of arrival.

    Gauges, counters and deltas at 0.5 s to 15 s; counters that reset; values that are not finite; short gaps and one
    longer than a window; samples out of order by less than two seconds; times told twice with different values;
    times that share a millisecond.

    Args:
        series: Per shard.
        late: Also samples that come later than two seconds after a newer one of their series, and series whose
            clock is a minute slow or fast.
    """
    random = np.random.default_rng(seed)
    batches: list[MetricBatch] = []
    for tenant in tenants:
        for shard in range(shards):
            columns = [
                _series(random, tenant, shard, number, seconds, late and number == series - 1, late)
                for number in range(series)
            ]
            batches += _batches(tenant, shard, [np.concatenate(parts) for parts in zip(*columns, strict=True)])
    return sorted(batches, key=lambda batch: batch.received_ns)


def _series(
    random: np.random.Generator, tenant: str, shard: int, number: int, seconds: float, skewed: bool, late: bool
) -> tuple[np.ndarray, ...]:
    """Columns arrival, series id, time, value, kind of one series."""
    period_s = (0.5, 1.0, 5.0, 15.0)[number % 4]
    kind = _KINDS[number % len(_KINDS)]
    time_s = np.arange(random.uniform(0, period_s), seconds, period_s)
    gap_s = 330.0 if number == 1 else 40.0
    begin_s = random.uniform(0.2, 0.4) * seconds
    time_s = time_s[(time_s < begin_s) | (time_s > begin_s + gap_s)]
    n = time_s.size
    value = random.normal(100.0, 20.0, n)
    if kind is MetricKind.COUNTER:
        value = np.cumsum(random.exponential(5.0, n))
        for reset in np.flatnonzero(random.random(n) < 0.02):
            value[reset:] -= value[reset] - random.uniform(0, 3)
    value[random.random(n) < 0.01] = np.nan
    value[random.random(n) < 0.005] = np.inf
    delay_s = random.uniform(0.0, 1.8, n) * (random.random(n) < 0.2)
    if late:
        delay_s += (random.random(n) < 0.01) * random.uniform(3.0, 9.0, n)
    time_ns = START_NS + (time_s * NS_PER_S).astype(np.int64) + random.integers(0, 1000, n)
    arrival_ns = time_ns + (delay_s * NS_PER_S).astype(np.int64)
    again = np.flatnonzero(random.random(n) < 0.02)
    time_ns = np.concatenate([time_ns, time_ns[again]])
    value = np.concatenate([value, value[again] + random.normal(0, 5, again.size)])
    arrival_ns = np.concatenate([arrival_ns, arrival_ns[again] + random.integers(0, NS_PER_S, again.size)])
    close = np.flatnonzero(random.random(n) < 0.02)
    time_ns = np.concatenate([time_ns, time_ns[close] + 1000])
    value = np.concatenate([value, value[close] + 1.0])
    arrival_ns = np.concatenate([arrival_ns, arrival_ns[close]])
    if skewed:
        time_ns += int(random.choice([-60, 60])) * NS_PER_S
    ids = np.full(time_ns.size, ((number + 1) << 58) + number * 16 + shard, dtype=np.uint64)
    return arrival_ns, ids, time_ns, value, np.full(time_ns.size, METRIC_KIND_CODE[kind], dtype=np.uint8)


def _batches(tenant: str, shard: int, columns: Sequence[np.ndarray]) -> list[MetricBatch]:
    order = np.argsort(columns[0], kind="stable")
    arrival_ns, ids, time_ns, value, kind = (column[order] for column in columns)
    flush = arrival_ns // FLUSH_NS
    cuts = [0, *(np.flatnonzero(np.diff(flush)) + 1).tolist(), flush.size]
    return [
        MetricBatch(
            tenant=tenant, shard=shard, received_ns=int(flush[begin] + 1) * FLUSH_NS - 1, series_id=ids[begin:end],
            time_ns=time_ns[begin:end], value=value[begin:end], kind=kind[begin:end],
        )
        for begin, end in itertools.pairwise(cuts)
    ]  # fmt: skip


@dataclass(slots=True)
class Oracle:
    rows: dict[Place, Row] = field(default_factory=dict)
    late: int = 0
    repeated: int = 0


def oracle(batches: Iterable[MetricBatch], job: WindowJob) -> Oracle:
    """What the kernel gives when it is asked at every slide's end, having taken what came before it."""
    by_shard: dict[tuple[str, int], list[MetricBatch]] = {}
    for batch in batches:
        by_shard.setdefault((batch.tenant, batch.shard), []).append(batch)
    found = Oracle()
    for (tenant, shard), own in by_shard.items():
        _shard(found, tenant, shard, own, job)
    return found


def _shard(found: Oracle, tenant: str, shard: int, batches: Sequence[MetricBatch], job: WindowJob) -> None:
    lateness_ns = round(job.lateness_s * NS_PER_S)
    slide_ns = round(job.slide_s * NS_PER_S)
    ids, time_ns, value, kind = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("series_id", "time_ns", "value", "kind")
    )
    received = np.concatenate([np.full(len(batch), batch.received_ns) for batch in batches])
    moment = np.where(received == 0, time_ns, received if job.clock == RECEIVED else np.minimum(time_ns, received))
    look = (moment // 1_000_000 * 1_000_000 // slide_ns + 1) * slide_ns
    in_time = _in_time(ids, time_ns, lateness_ns)
    found.late += int((~in_time).sum())
    state = PaneState(
        WindowSpec(
            pane_ns=round(job.pane_s * NS_PER_S), panes=round(job.window_s / job.pane_s), lateness_ns=lateness_ns,
            max_series=1_000_000,
        )
    )  # fmt: skip
    for end in np.unique(look[in_time]).tolist():
        now = in_time & (look == end)
        state.take(ids[now], time_ns[now], value[now], kind[now])
        _add(found.rows, tenant, shard, end, state.features())
    assert state.late == 0, "samples that are in time by order of arrival must be so by order of looks"
    found.repeated += state.repeated


def _in_time(ids: np.ndarray, time_ns: np.ndarray, lateness_ns: int) -> np.ndarray:
    newest: dict[int, int] = {}
    keep = np.ones(ids.size, dtype=bool)
    for i, (series, time_) in enumerate(zip(ids.tolist(), time_ns.tolist(), strict=True)):
        if series in newest and time_ <= newest[series] - lateness_ns:
            keep[i] = False
        else:
            newest[series] = max(newest.get(series, time_), time_)
    return keep


def _add(rows: dict[Place, Row], tenant: str, shard: int, end: int, features: Features | FeatureBatch) -> int:
    """Rows of a batch into `rows`; how many were there already."""
    columns = [getattr(features, name).tolist() for name in _COLUMNS]
    again = 0
    for series, *numbers in zip(features.series_id.tolist(), *columns, strict=True):
        place = (tenant, shard, series, end)
        again += place in rows
        rows[place] = tuple(numbers)
    return again


def differences(found: dict[Place, Row], wanted: dict[Place, Row], *, most: int = 5) -> list[str]:
    """What is wrong, in words: rows that miss or are too many, numbers that differ by more than 1e-9 of themselves."""
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    wrong = [f"{len(missing)} of {len(wanted)} rows miss: {sorted(missing)[:most]}"] if missing else []
    wrong += [f"{len(extra)} rows are too many: {sorted(extra)[:most]}"] if extra else []
    places = sorted(found.keys() & wanted.keys())
    if not places:
        return wrong
    have, want = (np.array([rows[place] for place in places]) for rows in (found, wanted))
    same = np.isclose(have, want, rtol=1e-9, atol=1e-9, equal_nan=True)
    same[:, :_EXACT] = [
        [a == b for a, b in zip(found[place][:_EXACT], wanted[place][:_EXACT], strict=True)] for place in places
    ]
    for i, j in np.argwhere(~same)[:most]:
        wrong.append(f"{_COLUMNS[j]} of {places[i]} is {have[i, j]!r}, wanted {want[i, j]!r}")
    return wrong


def create_topics(servers: str, prefix: str, partitions: int) -> None:
    """`telemetry.metrics` and `features` of an installation."""
    topics = [NewTopic(prefix + topic.name, partitions, 1) for topic in (METRICS, FEATURES)]
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics(topics).values():
        made.result(30.0)


def publish(
    servers: str, prefix: str, batches: Iterable[MetricBatch], partitions: int, *, speed: float = 0.0,
    stop: threading.Event | None = None, sent: list[int] | None = None,
) -> None:  # fmt: skip
    """Writes batches as ingestion does.

    Args:
        speed: Seconds of the recording per second; 0 writes all at once.
        stop: Ends the writing early when set.
        sent: Gets the number of batches that were written.
    """
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    began_s, first_ns, count = time.monotonic(), 0, 0
    for batch in batches:
        first_ns = first_ns or batch.received_ns
        if speed:
            due_s = began_s + (batch.received_ns - first_ns) / NS_PER_S / speed
            producer.poll(0)
            time.sleep(max(0.0, due_s - time.monotonic()))
        if stop is not None and stop.is_set():
            break
        key = record_key(batch.tenant, batch.shard)
        producer.produce(
            prefix + METRICS.name, codec.encode(batch), key, partition=partition_of(METRICS.name, key, partitions)
        )
        count += 1
    assert producer.flush(60.0) == 0
    if sent is not None:
        sent.append(count)


@dataclass(slots=True)
class Collected:
    rows: dict[Place, Row] = field(default_factory=dict)
    repeated: int = 0
    """Rows that came more than once."""
    records: int = 0
    misplaced: int = 0
    """Records in another partition than ours go to, or with another key."""


class FeatureReader:
    """Reads `features` from its beginning, only what is committed."""

    def __init__(self, servers: str, prefix: str, partitions: int) -> None:
        self._partitions = partitions
        self.found = Collected()
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"{prefix}reader",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )
        self._consumer.subscribe([prefix + FEATURES.name])

    def read_until(self, done: Callable[[Collected], bool], *, timeout_s: float) -> bool:
        """Reads on until `done`; False if it is not within the time."""
        deadline = time.monotonic() + timeout_s
        while not done(self.found):
            if time.monotonic() > deadline:
                return False
            for message in self._consumer.consume(500, timeout=0.5):
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._ALL_BROKERS_DOWN or error.retriable(), error.str()
                    continue
                batch = codec.decode(FeatureBatch, message.value() or b"")
                key = record_key(batch.tenant, batch.shard)
                place = partition_of(FEATURES.name, key, self._partitions)
                self.found.misplaced += message.key() != key or message.partition() != place
                self.found.records += 1
                self.found.repeated += _add(self.found.rows, batch.tenant, batch.shard, batch.window_end_ns, batch)
        return True

    def close(self) -> None:
        self._consumer.close()
