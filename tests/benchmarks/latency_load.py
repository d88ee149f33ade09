"""A load that turns bad at known moments, and when each alert about it came: shared by the benchmarks of latency.

Every series has one sample in 5 s, at a moment of its own, through OTLP over HTTP. After as many samples as a baseline
needs, some series turn bad at random moments and stay bad. The clock starts when the request with the first bad sample
begins to be sent. A service has three series: its request rate, its mean latency, and a gauge whose meaning detection
cannot know. Two samples in a row are what it wants of the latter: with 5 s between samples that is 5 s before anything
else.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.benchmarks.measure import percentiles
from tests.servers.headspring import Headspring

from headspring.analytics.detect.config import DetectConfig
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Alert, AlertStatus, FeatureBatch
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor
from headspring.proto.topics import ALERTS, FEATURES, METRICS, SERIES
from headspring.streaming.log.port import EventLog, Record

PERIOD_S = 5.0
SLOT_S = 0.1
"""Series that report within the same slot share a request."""
SENDERS = 4
KNOWN = semantics.SERVICE_LATENCY_MEAN
UNKNOWN = "app.work.items"
RATE = semantics.SERVICE_REQUEST_RATE
UNITS = {RATE: "1/s", KNOWN: "s", UNKNOWN: "1"}
USUAL = {RATE: 40.0, KNOWN: 0.080, UNKNOWN: 400.0}
BAD = {KNOWN: 0.900, UNKNOWN: 6000.0}
NOISE = 0.05
"""Standard deviation of a healthy series, as a share of its level."""
STEPS_S = 60.0
"""Time over which series turn bad."""
WAIT_S = 45.0
"""Longest wait for an alert."""
_MORE = 9
"""Samples of a series before it may turn bad, over those that detection wants: a role that has just started takes what
came meanwhile in one look, so several samples count as one."""
_NOTED = 8
"""Bad samples of a series that are remembered: more than an alert takes within the wait for it."""
_QUIET_POLLS = 3
"""A topic is read to its end when so many polls in a row bring nothing."""

Key = tuple[str, str]
"""Entity and metric: what an alert is about."""


@dataclass(slots=True)
class Series:
    service: str
    metric: str
    point: Any = None
    """Its OTLP data point, set anew for each request."""
    bad_from: float = np.inf
    """Wall clock, seconds since the epoch."""
    bad_sent: list[float] = field(default_factory=list)
    """When the requests with its first bad samples began to be sent, `_NOTED` at most."""
    bad_time_ns: list[int] = field(default_factory=list)
    """The times that these samples have."""
    first_bad_ack: float = 0.0

    @property
    def key(self) -> Key:
        return (f"service:default/{self.service}", self.metric)


@dataclass(slots=True)
class Slot:
    request: ExportMetricsServiceRequest = field(default_factory=ExportMetricsServiceRequest)
    series: list[Series] = field(default_factory=list)


def estate(count: int, random: np.random.Generator) -> tuple[list[Series], list[Slot]]:
    """`count` series, a third of each kind, spread over the slots of a period."""
    slots = [Slot() for _ in range(round(PERIOD_S / SLOT_S))]
    kinds = tuple(UNITS)
    series = [Series(f"service-{place // len(kinds)}", kinds[place % len(kinds)]) for place in range(count)]
    order = random.permutation(count)
    for at, place in enumerate(order.tolist()):
        one, slot = series[place], slots[at % len(slots)]
        resource = slot.request.resource_metrics.add()
        attribute = resource.resource.attributes.add(key="service.name")
        attribute.value.string_value = one.service
        metric = resource.scope_metrics.add().metrics.add(name=one.metric, unit=UNITS[one.metric])
        one.point = metric.gauge.data_points.add()
        slot.series.append(one)
    return series, slots


class Sender(threading.Thread):
    """Sends every `SENDERS`-th slot, period after period, until told to stop."""

    def __init__(self, number: int, slots: Sequence[Slot], site: Headspring, start: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.mine = [(at, slot) for at, slot in enumerate(slots) if at % SENDERS == number]
        self.site, self.begin = site, start
        self.random = np.random.default_rng((seed, number))
        self.stopping = threading.Event()
        self.refused = 0
        self.late_s: list[float] = []

    def run(self) -> None:
        place = urlsplit(self.site.otlp_url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {self.site.api_key}"}
        period = 0
        while not self.stopping.is_set():
            for at, slot in self.mine:
                due = self.begin + period * PERIOD_S + at * SLOT_S
                if self.stopping.wait(max(0.0, due - time.time())):
                    return
                self._send(connection, headers, slot, due)
            period += 1

    def _send(self, connection: http.client.HTTPConnection, headers: dict[str, str], slot: Slot, due: float) -> None:
        noise = 1.0 + NOISE * self.random.standard_normal(len(slot.series))
        now = time.time()
        noted = []
        for one, factor in zip(slot.series, noise.tolist(), strict=True):
            bad = now >= one.bad_from
            one.point.time_unix_nano = int(now * 1e9)
            one.point.as_double = (BAD if bad else USUAL)[one.metric] * factor
            if bad and len(one.bad_sent) < _NOTED:
                noted.append(one)
                one.bad_time_ns.append(one.point.time_unix_nano)
        body = slot.request.SerializeToString()
        sent = time.time()
        for one in noted:
            one.bad_sent.append(sent)
        connection.request("POST", "/v1/metrics", body, headers)
        answer = connection.getresponse()
        answer.read()
        for one in noted:
            one.first_bad_ack = one.first_bad_ack or time.time()
        self.refused += answer.status != 200
        self.late_s.append(sent - due)


class Reader(threading.Thread):
    """Notes when each alert is first seen at the API."""

    def __init__(self, site: Headspring) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.stopping = threading.Event()
        self.seen: dict[Key, float] = {}
        self.slow_s: list[float] = []

    def run(self) -> None:
        place = urlsplit(self.site.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        headers = {"Authorization": f"Bearer {self.site.api_key}"}
        while not self.stopping.wait(0.2):
            begin = time.time()
            connection.request("GET", "/api/v1/alerts?limit=100", headers=headers)
            answer = connection.getresponse()
            items = json.loads(answer.read())["items"]
            now = time.time()
            self.slow_s.append(now - begin)
            for item in items:
                self.seen.setdefault((item["entity"], item["metric"]), now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the load saw from outside."""

    count: int
    bad: list[Series]
    """Those that turned bad."""
    quiet: int
    """Alerts before anything was bad."""
    cores: Mapping[str, float]
    """CPU used while series turned bad, in cores, by the names of the caller."""
    senders: list[Sender]
    reader: Reader


def run(site: Headspring, count: int, faults: int, spent_s: Callable[[], Mapping[str, float]], *, seed: int = 7) -> Run:
    """Sends until every alert is readable, or until it is clear that some will never be.

    Args:
        spent_s: CPU seconds so far of the platform's parts, by name.
    """
    random = np.random.default_rng(seed)
    series, slots = estate(count, random)
    baseline_s = (DetectConfig().min_updates + _MORE) * PERIOD_S
    start = time.time() + 0.5
    able = [place for place, one in enumerate(series) if one.metric in BAD]
    chosen = random.choice(able, size=faults, replace=False)
    for place, after in zip(chosen.tolist(), random.uniform(0, STEPS_S, faults).tolist(), strict=True):
        series[place].bad_from = start + baseline_s + after
    bad = [one for one in series if np.isfinite(one.bad_from)]
    senders = [Sender(number, slots, site, start, seed) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    time.sleep(max(0.0, start + baseline_s - time.time()))
    quiet = len(site.alerts())
    reader = Reader(site)
    reader.start()
    before, at = spent_s(), time.time()
    time.sleep(STEPS_S)
    after, wall_s = spent_s(), time.time() - at
    wanted = {one.key for one in bad}
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and not wanted <= reader.seen.keys():
        time.sleep(0.5)
    reader.stopping.set()
    for sender in senders:
        sender.stopping.set()
    for thread in (reader, *senders):
        thread.join()
    cores = {name: round((value - before.get(name, 0.0)) / wall_s, 2) for name, value in after.items()}
    return Run(count=count, bad=bad, quiet=quiet, cores=cores, senders=senders, reader=reader)


# What the platform wrote meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Read from the topics after the run, which costs the platform nothing meanwhile. Stamps in seconds."""

    alerts: int
    firing: Mapping[Key, float]
    """The first firing record of each."""
    received: Mapping[tuple[Key, int], float]
    """Of a sample, by the time it has: when ingestion got it."""
    looks: Mapping[Key, Sequence[tuple[int, float]]]
    """Of a series: time of its newest sample in a look of the windows, and when that look was."""

    def looked(self, key: Key, time_ns: int) -> float | None:
        """When windows first said something of a sample."""
        return min((stamp for newest_ns, stamp in self.looks.get(key, ()) if newest_ns >= time_ns), default=None)


async def written(log: EventLog, bad: Iterable[Series]) -> Written:
    """What is on the topics about some series, and all alerts."""
    firing: dict[Key, float] = {}
    ids = set()
    for record in await _all(log, ALERTS.name):
        alert = codec.decode(Alert, record.value)
        if alert.status is AlertStatus.FIRING:
            ids.add(alert.alert_id)
            firing.setdefault((alert.entity, alert.metric), record.time_ns / NS_PER_S)
    keys = {one.key for one in bad}
    described = [codec.decode(SeriesDescriptor, record.value) for record in await _all(log, SERIES.name)]
    by_id = {one.series_id: (one.entity, one.name) for one in described if (one.entity, one.name) in keys}
    wanted = np.array(sorted(by_id), dtype=np.uint64)
    received: dict[tuple[Key, int], float] = {}
    for record in await _all(log, METRICS.name):
        batch = codec.decode(MetricBatch, record.value)
        for place in np.flatnonzero(np.isin(batch.series_id, wanted)).tolist():
            sample = (by_id[int(batch.series_id[place])], int(batch.time_ns[place]))
            received.setdefault(sample, batch.received_ns / NS_PER_S)
    looks: dict[Key, list[tuple[int, float]]] = {}
    for record in await _all(log, FEATURES.name):
        features = codec.decode(FeatureBatch, record.value)
        for place in np.flatnonzero(np.isin(features.series_id, wanted)).tolist():
            key = by_id[int(features.series_id[place])]
            looks.setdefault(key, []).append((int(features.last_time_ns[place]), features.emitted_ns / NS_PER_S))
    return Written(alerts=len(ids), firing=firing, received=received, looks=looks)


async def _all(log: EventLog, topic: str) -> list[Record]:
    consumer = await log.consumer(topic, "benchmark")
    found: list[Record] = []
    quiet = 0
    while quiet < _QUIET_POLLS:
        records = await consumer.poll(max_records=5000, max_wait_s=0.5)
        quiet = 0 if records else quiet + 1
        found += [stored.record for stored in records]
    await consumer.close()
    return found


# Figures


def figures(run: Run, found: Written) -> dict[str, Any]:
    """The result of a run, as JSON takes it."""
    bad = run.bad
    return {
        "series": run.count,
        "samples_per_s": run.count / PERIOD_S,
        "turned_bad": len(bad),
        "alerts_before_the_first_fault": run.quiet,
        "alerts_on_healthy_series": len(found.firing.keys() - {one.key for one in bad}),
        "alerts": found.alerts,
        "known_meaning": _kind([one for one in bad if one.metric == KNOWN], run.reader, found),
        "unknown_meaning": _kind([one for one in bad if one.metric == UNKNOWN], run.reader, found),
        "requests_refused": sum(sender.refused for sender in run.senders),
        "sender_late_s": percentiles([late for sender in run.senders for late in sender.late_s]),
        "acknowledged_after_s": percentiles([one.first_bad_ack - one.bad_sent[0] for one in bad if one.bad_sent]),
        "platform_cores_used": round(sum(run.cores.values()), 2),
        "cores_used": dict(run.cores),
        "alerts_request_s": percentiles(run.reader.slow_s),
    }


def _kind(bad: Sequence[Series], reader: Reader, found: Written) -> dict[str, Any]:
    told = [(one, found.firing[one.key]) for one in bad if one.key in found.firing]
    seen = [(one, reader.seen[one.key]) for one in bad if one.key in reader.seen]
    second = [stamp - one.bad_sent[1] for one, stamp in told if len(one.bad_sent) > 1]
    trips = [trip for one, stamp in told if (trip := _trip(one, stamp, reader, found)) is not None]
    return {
        "turned_bad": len(bad),
        "missed": len(bad) - len(told),
        "first_bad_sample_to_published_s": percentiles([stamp - one.bad_sent[0] for one, stamp in told]),
        "first_bad_sample_to_readable_s": percentiles([stamp - one.bad_sent[0] for one, stamp in seen]),
        "second_bad_sample_to_published_s": percentiles([late for late in second if late >= 0]),
        "before_the_second_bad_sample": len(told) - sum(late >= 0 for late in second),
        "decisive_sample": {
            f"{number}": count for number, count in sorted(Counter(one.sample for one in trips).items())
        },
        "decisive_sample_to_published_s": percentiles([one.alert - one.sent for one in trips]),
        "decisive_sample_to_readable_s": percentiles([one.readable - one.sent for one in trips if one.readable]),
        "steps": {
            "sent_to_received_s": percentiles([one.received - one.sent for one in trips]),
            "received_to_looked_s": percentiles([one.looked - one.received for one in trips]),
            "looked_to_alert_s": percentiles([one.alert - one.looked for one in trips]),
            "alert_to_readable_s": percentiles([one.readable - one.alert for one in trips if one.readable]),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trip:
    """Of the sample that an alert was told with: the newest one that windows had shown to detection by then."""

    sample: int
    """1 for the first bad one."""
    sent: float
    received: float
    looked: float
    alert: float
    readable: float
    """0 when it was never seen at the API."""


def _trip(one: Series, alert: float, reader: Reader, found: Written) -> _Trip | None:
    """None when the alert came before any bad sample could have been looked at."""
    for number in reversed(range(len(one.bad_sent))):
        received = found.received.get((one.key, one.bad_time_ns[number]))
        looked = found.looked(one.key, one.bad_time_ns[number])
        if received is not None and looked is not None and looked <= alert:
            return _Trip(
                sample=number + 1, sent=one.bad_sent[number], received=received, looked=looked, alert=alert,
                readable=reader.seen.get(one.key, 0.0),
            )  # fmt: skip
    return None
