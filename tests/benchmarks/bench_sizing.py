"""What a rate of samples costs: measured rates of each part, and the arithmetic from them to cores and gigabytes.

Run: `python tests/benchmarks/bench_sizing.py`, after the benchmarks it reads (`results/*.json`). It measures detection
itself, since no other benchmark does by CPU.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import measure

from headspring.analytics.detect.stage import DetectStage
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import FeatureBatch
from headspring.proto.ids import entity_id
from headspring.proto.telemetry import SeriesDescriptor
from headspring.proto.topics import FEATURES, SERIES
from headspring.streaming.log.port import Record, StoredRecord

RATES = (10_000, 100_000, 1_000_000, 10_000_000)
INTERVAL_S = 15
"""Between two samples of a series: Prometheus' usual scrape interval is 15 s to 60 s."""
REPLICAS = 3
BUSY = 0.6
"""Share of a core that is planned for: the rest is for bursts, restarts and catching up."""
WINDOW_BYTES = 2_000
"""Of a series in the windows' memory (the stage's own figure)."""
LOG_HOURS = 6
_SERIES = 20_000
_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Part:
    """Something that every sample passes, and how many of them one CPU second does."""

    name: str
    per_cpu_s: float
    source: str
    times: float = 1.0
    """How often each sample passes it."""

    def cores(self, rate: int) -> float:
        return rate * self.times / self.per_cpu_s / BUSY


async def detection() -> float:
    """Feature rows per CPU second of the detection stage, every series warm."""
    clock = ManualClock(start_ns=1_700_000_000 * NS_PER_S)
    stage = DetectStage(clock=clock)
    described = [
        SeriesDescriptor(
            series_id=number + 1, tenant="default", name=semantics.SERVICE_LATENCY_MEAN, unit="s",
            entity=entity_id("service", f"svc-{number}"), labels={semantics.LABEL_SERVICE: f"svc-{number}"},
        )
        for number in range(_SERIES)
    ]  # fmt: skip
    await stage.process(SERIES.name, [_stored(SERIES.name, codec.encode(one)) for one in described])
    random = np.random.default_rng(3)
    ids = np.arange(1, _SERIES + 1, dtype=np.uint64)
    level = random.uniform(0.02, 0.1, _SERIES)

    def batch() -> StoredRecord:
        clock.advance(1.0)
        value = level * random.lognormal(0.0, 0.05, _SERIES)
        features = FeatureBatch(
            tenant="default", window_end_ns=clock.now_ns(), window_ns=300 * NS_PER_S, emitted_ns=clock.now_ns(),
            series_id=ids, count=np.full(_SERIES, 60), last_time_ns=np.full(_SERIES, clock.now_ns()),
            recent_count=np.full(_SERIES, 10), mean=value, std=value, minimum=value, maximum=value, first=value,
            last=value, recent_mean=value,
        )  # fmt: skip
        return _stored(FEATURES.name, codec.encode(features))

    for _ in range(40):
        await stage.process(FEATURES.name, [batch()])
    batches = [batch() for _ in range(40)]
    rows, began = 0, time.process_time()
    while time.process_time() - began < _SECONDS and batches:
        await stage.process(FEATURES.name, [batches.pop(0)])
        rows += _SERIES
    return rows / (time.process_time() - began)


def _stored(topic: str, value: bytes) -> StoredRecord:
    return StoredRecord(topic=topic, partition=0, offset=0, record=Record(key=b"k", value=value, time_ns=1))


def parts(detect_per_s: float) -> list[Part]:
    intake = _result("intake_peer")["servers"]["headspring, intake alone"]["remote write"]["samples_per_cpu_s"][
        "median"
    ]
    log = _result("kafka_log")["rows"]["samples kafka lz4"]
    windows = _result("kafka_engine")["rows"]["kafka, 1 process"]
    written = _result("series_stores")["written"]["one sample a series"]["victoria remote write"]["known"]
    return [
        Part("ingestion: take and check", intake, "intake_peer: remote write, with the embedded log's fsync"),
        Part("ingestion: publish", log["produce_items_per_client_s"], "kafka_log: samples, lz4, client"),
        Part("Kafka: leader takes", log["produce_items_per_broker_s"], "kafka_log: samples, lz4, broker"),
        Part("Kafka: followers take", log["produce_items_per_broker_s"],
             "extrapolated: each follower as much as the leader", REPLICAS - 1),
        Part("Kafka: readers served", log["consume_items_per_broker_s"], "kafka_log: consume, broker", 2),
        Part("windows (kernel)", windows["rows_per_cpu_s"], "kafka_engine: one process, features every second"),
        Part("detect", detect_per_s, "measured here: a feature row for every sample"),
        Part("store: our side", written["per_cpu_s_ours"], "series_stores: remote write, one sample a series"),
        Part("VictoriaMetrics", written["per_cpu_s_server"], "series_stores: as above, the server's CPU"),
    ]  # fmt: skip


def beside() -> list[str]:
    """Rates of what is not in the table, because it is instead of a part or does not go with samples; as far as they
    were measured."""
    said = []
    if windows := _measured("flink_windows"):
        ours, kernel = (
            windows["cost"][f"{name}, a look every 1 s"]["rows_per_cpu_s"]
            for name in ("flink, ours", "kernel consumer")
        )
        said.append(
            f"**Windows on Flink** instead of the kernel: {ours:,} samples per CPU second of the TaskManager, where "
            f"the kernel did {kernel:,} in the same run with the same load (`flink_windows.md`, a look every second): "
            f"{kernel / ours:.1f} times the cores for what Flink brings (exactly-once, rescaling with its state)."
        )
    if events := _measured("faust"):
        faust, relay = events["rows"]["correlate, backlog"], events["rows"]["relay, backlog"]
        said.append(
            "**Events** (alerts, incidents, actions) go at the rate of trouble, not of samples. Correlation on Faust "
            f"takes {faust['faust']['events_per_cpu_s']:,.0f} records of alerts per CPU second of a backlog, "
            f"{faust['kafka']['events_per_cpu_s']:,.0f} on our engine on Kafka; a stage that only passes on, "
            f"{relay['faust']['events_per_cpu_s']:,.0f} and {relay['kafka']['events_per_cpu_s']:,.0f} (`faust.md`)."
        )
    if scaling := _measured("role_scaling"):
        two = ", ".join(
            f"{role} {one['two_to_one_wall']:.2f} times the work a second and {one['two_to_one_cpu']:.2f} a CPU second"
            for role, one in scaling["roles"].items()
        )
        said.append(
            f"**Two processes of a role against one**, on 2 cores that the servers share (`role_scaling.md`): {two}."
        )
    return [line for one in said for line in (one, "")]


def _measured(name: str) -> Any:
    return _result(name) if (measure.RESULTS / f"{name}.json").exists() else None


def _result(name: str) -> Any:
    return json.loads((measure.RESULTS / f"{name}.json").read_text())


def main() -> None:
    about = measure.about("bench_sizing.py")
    found = parts(asyncio.run(detection()))
    disk_bytes = _result("kafka_log").get("disk_bytes_per_sample", 15.0)
    rows = {part.name: {f"{rate}": round(part.cores(rate), 3) for rate in RATES} for part in found}
    lines = [
        measure.heading("Sizing", about).rstrip(),
        "",
        f"Cores = samples/s × passes ÷ (samples per CPU second × {BUSY:g}); {BUSY:.0%} of a core is planned for, the "
        "rest is for bursts and catching up. Rates per CPU second are from the results named beside them, all taken on "
        "2 shared cores; **everything above what one such machine does (some 100,000 samples/s with all parts on it) "
        "is extrapolated**: it supposes that partitions spread evenly and that nothing but CPU is short. Two "
        "processes of the window role did 2.07 times the work of one (`kafka_engine.md`), which is as far "
        "as that was measured.",
        "",
        "| part | samples per CPU-s | passes | " + " | ".join(f"{rate:,}/s" for rate in RATES) + " | from |",
        "|---|---|---|" + "---|" * (len(RATES) + 1),
    ]
    for part in found:
        cores = " | ".join(f"{part.cores(rate):.2f}" for rate in RATES)
        lines.append(f"| {part.name} | {part.per_cpu_s:,.0f} | {part.times:g} | {cores} | {part.source} |")
    totals = {rate: sum(part.cores(rate) for part in found) for rate in RATES}
    lines += [
        "| **all** |  |  | " + " | ".join(f"**{totals[rate]:.1f}**" for rate in RATES) + " |  |",
        "",
        "| what | " + " | ".join(f"{rate:,}/s" for rate in RATES) + " | arithmetic |",
        "|---|" + "---|" * (len(RATES) + 1),
        "| series | "
        + " | ".join(f"{rate * INTERVAL_S:,}" for rate in RATES)
        + f" | samples/s × {INTERVAL_S} s between samples |",
        "| memory of windows, GB | "
        + " | ".join(f"{rate * INTERVAL_S * WINDOW_BYTES / 1e9:,.1f}" for rate in RATES)
        + f" | series × {WINDOW_BYTES:,} bytes, over all processes |",
        "| partitions | "
        + " | ".join(f"{max(12, -(-rate * INTERVAL_S // 200_000)):,}" for rate in RATES)
        + " | series ÷ 200,000 (a stage object holds 250,000), at least 12 |",
        "| Kafka's disk, GB | "
        + " | ".join(f"{rate * 3600 * LOG_HOURS * disk_bytes * REPLICAS / 1e9:,.0f}" for rate in RATES)
        + f" | samples/s × {LOG_HOURS} h × {disk_bytes:g} bytes (lz4, `kafka_log.md`) × {REPLICAS} copies |",
        "",
        *beside(),
        "Not in the table: spans (122,506 a CPU second for service metrics, `results/streaming.json`), logs and "
        "Elasticsearch, incidents and everything behind them (their rate is that of trouble, not of samples), the "
        "memory of VictoriaMetrics. Detection that sees a feature row a second for a series with a sample in 15 s "
        "looks at every sample once, as written here.",
    ]
    measure.write("sizing", {"about": about, "busy": BUSY, "cores": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
