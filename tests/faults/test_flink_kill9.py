"""`kill -9` of TaskManager and JobManager, over and over under load: features are the oracle's, none lost or twice."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.flink_load import FeatureReader, create_topics, differences, oracle, publish, recording
from tests.real.test_flink_windows import PARTITIONS, with_end
from tests.servers.flink import Flink, flink
from tests.servers.kafka import kafka

from headspring.proto.errors import BackendError
from headspring.streaming.engine.flink.rest import FlinkRest
from headspring.streaming.engine.flink.sql import WindowJob
from headspring.streaming.engine.flink.submit import Environment, submit
from headspring.streaming.log.kafka.connection import KafkaConnection

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(2400)]
KILLS = 20
"""Of each."""
RUNNING_WITHIN_S = 30.0
SPEED = 4.0
"""Seconds of the recording per second."""


def running_again(rest: FlinkRest, job_id: str, since_ms: float, *, timeout_s: float = 120.0) -> None:
    """Returns when every task of the job was started after that time, and runs."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            job = rest.job(job_id)
        except BackendError as error:  # no JobManager, or one that does not know its jobs yet
            state = str(error)
        else:
            if job.running and job.tasks_since_ms > since_ms:
                return
            state = job.state
        assert time.monotonic() < deadline, state
        time.sleep(0.1)


def kill(cluster: Flink, what: str, number: int) -> None:
    """Kills a process and starts it again, as whatever watches over it would."""
    if what == "TaskManager":
        cluster.kill9_taskmanager(number)
        cluster.start_taskmanager(number)
    else:
        cluster.kill9_jobmanager()
        cluster.start_jobmanager()


def test_output_is_the_oracles_through_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches = recording(4000, series=8)
    with (
        kafka(tmp_path / "kafka") as log,
        flink(tmp_path / "flink", taskmanagers=1, slots=2) as cluster,
        FlinkRest(cluster.rest) as rest,
    ):
        job = replace(WindowJob(kafka=KafkaConnection(log.servers)), idle_s=0, parallelism=2, checkpoint_s=1.0)
        create_topics(log.servers, "", PARTITIONS)
        job_id = submit(job, rest, Environment(cluster.environment))
        rest.await_running(job_id, timeout_s=120.0)
        stop = threading.Event()
        sent: list[int] = []
        writer = threading.Thread(
            target=publish,
            args=(log.servers, "", batches, PARTITIONS),
            kwargs={"speed": SPEED, "stop": stop, "sent": sent},
        )
        reader = FeatureReader(log.servers, "", PARTITIONS)
        took: dict[str, list[float]] = {"TaskManager": [], "JobManager": []}
        writer.start()
        try:
            for number in range(2 * KILLS):
                what = ("TaskManager", "JobManager")[number % 2]
                have = len(reader.found.rows)
                assert reader.read_until(lambda found, have=have: len(found.rows) > have, timeout_s=120)  # type: ignore[misc]
                killed_s, since_ms = time.monotonic(), time.time() * 1000
                kill(cluster, what, 1)
                running_again(rest, job_id, since_ms)
                took[what].append(time.monotonic() - killed_s)
        finally:
            stop.set()
            writer.join()
        read = batches[: sent[-1]]
        wanted = oracle(read, job)
        publish(log.servers, "", with_end(read)[-PARTITIONS:], PARTITIONS)
        reader.read_until(lambda found: len(found.rows) >= len(wanted.rows), timeout_s=120)
        reader.read_until(lambda found: False, timeout_s=5)
        reader.close()
        rest.cancel(job_id)
    with capsys.disabled():
        for what, seconds in took.items():
            p95 = statistics.quantiles(seconds, n=20)[-1]
            print(f"\n{what}: {len(seconds)} kills, RUNNING after {statistics.median(seconds):.1f} s, p95 {p95:.1f} s")
        print(f"{len(wanted.rows)} feature rows from {sum(map(len, read))} samples")
    assert differences(reader.found.rows, wanted.rows) == []
    assert reader.found.repeated == reader.found.misplaced == 0
    for what, seconds in took.items():
        assert statistics.quantiles(seconds, n=20)[-1] <= RUNNING_WITHIN_S, f"{what}: {seconds}"
