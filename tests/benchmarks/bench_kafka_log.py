"""What the event log costs: Kafka beside the embedded log, on batches of samples as ingestion writes them.

Run: `python tests/benchmarks/bench_kafka_log.py` from the repository root; writes `results/kafka_log.{json,md}`. Every
round runs both logs one after the other; medians over rounds. The broker runs on the same machine, so its CPU time is
told beside the client's.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from headspring.proto.topics import METRICS, record_key
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog

SAMPLES = 5000
"""Of one record."""
RECORDS = 2000
"""Of one pass: 10 million samples, about 250 MB."""
TASKS = 8
"""Appends under way at the same time, each of one record, as requests bring them."""
SHARDS = 12
SMALL_BYTES = 300
"""About an alert."""
SMALL_RECORDS = 100_000
SMALL_BATCH = 500
ROUNDS = 3
Log = SegmentLog | KafkaLog


@dataclass
class Spent:
    """Of one measurement."""

    wall_s: float = 0.0
    client_s: float = 0.0
    """CPU time of this process."""
    broker_s: float = 0.0


@contextmanager
def measured(broker: Kafka) -> Iterator[Spent]:
    spent = Spent()
    process = psutil.Process(broker.pid(1))
    wall, client, server = time.perf_counter(), _own_cpu_s(), sum(process.cpu_times()[:2])
    yield spent
    spent.wall_s = time.perf_counter() - wall
    spent.client_s = _own_cpu_s() - client
    spent.broker_s = sum(process.cpu_times()[:2]) - server


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def batches(count: int) -> list[Record]:
    """Half gauges of two decimals, half counters; sorted ids, times within a second: what compression meets."""
    rng = np.random.default_rng(7)
    records = []
    now_ns = time.time_ns()
    ids = np.sort(rng.integers(0, 2**63, SAMPLES)).astype(np.uint64)
    kind = (np.arange(SAMPLES) % 2 + 1).astype(np.uint8)
    for number in range(count):
        gauges = np.round(rng.normal(50, 12, SAMPLES), 2)
        counters = np.floor(rng.random(SAMPLES) * 1e6) + number
        batch = MetricBatch(
            tenant="default", series_id=ids, kind=kind, value=np.where(kind == 1, gauges, counters),
            time_ns=now_ns + np.sort(rng.integers(0, NS_PER_S // 10**6, SAMPLES)) * 10**6,
        )  # fmt: skip
        records.append(Record(key=record_key("default", number % SHARDS), value=codec.encode(batch), time_ns=now_ns))
    return records


async def produce(log: Log, topic: str, appends: Sequence[Sequence[Record]]) -> list[float]:
    """Every append by the next free of `TASKS` tasks; how long each waited, seconds."""
    waits: list[float] = []
    left = iter(appends)

    async def work() -> None:
        for records in left:
            began = time.perf_counter()
            await log.append(topic, records)
            waits.append(time.perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(TASKS)))
    return waits


async def consume(log: Log, topic: str, group: str, count: int) -> None:
    consumer = await log.consumer(topic, group)
    taken = 0
    while taken < count:
        records = await consumer.poll(max_wait_s=30.0)
        if not records:
            raise RuntimeError(f"{taken} of {count} records came")
        taken += len(records)
    await consumer.close()


async def one_pass(broker: Kafka, log: Log, topic: str, appends: Sequence[Sequence[Record]]) -> dict[str, Any]:
    count = sum(len(records) for records in appends)
    size = sum(len(record.value) for records in appends for record in records)
    with measured(broker) as out:
        waits = await produce(log, topic, appends)
    with measured(broker) as back:
        await consume(log, topic, "bench", count)
    return {
        "records": count,
        "mb": size / 1e6,
        "produce": vars(out),
        "consume": vars(back),
        "append_ms": {name: value * 1e3 for name, value in measure.percentiles(waits).items()},
    }


async def rounds(broker: Kafka, folder: Path) -> dict[str, list[dict[str, Any]]]:
    large, small = batches(50), [
        Record(key=record_key("default", f"service-{n}"), value=bytes([n % 251]) * SMALL_BYTES, time_ns=time.time_ns())
        for n in range(SMALL_BATCH)
    ]  # fmt: skip
    loads = {
        "samples": (METRICS.name, [[large[n % len(large)]] for n in range(RECORDS)]),
        "alerts": ("alerts", [small] * (SMALL_RECORDS // SMALL_BATCH)),
    }
    connection = KafkaConnection(broker.servers)

    def embedded(number: int) -> Callable[[], Any]:
        return lambda: SegmentLog.open(folder / f"segments-{number}", clock=SystemClock())

    def on_kafka(compression: str, number: int) -> Callable[[], Any]:
        return lambda: KafkaLog.open(
            connection, clock=SystemClock(), partitions=SHARDS, replication=1, compression=compression,
            prefix=f"{compression}-{number}.", reads=(METRICS.name, "alerts"), writes=(METRICS.name, "alerts"),
        )  # fmt: skip

    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(ROUNDS + 1):
        logs = {"segments": embedded(number)} | {
            f"kafka {name}": on_kafka(name, number) for name in ("lz4", "zstd", "none")
        }
        for log_name, make in logs.items():
            log: Log = await make()
            for load, (topic, appends) in loads.items():
                result = await one_pass(broker, log, topic, appends)
                if number:  # the first round warms both up
                    found.setdefault(f"{load} {log_name}", []).append(result)
            await log.close()
    return found


def disk_mb(broker: Kafka, prefix: str) -> float:
    folder = broker.folder / "data-1"
    files = (file for place in folder.glob(f"{prefix}{METRICS.name}-*") for file in place.glob("*.log"))
    return sum(file.stat().st_size for file in files) / 1e6


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for name, results in found.items():
        row: dict[str, float] = {}
        per_record = SAMPLES if name.startswith("samples") else 1
        for way in ("produce", "consume"):
            for who in ("client_s", "broker_s", "wall_s"):
                spent = [result[way][who] for result in results]
                if min(spent) <= 0:
                    continue
                unit = who.removesuffix("_s")
                row[f"{way}_mb_per_{unit}_s"] = statistics.median(
                    result["mb"] / used for result, used in zip(results, spent, strict=True)
                )
                row[f"{way}_items_per_{unit}_s"] = statistics.median(
                    result["records"] * per_record / used for result, used in zip(results, spent, strict=True)
                )
        for name_of in ("p50", "p99"):
            row[f"append_{name_of}_ms"] = statistics.median(result["append_ms"][name_of] for result in results)
        rows[name] = {key: round(value, 2) for key, value in row.items()}
    return rows


def text(about: dict[str, Any], rows: dict[str, dict[str, float]], stored: dict[str, float]) -> str:
    lines = [measure.heading("The event log: Kafka beside the embedded one", about)]
    lines.append(
        f"{TASKS} appends under way at a time, acknowledged each (embedded: fsync; Kafka: one broker of Kafka 4.3 on "
        f"the same machine, one replica, acks=all, idempotent, {SHARDS} partitions). Medians of {ROUNDS} rounds after "
        "one to warm up. CPU seconds of the client are user and system time of the process that appends or polls; the "
        "broker's are told beside them.\n"
    )
    for load, title, unit in (
        ("samples", f"Batches of {SAMPLES} samples ({stored['raw_kb']:.0f} KB), one record an append", "samples"),
        ("alerts", f"Records of {SMALL_BYTES} bytes, {SMALL_BATCH} an append", "records"),
    ):
        lines.append(f"\n## {title}\n")
        lines.append(
            f"| log | way | MB per client CPU-s | {unit} per client CPU-s | {unit} per CPU-s of client and broker "
            "| MB/s | append p50 ms | p99 ms |\n|---|---|---|---|---|---|---|---|"
        )
        for name, row in rows.items():
            if not name.startswith(load):
                continue
            for way in ("produce", "consume"):
                client = row[f"{way}_items_per_client_s"]
                broker = row.get(f"{way}_items_per_broker_s")
                both = 1 / (1 / client + 1 / broker) if broker and "kafka" in name else client
                waits = f"{row['append_p50_ms']:.1f} | {row['append_p99_ms']:.1f}" if way == "produce" else "- | -"
                lines.append(
                    f"| {name.removeprefix(load + ' ')} | {way} | {row[f'{way}_mb_per_client_s']:.0f} | {client:,.0f} "
                    f"| {both:,.0f} | {row[f'{way}_mb_per_wall_s']:.0f} | {waits} |"
                )
    lines.append(
        "\nOn the broker's disk the samples of one round take "
        + ", ".join(f"{stored[name]:.0f} MB ({name})" for name in ("lz4", "zstd", "none"))
        + f"; they are {stored['raw_mb']:.0f} MB before compression.\n"
    )
    return "\n".join(lines)


def main() -> None:
    about = measure.about("bench_kafka_log.py")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"log.retention.check.interval.ms": "3600000"}
        with kafka(Path(folder) / "kafka", settings=settings, heap="1g", fast_start=False) as broker:
            found = asyncio.run(rounds(broker, Path(folder)))
            stored = {name: disk_mb(broker, f"{name}-{ROUNDS}.") for name in ("lz4", "zstd", "none")}
    stored["raw_mb"] = found["samples segments"][0]["mb"]
    stored["raw_kb"] = stored["raw_mb"] * 1e3 / RECORDS
    rows = summary(found)
    measure.write("kafka_log", {**about, "rows": rows, "disk": stored, "rounds": found}, text(about, rows, stored))


if __name__ == "__main__":
    main()
