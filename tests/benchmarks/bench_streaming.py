"""Speed of the log, the windows and the way between them.

Run: `python tests/benchmarks/bench_streaming.py` from the repository root; prints one JSON object. An argument
names the folder that the log is written to, so that the disk under test can be chosen.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.detection import FeatureBatch
from headspring.proto.telemetry import MetricBatch, Span, SpanBatch, SpanKind
from headspring.proto.topics import FEATURES, METRICS, SPANS
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.windows.stage import WindowStage
from headspring.streaming.windows.state import PaneState, WindowSpec

_SECONDS = 2.0
_SPEC = WindowSpec(pane_ns=10 * NS_PER_S, panes=30, lateness_ns=2 * NS_PER_S, max_series=1_000_000)


def windows(series: int, samples_each: int) -> dict[str, float]:
    """One second of event time a batch, features after each; samples per CPU second, one thread."""
    generator = np.random.default_rng(1)
    ids = generator.integers(0, 2**63, series).astype(np.uint64).repeat(samples_each)
    kinds = np.ones(ids.size, dtype=np.uint8)
    values = generator.random(ids.size)
    offsets = np.tile(np.arange(samples_each) * (NS_PER_S // samples_each), series)
    state = PaneState(_SPEC)
    for second in range(10):
        state.take(ids, offsets + (1000 + second) * NS_PER_S, values, kinds)
        state.features()
    samples, rows, start, second = 0, 0, time.process_time(), 10
    while time.process_time() - start < _SECONDS:
        state.take(ids, offsets + (1000 + second) * NS_PER_S, values, kinds)
        rows += len(state.features())
        samples += ids.size
        second += 1
    spent = time.process_time() - start
    return {"samples_per_cpu_s": round(samples / spent), "feature_rows_per_cpu_s": round(rows / spent)}


async def log_append(path: Path, value_bytes: int, tasks: int, batch: int) -> dict[str, float]:
    """Appends by concurrent tasks, each waiting for its own to be durable."""
    log = await SegmentLog.open(path, clock=SystemClock())
    records = [Record(key=b"key", value=bytes(value_bytes), time_ns=time.time_ns()) for _ in range(batch)]
    waits: list[float] = []
    until = time.perf_counter() + _SECONDS

    async def produce() -> None:
        while time.perf_counter() < until:
            begin = time.perf_counter()
            await log.append("bench", records)
            waits.append(time.perf_counter() - begin)

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(produce() for _ in range(tasks)))
    wall, spent = time.perf_counter() - start, time.process_time() - cpu
    stats = log.stats()
    await log.close()
    return {
        "mb_per_s": round(stats.bytes_written / wall / 1e6, 1),
        "records_per_s": round(stats.records_written / wall),
        "records_per_cpu_s": round(stats.records_written / spent),
        "fsyncs_per_s": round(stats.fsyncs / wall),
        "append_p50_ms": round(float(np.percentile(waits, 50)) * 1e3, 2),
        "append_p99_ms": round(float(np.percentile(waits, 99)) * 1e3, 2),
    }


async def log_read(path: Path, records: int) -> dict[str, float]:
    """Reading what is only on disk (or in the page cache), after a restart."""
    log = await SegmentLog.open(path, clock=SystemClock())
    batch = [Record(key=b"key", value=bytes(200), time_ns=1) for _ in range(1000)]
    for _ in range(records // len(batch)):
        await log.append("bench", batch)
    await log.close()
    log = await SegmentLog.open(path, clock=SystemClock())
    consumer = await log.consumer("bench", "g")
    start, count = time.process_time(), 0
    while got := await consumer.poll(max_records=5000, max_wait_s=0):
        count += len(got)
    spent = time.process_time() - start
    await log.close()
    return {"records_per_cpu_s": round(count / spent)}


async def sample_to_features(path: Path, series: int) -> dict[str, float]:
    """From the append of a series' first sample to the record with its features, through log and engine."""
    clock = SystemClock()
    log = await SegmentLog.open(path, clock=clock)
    engine = LocalEngine(log, clock=clock)
    engine.add(WindowStage(clock=clock))
    await engine.start()
    consumer = await log.consumer(FEATURES.name, "bench")
    sent: dict[int, float] = {}
    waits: list[float] = []

    async def listen() -> None:
        while len(waits) < 20:
            for item in await consumer.poll():
                heard = time.perf_counter()
                features = codec.decode(FeatureBatch, item.record.value)
                first = set(features.series_id[features.count == 1].tolist()) & sent.keys()
                waits.extend(heard - sent.pop(sid) for sid in first)

    listener = asyncio.create_task(listen())
    for number in range(24):
        now_ns = clock.now_ns()
        ids = np.arange(series, dtype=np.uint64)
        ids[0] = 10**9 + number  # a series nobody saw before
        batch = MetricBatch(
            tenant="default",
            series_id=ids,
            time_ns=np.full(series, now_ns),
            value=np.ones(series),
            kind=np.ones(series, dtype=np.uint8),
        )
        sent[int(ids[0])] = time.perf_counter()
        await log.append(METRICS.name, [Record(key=b"", value=codec.encode(batch), time_ns=now_ns)])
        if listener.done():
            break
        await asyncio.sleep(0.37)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    await engine.stop()
    await log.close()
    return {"p50_s": round(float(np.percentile(waits, 50)), 3), "max_s": round(max(waits), 3), "samples": len(waits)}


async def span_metrics() -> dict[str, float]:
    """Spans into service and call metrics: a server span with one client span beneath, batches of 200."""
    clock = SystemClock()
    stage = SpanMetricsStage(clock=clock)
    stage.restore(b"")
    now_ns = clock.now_ns()
    stored = []
    for number in range(50):
        spans = []
        for place in range(100):
            trace = f"{number:016x}{place:016x}"
            common: dict[str, Any] = {"trace_id": trace, "start_ns": now_ns - NS_PER_S, "duration_ns": 10_000_000}
            peer = f"service:default/s{(number + 1) % 10}"
            spans.append(Span(span_id="b", parent_span_id="a", kind=SpanKind.CLIENT, peer=peer, **common))
            spans.append(Span(span_id="a", kind=SpanKind.SERVER, **common))
        batch = SpanBatch(tenant="t", entity=f"service:default/s{number % 10}", received_ns=now_ns, spans=tuple(spans))
        record = Record(key=b"", value=codec.encode(batch), time_ns=now_ns)
        stored.append(StoredRecord(topic=SPANS.name, partition=0, offset=number, record=record))
    count, start = 0, time.process_time()
    while time.process_time() - start < _SECONDS:
        await stage.process(SPANS.name, stored)
        await stage.tick(clock.now_ns() + 20 * NS_PER_S)
        count += 50 * 200
    return {"spans_per_cpu_s": round(count / (time.process_time() - start))}


async def run(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {
        f"windows: {series} series x {each} samples/s, features every second": windows(series, each)
        for series, each in ((10_000, 1), (10_000, 10), (100_000, 1), (1_000, 100))
    }
    for value_bytes, tasks, batch in ((100_000, 16, 1), (200, 64, 1), (200, 8, 500)):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            results[
                f"log append, fsync before ack: {tasks} tasks x {batch} records of {value_bytes} bytes"
            ] = await log_append(Path(name), value_bytes, tasks, batch)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        results["log read from disk, records of 200 bytes"] = await log_read(Path(name), 200_000)
    results["spans to service and call metrics"] = await span_metrics()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        results["sample appended to features published, 1000 series"] = await sample_to_features(Path(name), 1000)
    return results


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir())
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    json.dump({**machine, "results": asyncio.run(run(folder))}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
