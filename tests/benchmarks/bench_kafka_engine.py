"""What running a stage on Kafka costs beside the embedded engine, and what a second process brings.

Run: `python tests/benchmarks/bench_kafka_engine.py` from the repository root; writes `results/kafka_engine.{json,md}`.
The window stage works off a backlog of metric batches: on the embedded engine over the segment log, on Kafka in one
process, on Kafka in two, one after the other in every round. Workers are processes of their own, joined and with their
share before the clock starts; their CPU time is theirs alone. The broker runs on the same machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import measure
from tests.servers.kafka import Kafka, kafka

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.telemetry import MetricBatch
from headspring.proto.topics import FEATURES, METRICS, record_key
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.windows.stage import WindowStage

SHARDS = 12
SERIES = 5000
"""Of each shard; a batch has one sample of each."""
SECONDS = 200
"""Of event time, a batch of each shard in each: 12 million samples."""
READ_AHEAD = 2 * 1024 * 1024
ROUNDS = 3
_WAIT_S = 120.0


class Gated(WindowStage):
    """Begins when it is let; remembers when it was done with how much."""

    def __init__(self, go: asyncio.Event) -> None:
        super().__init__(clock=SystemClock())
        self._go = go
        self.records = 0
        self.done_s = 0.0

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        await self._go.wait()
        out = await super().process(topic, records)
        self.records += len(records)
        self.done_s = time.monotonic()
        return out


def batches() -> list[Record]:
    rng = np.random.default_rng(3)
    records = []
    start_ns = time.time_ns()
    kind = (np.arange(SERIES) % 2 + 1).astype(np.uint8)
    for second in range(SECONDS):
        for shard in range(SHARDS):
            batch = MetricBatch(
                tenant="default", shard=shard, series_id=(np.arange(SERIES) * SHARDS + shard).astype(np.uint64),
                time_ns=np.full(SERIES, start_ns + second * NS_PER_S), kind=kind,
                value=np.where(kind == 1, np.round(rng.normal(50, 12, SERIES), 2), float(second * 1000)),
            )  # fmt: skip
            value = codec.encode(batch)
            records.append(Record(key=record_key("default", shard), value=value, time_ns=start_ns + second * NS_PER_S))
    return records


# The worker's side


async def work(servers: str, where: str, report: Path, go_file: Path, parts: int) -> None:
    """Runs the stage over a segment log at `where`, or over Kafka with `where` as prefix, until the backlog is done.

    Args:
        parts: How many processes share it.
    """
    go = asyncio.Event()
    stages: list[Gated] = []

    def make() -> Gated:
        stages.append(Gated(go))
        return stages[-1]

    log: KafkaLog | SegmentLog
    engine: KafkaEngine | LocalEngine
    if servers:
        log = await open_kafka(servers, where)
        engine = KafkaEngine(log, clock=SystemClock(), buffer_bytes=READ_AHEAD)
        engine.add(make)
    else:
        log = await SegmentLog.open(Path(where), clock=SystemClock())
        engine = LocalEngine(log, clock=SystemClock())
        engine.add(make())
    await engine.start()
    while isinstance(engine, KafkaEngine) and engine.metrics()[WindowStage.name].partitions != SHARDS // parts:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    Gated(go).restore(b"")  # compiles the kernel
    await asyncio.to_thread(report.with_suffix(".ready").touch)
    await asyncio.to_thread(await_file, go_file)
    began_s, spent_s = time.monotonic(), time.process_time()
    go.set()
    while sum(stage.records for stage in stages) < SHARDS * SECONDS // parts:  # noqa: ASYNC110 — of stage objects
        await asyncio.sleep(0.01)
    result = {
        "cpu_s": time.process_time() - spent_s,
        "wall_s": max(stage.done_s for stage in stages) - began_s,
        "began_s": began_s,
        "rss_mb": psutil.Process().memory_info().rss / 1e6,
    }
    await asyncio.to_thread(report.write_text, json.dumps(result))
    await engine.stop(drain_s=0.0)
    await log.close()


async def open_kafka(servers: str, prefix: str) -> KafkaLog:
    return await KafkaLog.open(
        KafkaConnection(servers), clock=SystemClock(), partitions=SHARDS, replication=1, prefix=prefix,
        reads=(METRICS.name,), writes=(METRICS.name, FEATURES.name, "dead-letter"),
    )  # fmt: skip


# The measuring side


def one_pass(
    folder: Path, servers: str, where: str, parts: int, broker: Kafka, records: Sequence[Record]
) -> dict[str, float]:
    """The backlog at `where` is worked off by `parts` processes; on Kafka it comes when they have their shares."""
    go_file = folder / f"go-{time.monotonic_ns()}"
    reports = [folder / f"report-{time.monotonic_ns()}-{number}.json" for number in range(parts)]
    workers = [
        subprocess.Popen([sys.executable, __file__, "worker", servers, where, str(report), str(go_file), str(parts)])
        for report in reports
    ]
    try:
        await_files([report.with_suffix(".ready") for report in reports], workers)
        if servers:
            asyncio.run(fill_kafka(servers, where, records))
        process = psutil.Process(broker.pid(1))
        broker_s = sum(process.cpu_times()[:2])
        go_file.touch()
        await_files(reports, workers)
        broker_s = sum(process.cpu_times()[:2]) - broker_s
        for worker in workers:
            worker.wait(_WAIT_S)
    finally:
        for worker in workers:
            worker.kill()
    found = [json.loads(report.read_text()) for report in reports]
    rows = SHARDS * SECONDS * SERIES
    return {
        "rows_per_cpu_s": rows / sum(one["cpu_s"] for one in found),
        "rows_per_s": rows / max(one["wall_s"] for one in found),
        "rows_per_broker_cpu_s": rows / broker_s if servers and broker_s else 0.0,
        "rss_mb": max(one["rss_mb"] for one in found),
    }


def await_files(files: Sequence[Path], workers: Sequence[subprocess.Popen[bytes]]) -> None:
    until_s = time.monotonic() + _WAIT_S
    while not all(file.exists() and (file.suffix == ".ready" or file.read_text()) for file in files):
        if any(worker.poll() not in (None, 0) for worker in workers) or time.monotonic() > until_s:
            raise RuntimeError("a worker failed")
        time.sleep(0.02)


async def fill_kafka(servers: str, prefix: str, records: Sequence[Record]) -> None:
    log = await open_kafka(servers, prefix)
    await append(log, records)
    await log.close()


async def fill_segments(folder: Path, records: Sequence[Record]) -> None:
    log = await SegmentLog.open(folder, clock=SystemClock())
    await append(log, records)
    await log.close()


def await_file(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


async def append(log: KafkaLog | SegmentLog, records: Sequence[Record]) -> None:
    for start in range(0, len(records), 60):
        await log.append(METRICS.name, records[start : start + 60])


def medians(found: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(statistics.median(result[key] for result in results), 1) for key in results[0]}
        for name, results in found.items()
    }


def text(about: dict[str, Any], rows: Mapping[str, Mapping[str, float]], ratios: Mapping[str, float]) -> str:
    lines = [measure.heading("The window stage: on Kafka beside the embedded engine", about)]
    lines.append(
        f"A backlog of {SHARDS * SECONDS * SERIES / 1e6:.0f} million samples ({SHARDS} shards of {SERIES} series, one "
        "sample a second) is worked off, features every second, outputs acknowledged. Workers have their shares before "
        "the clock starts, and up to 20 MiB read ahead, which counts for Kafka as done by nobody. Medians of "
        f"{ROUNDS} rounds; every round runs all three, one after the other. CPU seconds are user and system time of "
        "the worker processes; the broker (Kafka 4.3, one replica, same machine) is told beside them.\n\n"
        "| engine | samples per worker CPU-s | samples per broker CPU-s | samples/s | memory of a worker, MB |\n"
        "|---|---|---|---|---|"
    )
    for name, row in rows.items():
        broker = f"{row['rows_per_broker_cpu_s']:,.0f}" if row["rows_per_broker_cpu_s"] else "-"
        lines.append(
            f"| {name} | {row['rows_per_cpu_s']:,.0f} | {broker} | {row['rows_per_s']:,.0f} | {row['rss_mb']:.0f} |"
        )
    lines.append(
        f"\nKafka in one process does {ratios['kafka_to_embedded_cpu']:.2f} of the embedded engine's samples per CPU "
        f"second. Two processes do {ratios['two_to_one_wall']:.2f} times the samples per second of one, and "
        f"{ratios['two_to_one_cpu']:.2f} of its samples per CPU second; workers and broker share {os.cpu_count()} "
        "cores, so the first of the two is what this machine allows."
    )
    return "\n".join(lines)


def main() -> None:
    about = measure.about("bench_kafka_engine.py")
    records = batches()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with kafka(folder / "kafka", heap="1g", fast_start=False) as broker:
            for number in range(ROUNDS):
                segments = folder / f"segments-{number}"
                asyncio.run(fill_segments(segments, records))
                for what, servers, where, parts in (
                    ("embedded", "", str(segments), 1),
                    ("kafka, 1 process", broker.servers, f"one-{number}.", 1),
                    ("kafka, 2 processes", broker.servers, f"two-{number}.", 2),
                ):
                    result = one_pass(folder, servers, where, parts, broker, records)
                    found.setdefault(what, []).append(result)
    rows = medians(found)
    one, two, embedded = rows["kafka, 1 process"], rows["kafka, 2 processes"], rows["embedded"]
    ratios = {
        "kafka_to_embedded_cpu": round(one["rows_per_cpu_s"] / embedded["rows_per_cpu_s"], 2),
        "two_to_one_wall": round(two["rows_per_s"] / one["rows_per_s"], 2),
        "two_to_one_cpu": round(two["rows_per_cpu_s"] / one["rows_per_cpu_s"], 2),
    }
    measure.write("kafka_engine", {**about, "rows": rows, "ratios": ratios}, text(about, rows, ratios))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(work(sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6])))
    else:
        main()
