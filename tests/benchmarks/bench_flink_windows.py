"""Windows on Flink beside the kernel consumer: rows per CPU-second with checkpoints on, and how soon features come.

Run: `python tests/benchmarks/bench_flink_windows.py` from the repository root. Flink's CPU time is the TaskManager's,
taken from the moment that 40 % of the samples are through (its compiler has settled by then); the kernel's is the
consumer process's own, from the first record. Both read the same topic of the same broker and write their features
to it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.benchmarks import measure  # noqa: E402
from tests.real.flink_load import START_NS, create_topics  # noqa: E402
from tests.servers.flink import Flink, flink  # noqa: E402
from tests.servers.kafka import Kafka, kafka  # noqa: E402

from headspring.proto import codec  # noqa: E402
from headspring.proto.clock import NS_PER_S, ManualClock  # noqa: E402
from headspring.proto.detection import FeatureBatch  # noqa: E402
from headspring.proto.telemetry import MetricBatch  # noqa: E402
from headspring.proto.topics import FEATURES, METRICS, partition_of, record_key  # noqa: E402
from headspring.streaming.engine.flink.rest import FlinkRest  # noqa: E402
from headspring.streaming.engine.flink.sql import AT_LEAST_ONCE, EXACTLY_ONCE, WindowJob, metrics_table, payload  # noqa: E402
from headspring.streaming.engine.flink.submit import Environment, submit  # noqa: E402
from headspring.streaming.log.kafka.connection import KafkaConnection  # noqa: E402
from headspring.streaming.log.port import Record, StoredRecord  # noqa: E402
from headspring.streaming.windows.stage import WindowStage  # noqa: E402

PARTITIONS = 4
SERIES = 10_000
SECONDS = 600
WARM = 0.4
LIVE_SERIES, LIVE_S = 2_000, 45
HOP_SLIDE_S = 10
"""Flink's own windows are measured with this slide: with 1 s each sample is in 300 windows, and a run takes an hour."""
HOP = """\
INSERT INTO nowhere
SELECT tenant, shard, series_id, window_end, COUNT(`value`), AVG(`value`), STDDEV_POP(`value`), MIN(`value`),
  MAX(`value`), MAX(time_ns)
FROM HOP(TABLE samples, DESCRIPTOR(ts), INTERVAL '{slide}' SECOND, INTERVAL '300' SECOND(3))
GROUP BY tenant, shard, series_id, window_start, window_end"""
NOWHERE = """\
CREATE TEMPORARY TABLE nowhere (
  tenant STRING, shard BIGINT, series_id BIGINT, window_end TIMESTAMP(3), n BIGINT, mean DOUBLE, std DOUBLE,
  minimum DOUBLE, maximum DOUBLE, last_time_ns BIGINT
) WITH ('connector' = 'blackhole')"""


@dataclass(frozen=True, slots=True)
class Stack:
    kafka: Kafka
    flink: Flink
    rest: FlinkRest

    def job(self, name: str, **settings: Any) -> WindowJob:
        base = WindowJob(kafka=KafkaConnection(self.kafka.servers), name=name, idle_s=0, parallelism=2)
        return replace(base, **settings)


def second(ids: np.ndarray, shard: int, time_ns: int, values: np.ndarray) -> MetricBatch:
    """One sample of each series of a shard, a third of them counters, spread over a second."""
    own = ids[shard::PARTITIONS]
    kinds = np.where(own % 3 == 0, 2, 1).astype(np.uint8)
    at = time_ns + (own % 997).astype(np.int64) * 1_000_000
    return MetricBatch(
        tenant="default", shard=shard, received_ns=time_ns + NS_PER_S - 1, series_id=own, time_ns=at,
        value=values[shard::PARTITIONS], kind=kinds,
    )  # fmt: skip


def fill(servers: str, prefix: str) -> int:
    """The recording onto the topic; how many samples."""
    random = np.random.default_rng(1)
    ids = np.arange(SERIES, dtype=np.uint64)
    values = random.normal(100, 10, SERIES)
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.kbytes": 200_000})
    for number in range(SECONDS):
        values = values + random.exponential(1.0, SERIES)
        for shard in range(PARTITIONS):
            batch = second(ids, shard, START_NS + number * NS_PER_S, values)
            _produce(producer, prefix, batch)
        producer.poll(0)
    assert producer.flush(120.0) == 0
    return SERIES * SECONDS


def _produce(producer: Producer, prefix: str, batch: MetricBatch) -> None:
    key = record_key(batch.tenant, batch.shard)
    place = partition_of(METRICS.name, key, PARTITIONS)
    producer.produce(prefix + METRICS.name, codec.encode(batch), key, partition=place)


def flink_cost(stack: Stack, start: Callable[[], str], samples: int) -> dict[str, Any]:
    """What a job costs the TaskManager that reads everything there is, from `WARM` of it on."""
    job_id = start()
    stack.rest.await_running(job_id, timeout_s=180.0)
    pid, warm, quiet = stack.flink.pid(1), None, 0
    deadline = time.monotonic() + 1200
    before = (0.0, 0.0)
    while time.monotonic() < deadline:
        counters = stack.rest.counters(job_id)
        now = (time.monotonic(), measure.cpu_s(pid))
        if warm is None and counters["samples"] >= WARM * samples:
            warm = (*now, counters["samples"], counters["feature_rows"])
        idle = now[1] - before[1] < 0.2 * (now[0] - before[0])
        quiet = quiet + 1 if idle and counters["samples"] >= samples else 0
        if quiet == 1:
            end = (*now, counters["samples"], counters["feature_rows"])
        if quiet >= 3:
            break
        before = now
    else:
        raise RuntimeError(f"the job is not through: {counters}")
    assert warm is not None, "the job was through before it was looked at"
    done = stack.rest.checkpoints(job_id)
    stack.rest.cancel(job_id)
    stack.rest.await_end(job_id)
    spent = end[1] - warm[1]
    return {
        "rows_per_cpu_s": round((end[2] - warm[2]) / spent),
        "feature_rows_per_cpu_s": round((end[3] - warm[3]) / spent),
        "cpu_s": round(spent, 1),
        "rows": end[2] - warm[2],
        "checkpoints": done.completed,
        "checkpoint_mb": round(done.bytes / 1e6, 1),
        "checkpoint_ms": done.took_ms,
    }


def start_hop(stack: Stack, job: WindowJob, slide: int) -> str:
    """Submits Flink's own windows."""
    environment = Environment(stack.flink.environment)
    host, _, port = stack.flink.rest.removeprefix("http://").partition(":")
    config = {"execution.target": "remote", "rest.address": host, "rest.port": port, "execution.attached": "false"}
    sent = payload(job, jars=environment.jars, config=config)
    sent |= {"statements": [metrics_table(job), NOWHERE], "insert": HOP.format(slide=slide)}
    script = ROOT / "tests" / "benchmarks" / "flink_hop.py"
    done = subprocess.run(
        [str(environment.python), str(script)], input=json.dumps(sent), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return str(json.loads(done.stdout.strip().splitlines()[-1])["job_id"])


def kernel_cost(servers: str, prefix: str, samples: int, slide_s: float) -> dict[str, Any]:
    """The kernel as a consumer: read, decode, windows, encode, write, commit; looks as often as Flink does."""
    return asyncio.run(_kernel(servers, prefix, samples, slide_s))


async def _kernel(servers: str, prefix: str, samples: int, slide_s: float) -> dict[str, Any]:
    clock = ManualClock(start_ns=START_NS)
    stage = WindowStage(clock=clock, evaluate_every_s=slide_s)
    stage.restore(b"")
    consumers = []
    for partition in range(PARTITIONS):  # read in step, so that a look sees the same second of every shard
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "kernel", "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition(prefix + METRICS.name, partition, 0)])
        consumers.append(consumer)
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "compression.type": "lz4"})
    taken = rows = 0
    began = began_wall = snapshot_at = 0.0
    while taken < samples:
        messages = [message for one in consumers for message in one.consume(1, timeout=10.0)]
        if messages and not began:
            began, began_wall = time.process_time(), time.monotonic()
        for message in messages:
            value = message.value() or b""
            record = Record(key=message.key() or b"", value=value, time_ns=0)
            stored = StoredRecord(
                topic=METRICS.name, partition=message.partition() or 0, offset=message.offset() or 0, record=record
            )
            clock.advance(1.0 / PARTITIONS)
            for out in await stage.process(METRICS.name, [stored]):
                producer.produce(
                    prefix + "kernel." + FEATURES.name, out.value, out.key,
                    partition=partition_of(FEATURES.name, out.key, PARTITIONS),
                )  # fmt: skip
                rows += len(codec.decode(FeatureBatch, out.value))
            taken += len(codec.decode(MetricBatch, value))
        producer.poll(0)
        if time.monotonic() - snapshot_at > 2.0:  # as often as Flink's checkpoints
            snapshot_at = time.monotonic()
            stage.snapshot()
    producer.flush(60.0)
    spent, wall = time.process_time() - began, time.monotonic() - began_wall
    for consumer in consumers:
        consumer.close()
    return {
        "rows_per_cpu_s": round(taken / spent), "feature_rows_per_cpu_s": round(rows / spent),
        "cpu_s": round(spent, 1), "rows": taken, "wall_s": round(wall, 1),
    }  # fmt: skip


def latency(stack: Stack, job: WindowJob) -> dict[str, float]:
    """Seconds from a sample's arrival to its features at a consumer that reads what is committed."""
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    job_id = submit(job, stack.rest, Environment(stack.flink.environment))
    stack.rest.await_running(job_id, timeout_s=180.0)
    writer = threading.Thread(target=_live, args=(stack.kafka.servers, job.prefix))
    consumer = Consumer(
        {"bootstrap.servers": stack.kafka.servers, "group.id": job.group + ".reader", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([job.prefix + FEATURES.name])
    seconds: list[float] = []
    writer.start()
    began = time.monotonic()
    while time.monotonic() - began < LIVE_S:
        for message in consumer.consume(100, timeout=0.05):
            now_ns = time.time_ns()
            if message.error() is None and time.monotonic() - began > 10.0:
                batch = codec.decode(FeatureBatch, message.value() or b"")
                seconds += ((now_ns - batch.last_time_ns) / NS_PER_S).tolist()
    writer.join()
    consumer.close()
    stack.rest.cancel(job_id)
    stack.rest.await_end(job_id)
    return measure.percentiles(seconds)


def _live(servers: str, prefix: str) -> None:
    """Every series once a second, in ten batches a second."""
    ids = np.arange(LIVE_SERIES, dtype=np.uint64)
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    began = time.monotonic()
    tick = 0
    while time.monotonic() - began < LIVE_S:
        own = ids[tick % 10 :: 10]
        now_ns = time.time_ns()
        for shard in range(PARTITIONS):
            mine = own[own % PARTITIONS == shard]
            batch = MetricBatch(
                tenant="default", shard=shard, received_ns=now_ns, series_id=mine,
                time_ns=np.full(mine.size, now_ns), value=mine.astype(np.float64),
                kind=np.ones(mine.size, dtype=np.uint8),
            )  # fmt: skip
            _produce(producer, prefix, batch)
        producer.poll(0)
        tick += 1
        time.sleep(max(0.0, began + tick / 10 - time.monotonic()))
    producer.flush(10.0)


def run(stack: Stack) -> dict[str, Any]:
    """All figures."""
    create_topics(stack.kafka.servers, "", PARTITIONS)
    create_topics(stack.kafka.servers, "kernel.", PARTITIONS)
    samples = fill(stack.kafka.servers, "")
    environment = Environment(stack.flink.environment)
    costs: dict[str, Any] = {}
    for slide in (1, 10):
        job = stack.job(f"ours-{slide}", slide_s=float(slide))
        costs[f"flink, ours, a look every {slide} s"] = flink_cost(
            stack, lambda job=job: submit(job, stack.rest, environment), samples  # type: ignore[misc]
        )  # fmt: skip
        _say(costs)
        costs[f"kernel consumer, a look every {slide} s"] = kernel_cost(stack.kafka.servers, "", samples, float(slide))
        if slide < HOP_SLIDE_S:
            continue
        hop = stack.job(f"hop-{slide}")
        costs[f"flink, SQL HOP, slide {slide} s"] = flink_cost(
            stack, lambda job=hop, slide=slide: start_hop(stack, job, slide), samples  # type: ignore[misc]
        )  # fmt: skip
        _say(costs)
    soon: dict[str, Any] = {}
    for guarantee, checkpoint_s in ((EXACTLY_ONCE, 2.0), (EXACTLY_ONCE, 1.0), (AT_LEAST_ONCE, 2.0)):
        name = f"{guarantee}-{checkpoint_s:g}"
        job = stack.job(name, prefix=f"{name}.", guarantee=guarantee, checkpoint_s=checkpoint_s, idle_s=3.0)
        soon[f"{guarantee}, checkpoint every {checkpoint_s:g} s"] = latency(stack, job)
        _say(soon)
    return {"cost": costs, "latency_s": soon}


def _say(what: Mapping[str, Any]) -> None:
    print(json.dumps(what, indent=1), file=sys.stderr, flush=True)


def table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Markdown."""
    head = f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |\n" for name, row in rows.items()
    )


def main() -> None:
    about = measure.about("bench_flink_windows.py")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (
            kafka(folder / "kafka", fast_start=False, heap="512m") as log,
            flink(folder / "flink", slots=2, ha=False, heap="1024m", fast_start=False) as cluster,
            FlinkRest(cluster.rest) as rest,
        ):
            result = {"about": about, **run(Stack(log, cluster, rest))}
    text = measure.heading("Windows on Flink, beside the kernel consumer", about)
    text += (
        f"{SERIES:,} series, one sample each a second, a third of them counters, {SECONDS} s, {PARTITIONS} partitions; "
        "windows of 300 s in panes of 10 s; a checkpoint every 2 s, exactly-once. CPU time of the TaskManager "
        f"(parallelism 2, after the first {WARM:.0%}) or of the consumer process. `SQL HOP` is Flink's own window over "
        "the same table with its own aggregates and no output: no rates, no lateness per series, no first and last "
        "values (Flink cannot merge them over hopping windows), nothing written. Not measured with a slide of 1 s, "
        "where each sample belongs to 300 windows: not through after 10 CPU minutes.\n\n"
    )
    columns = ("rows_per_cpu_s", "feature_rows_per_cpu_s", "cpu_s", "rows", "checkpoint_mb", "checkpoint_ms")
    text += table(result["cost"], columns)
    text += (
        f"\nFrom a sample's arrival to its features at a reader of committed records, seconds; {LIVE_SERIES:,} series "
        f"once a second for {LIVE_S} s, a look every second:\n\n"
    )
    text += table(result["latency_s"], ("p50", "p90", "p99", "max"))
    measure.write("flink_windows", result, text)


if __name__ == "__main__":
    main()
