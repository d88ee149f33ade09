"""Receivers on the real embedded log: what was answered 2xx is there after a kill -9 and a restart."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.pipeline import Intake
from headspring.ingestion.receive.http import intake_app
from headspring.ingestion.testing import KEY, NOW_NS, gauge_request
from headspring.proto import codec
from headspring.proto.clock import ManualClock
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor
from headspring.streaming.log.segments import SegmentLog

_SENDER = """
import asyncio, sys
from pathlib import Path
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.pipeline import Intake
from headspring.ingestion.testing import KEY, NOW_NS, gauge_request
from headspring.proto.clock import ManualClock
from headspring.streaming.log.segments import SegmentLog

async def main():
    clock, limits = ManualClock(start_ns=NOW_NS), Limits()
    log = await SegmentLog.open(Path(sys.argv[1]), clock=clock)
    intake = Intake(log, clock=clock, limits=limits, registry=SeriesRegistry(key=KEY, limits=limits))
    async def sender(first):
        for number in range(first, 10**9, 4):
            request = gauge_request([float(number)], name=f"m{number % 50}")
            await intake.metrics_otlp("default", request.SerializeToString(), "application/x-protobuf")
            print(number, flush=True)
    await asyncio.gather(*(sender(first) for first in range(4)))

asyncio.run(main())
"""


async def stored(log: SegmentLog) -> list[MetricBatch]:
    consumer = await log.consumer("telemetry.metrics", "test")
    batches: list[MetricBatch] = []
    while records := await consumer.poll(max_wait_s=0.05):
        batches += [codec.decode(MetricBatch, one.record.value) for one in records]
    await consumer.close()
    return batches


async def test_everything_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 — nothing else runs in this loop
        [sys.executable, "-c", _SENDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines() if line]
    process.wait()
    clock = ManualClock(start_ns=NOW_NS)
    log = await SegmentLog.open(tmp_path, clock=clock)
    batches = await stored(log)
    values = {value for batch in batches for value in batch.value.tolist()}
    assert values >= {float(number) for number in acknowledged}
    # No sample is of a series that nobody can name.
    named = {
        codec.decode(SeriesDescriptor, one.record.value).series_id
        for one in await log.latest_by_key("telemetry.series")
    }
    assert {series_id for batch in batches for series_id in batch.series_id.tolist()} <= named
    await log.close()


async def test_a_restart_refills_the_registry_from_the_log(tmp_path: Path) -> None:
    clock, limits = ManualClock(start_ns=NOW_NS), Limits()
    body = gauge_request([1.0, 2.0]).SerializeToString()
    for start in range(2):
        log = await SegmentLog.open(tmp_path, clock=clock)
        registry = SeriesRegistry(key=KEY, limits=limits)
        known = await log.latest_by_key("telemetry.series")
        loaded = registry.load(codec.decode(SeriesDescriptor, one.record.value) for one in known)
        assert loaded == (0, 2)[start]
        app: Any = intake_app(
            Intake(log, clock=clock, limits=limits, registry=registry), authenticate=lambda headers: "default"
        )
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://headspring") as client:
            reply = await client.post("/v1/metrics", content=body, headers={"content-type": "application/x-protobuf"})
        assert reply.status_code == 200
        assert (await log.end_offsets("telemetry.series"))[0] == 2, "known series are not published again"
        await log.close()
