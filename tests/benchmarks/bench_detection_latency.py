"""From the first bad sample to the alert: `headspring up` as a process, samples through its OTLP intake.

Run: `python tests/benchmarks/bench_detection_latency.py` from the repository root; about seven minutes. Every
series has one sample in 5 s, at a moment of its own. After as many samples as a baseline needs, some series turn bad
at random moments and stay bad. The clock starts when the request with the first bad sample begins to be sent.

Two ends are measured, both on this machine's clock: *published* is the stamp of the alert's record on the topic
`alerts`, read out of the log after the run, which costs the platform nothing meanwhile; *readable* is when
`GET /api/v1/alerts` shows it, asked every 0.2 s, so it holds the store's delay and that step too.

A service has three series: its request rate, its mean latency, and a gauge whose meaning detection cannot know. Two
samples in a row are what it wants of the latter: with 5 s between samples that is 5 s before anything else.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, percentiles, write
from tests.servers.headspring import Headspring, headspring

from headspring.analytics.detect.config import DetectConfig
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.detection import Alert, AlertStatus
from headspring.proto.topics import ALERTS
from headspring.streaming.log.segments import SegmentLog

PERIOD_S = 5.0
SLOT_S = 0.1
"""Series that report within the same slot share a request."""
SENDERS = 4
KNOWN = semantics.SERVICE_LATENCY_MEAN
UNKNOWN = "app.work.items"
RATE = semantics.SERVICE_REQUEST_RATE
METRICS = {RATE: "1/s", KNOWN: "s", UNKNOWN: "1"}
USUAL = {RATE: 40.0, KNOWN: 0.080, UNKNOWN: 400.0}
BAD = {KNOWN: 0.900, UNKNOWN: 6000.0}
NOISE = 0.05
"""Standard deviation of a healthy series, as a share of its level."""
STEPS_S = 60.0
"""Time over which series turn bad."""
WAIT_S = 45.0
"""Longest wait for an alert."""


@dataclass(slots=True)
class Series:
    service: str
    metric: str
    point: Any = None
    """Its OTLP data point, set anew for each request."""
    bad_from: float = np.inf
    """Wall clock, seconds since the epoch."""
    first_bad_sent: float = 0.0
    second_bad_sent: float = 0.0
    first_bad_ack: float = 0.0
    published: float = 0.0
    readable: float = 0.0


@dataclass(slots=True)
class Slot:
    request: ExportMetricsServiceRequest = field(default_factory=ExportMetricsServiceRequest)
    series: list[Series] = field(default_factory=list)


def estate(count: int, random: np.random.Generator) -> tuple[list[Series], list[Slot]]:
    """`count` series, a third of each kind, spread over the slots of a period."""
    slots = [Slot() for _ in range(round(PERIOD_S / SLOT_S))]
    kinds = tuple(METRICS)
    series = [Series(f"service-{place // len(kinds)}", kinds[place % len(kinds)]) for place in range(count)]
    order = random.permutation(count)
    for at, place in enumerate(order.tolist()):
        one, slot = series[place], slots[at % len(slots)]
        resource = slot.request.resource_metrics.add()
        attribute = resource.resource.attributes.add(key="service.name")
        attribute.value.string_value = one.service
        metric = resource.scope_metrics.add().metrics.add(name=one.metric, unit=METRICS[one.metric])
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
        self.samples = 0
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
        turned, again = [], []
        for one, factor in zip(slot.series, noise.tolist(), strict=True):
            bad = now >= one.bad_from
            one.point.time_unix_nano = int(now * 1e9)
            one.point.as_double = (BAD if bad else USUAL)[one.metric] * factor
            if bad and not one.first_bad_sent:
                turned.append(one)
            elif bad and not one.second_bad_sent:
                again.append(one)
        body = slot.request.SerializeToString()
        sent = time.time()
        for one in turned:
            one.first_bad_sent = sent
        for one in again:
            one.second_bad_sent = sent
        connection.request("POST", "/v1/metrics", body, headers)
        answer = connection.getresponse()
        answer.read()
        acknowledged = time.time()
        for one in turned:
            one.first_bad_ack = acknowledged
        self.refused += answer.status != 200
        self.samples += len(slot.series)
        self.late_s.append(sent - due)


class Reader(threading.Thread):
    """Notes when each alert is first seen at the API."""

    def __init__(self, site: Headspring) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.stopping = threading.Event()
        self.seen: dict[tuple[str, str], float] = {}
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


async def published(log_folder: Path) -> tuple[dict[tuple[str, str], float], int]:
    """First firing record of each (entity, metric) on the topic, seconds since the epoch; and how many alerts."""
    log = await SegmentLog.open(log_folder, clock=SystemClock())
    consumer = await log.consumer(ALERTS.name, "benchmark")
    first: dict[tuple[str, str], float] = {}
    ids = set()
    while records := await consumer.poll(max_records=5000, max_wait_s=0.0):
        for item in records:
            alert = codec.decode(Alert, item.record.value)
            if alert.status is AlertStatus.FIRING:
                ids.add(alert.alert_id)
                first.setdefault((alert.entity, alert.metric), item.record.time_ns / NS_PER_S)
    await log.close()
    return first, len(ids)


def run(count: int, faults: int, *, seed: int = 7) -> dict[str, Any]:
    """One size."""
    random = np.random.default_rng(seed)
    series, slots = estate(count, random)
    baseline_s = (DetectConfig().min_updates + 3) * PERIOD_S
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with headspring(folder) as site:
            pid = _pid(site)
            start = time.time() + 0.5
            able = [place for place, one in enumerate(series) if one.metric in BAD]
            chosen = random.choice(able, size=faults, replace=False)
            for place, after in zip(chosen.tolist(), random.uniform(0, STEPS_S, faults).tolist(), strict=True):
                series[place].bad_from = start + baseline_s + after
            senders = [Sender(number, slots, site, start, seed) for number in range(SENDERS)]
            for sender in senders:
                sender.start()
            time.sleep(max(0.0, start + baseline_s - time.time()))
            quiet = len(site.alerts())
            reader = Reader(site)
            reader.start()
            cpu, at = cpu_s(pid), time.time()
            time.sleep(STEPS_S)
            used = (cpu_s(pid) - cpu) / (time.time() - at)
            _wait_for_all(series, reader)
            reader.stopping.set()
            reader.join()
            for sender in senders:
                sender.stopping.set()
            for sender in senders:
                sender.join()
        heard, alerts = asyncio.run(published(folder / "data" / "log"))
    bad = [one for one in series if np.isfinite(one.bad_from)]
    for one in bad:
        key = (f"service:default/{one.service}", one.metric)
        one.published, one.readable = heard.get(key, 0.0), reader.seen.get(key, 0.0)
    wanted = {(f"service:default/{one.service}", one.metric) for one in bad}
    lateness = [late for sender in senders for late in sender.late_s]
    return {
        "series": count,
        "samples_per_s": count / PERIOD_S,
        "turned_bad": len(bad),
        "alerts_before_the_first_fault": quiet,
        "alerts_on_healthy_series": len(heard.keys() - wanted),
        "alerts": alerts,
        "known_meaning": _kind([one for one in bad if one.metric == KNOWN]),
        "unknown_meaning": _kind([one for one in bad if one.metric == UNKNOWN]),
        "requests_refused": sum(sender.refused for sender in senders),
        "sender_late_s": percentiles(lateness),
        "acknowledged_after_s": percentiles([one.first_bad_ack - one.first_bad_sent for one in bad]),
        "platform_cores_used": round(used, 2),
        "alerts_request_s": percentiles(reader.slow_s),
    }


def _kind(bad: list[Series]) -> dict[str, Any]:
    told = [one for one in bad if one.published]
    seen = [one for one in bad if one.readable]
    after_second = [one.published - one.second_bad_sent for one in told if one.second_bad_sent]
    return {
        "turned_bad": len(bad),
        "missed": len(bad) - len(told),
        "first_bad_sample_to_published_s": percentiles([one.published - one.first_bad_sent for one in told]),
        "first_bad_sample_to_readable_s": percentiles([one.readable - one.first_bad_sent for one in seen]),
        "second_bad_sample_to_published_s": percentiles([late for late in after_second if late >= 0]),
        "before_the_second_bad_sample": len(told) - sum(late >= 0 for late in after_second),
    }


def _wait_for_all(series: Sequence[Series], reader: Reader) -> None:
    wanted = {(f"service:default/{one.service}", one.metric) for one in series if np.isfinite(one.bad_from)}
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and not wanted <= reader.seen.keys():
        time.sleep(0.5)


def _pid(site: Headspring) -> int:
    """The process that listens on the platform's port."""
    import psutil

    port = urlsplit(site.url).port
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port for one in process.net_connections(kind="tcp") if one.status == "LISTEN"):
            return int(process.pid)
    raise RuntimeError(f"nothing of ours listens on {port}")


def _row(run: dict[str, Any], kind: str, words: str, measure: str, end: str) -> str:
    figures = run[kind]
    times = figures[measure]
    shown = " | ".join(f"{times[name]:.2f}" if times else "-" for name in ("p50", "p90", "p99", "max"))
    return f"| {run['series']} | {words} | {end} | {shown} | {figures['missed']} of {figures['turned_bad']} |"


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        heading("From the first bad sample to the alert", result["about"])
        + "One sample per series in 5 s, OTLP over HTTP, fsync on, default settings; series turn bad at random moments "
        "and stay so. The clock starts when the request with the first bad sample begins to be sent.\n",
        "| series | kind | until | p50 s | p90 s | p99 s | max s | missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        for kind, words in (("known_meaning", "service latency"), ("unknown_meaning", "meaning unknown")):
            lines += [
                _row(run, kind, words, "first_bad_sample_to_published_s", "alert published"),
                _row(run, kind, words, "first_bad_sample_to_readable_s", "readable at the API"),
                _row(run, kind, words, "second_bad_sample_to_published_s", "published, from the second bad sample"),
            ]
    lines.append("")
    for run in result["runs"]:
        lines.append(
            f"- {run['series']} series ({run['samples_per_s']:.0f} samples/s): {run['platform_cores_used']} cores used "
            f"by the platform while series turned bad, alerts on healthy series {run['alerts_on_healthy_series']}, "
            f"requests refused {run['requests_refused']}, acknowledged after p99 "
            f"{run['acknowledged_after_s']['p99']:.3f} s, `GET /api/v1/alerts` p50 "
            f"{run['alerts_request_s']['p50']:.3f} s."
        )
    lines += [
        "",
        "*Published* is the stamp of the record on the topic `alerts`; *readable* is when `GET /api/v1/alerts`, asked "
        "every 0.2 s, first shows it. A gauge whose meaning is unknown must be bad in two samples in a row: with one "
        "sample in 5 s that alone is 5 s. A strong rise of the mean latency of many requests is told with its first.",
    ]
    return "\n".join(lines)


def main() -> None:
    sizes = [(1_000, 200), (10_000, 500)]
    if len(sys.argv) > 1:
        sizes = [(int(one), max(1, int(one) // 5)) for one in sys.argv[1:]]
    details = about("bench_detection_latency.py")
    result = {"about": details, "runs": [run(count, faults) for count, faults in sizes]}
    write("detection_latency", result, text(result))


if __name__ == "__main__":
    main()
