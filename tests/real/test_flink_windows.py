"""Windows on a real Flink and a real Kafka give what the kernel gives, through savepoints and killed TaskManagers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.real.flink_load import FeatureReader, create_topics, differences, oracle, publish, recording
from tests.servers.flink import Flink, flink
from tests.servers.kafka import Kafka, kafka

from headspring.proto.clock import NS_PER_S, ManualClock, SystemClock
from headspring.proto.errors import ConfigError, Conflict, NotFound, Unavailable
from headspring.proto.telemetry import MetricBatch
from headspring.proto.topics import METRICS
from headspring.streaming.engine.flink.rest import FlinkRest
from headspring.streaming.engine.flink.sql import AT_LEAST_ONCE, EVENT, RECEIVED, WindowJob
from headspring.streaming.engine.flink.submit import Environment, submit, upgrade
from headspring.streaming.engine.flink.watch import WindowWatch
from headspring.streaming.log.kafka.connection import KafkaConnection

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]
PARTITIONS = 4
AFTER_NS = 1000 * 10**9
"""Later than everything in a recording."""


@dataclass(frozen=True, slots=True)
class Stack:
    kafka: Kafka
    flink: Flink
    rest: FlinkRest

    @property
    def environment(self) -> Environment:
        return Environment(self.flink.environment)

    def job(self, name: str) -> WindowJob:
        """A job with topics of its own. It waits for every partition, so looks do not depend on the machine's speed."""
        return WindowJob(
            kafka=KafkaConnection(self.kafka.servers), name=name, prefix=f"{name}.", idle_s=0, parallelism=2
        )

    @contextmanager
    def running(self, job: WindowJob, *, restore: str = "") -> Iterator[str]:
        """The id of the job, which runs until the end of the block."""
        job_id = submit(job, self.rest, self.environment, restore=restore)
        try:
            self.rest.await_running(job_id, timeout_s=120.0)
            yield job_id
        finally:
            self.end(job)

    def end(self, job: WindowJob) -> None:
        """Cancels what runs under the job's name."""
        try:
            job_id = self.rest.find(job.group)
        except NotFound:
            return
        self.rest.cancel(job_id)
        self.rest.await_end(job_id)

    def reader(self, job: WindowJob, partitions: int = PARTITIONS) -> closing[FeatureReader]:
        return closing(FeatureReader(self.kafka.servers, job.prefix, partitions))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("flink")
    with (
        kafka(folder / "kafka") as log,
        flink(folder / "flink", taskmanagers=2, slots=1) as cluster,
        FlinkRest(cluster.rest) as rest,
    ):
        yield Stack(log, cluster, rest)


def with_end(batches: Sequence[MetricBatch]) -> list[MetricBatch]:
    """The recording and one more batch for every partition, far ahead: time goes on past everything that counts."""
    last = max(batch.received_ns for batch in batches) + 60_000_000_000
    ends = []
    for shard in range(PARTITIONS):
        like = batches[0]
        ends.append(
            MetricBatch(
                tenant="end",
                shard=shard,
                received_ns=last,
                series_id=like.series_id[:1] * 0 + shard + 1,
                time_ns=like.time_ns[:1] * 0 + last,
                value=like.value[:1] * 0,
                kind=like.kind[:1] * 0 + 1,
            )
        )
    return [*batches, *ends]


@pytest.mark.parametrize("clock", [RECEIVED, EVENT])
def test_features_are_the_kernels(stack: Stack, clock: str) -> None:
    """Every look at every series, and what was left out: late, told twice, unreadable."""
    job = replace(stack.job(f"equal-{clock}"), clock=clock, watermark_s=0.5 if clock == RECEIVED else 4.0)
    batches = recording(1000, late=clock == RECEIVED)
    wanted = oracle(batches, job)
    assert (wanted.late > 100) is (clock == RECEIVED)
    assert wanted.repeated > 100
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    producer = Producer({"bootstrap.servers": stack.kafka.servers})
    for rubbish in (b"\xff\xff", b"", b"\x22\x08" + bytes(8)):
        producer.produce(job.prefix + METRICS.name, rubbish, b"default\x1f0", partition=0)
    producer.flush(30.0)
    publish(stack.kafka.servers, job.prefix, with_end(batches), PARTITIONS)
    with stack.running(job) as job_id, stack.reader(job) as reader:
        assert reader.read_until(lambda found: len(found.rows) >= len(wanted.rows), timeout_s=120), (
            f"{len(reader.found.rows)} of {len(wanted.rows)}; {stack.rest.counters(job_id)}"
        )
        reader.read_until(lambda found: False, timeout_s=5)  # what may come too much
        assert differences(reader.found.rows, wanted.rows) == []
        assert reader.found.repeated == reader.found.misplaced == 0
        counters = stack.rest.counters(job_id)
        assert counters["late"] == wanted.late
        assert counters["repeated"] == wanted.repeated
        assert counters["bad_records"] == 2  # no bytes at all are a batch without samples
        assert counters["samples"] == sum(map(len, batches)) + PARTITIONS
        assert counters["behind_watermark"] == 0
        assert stack.rest.job(job_id).state == "RUNNING"


def test_silent_partitions_hold_nobody_up(stack: Stack) -> None:
    """Two shards on eight partitions: features keep coming, and within the time that silence is waited for."""
    job = replace(stack.job("silent"), idle_s=2.0, guarantee=AT_LEAST_ONCE)
    create_topics(stack.kafka.servers, job.prefix, 8)
    batches = recording(30, tenants=("default",), shards=2)
    wanted = oracle(batches, job)
    with stack.running(job) as job_id, stack.reader(job, 8) as reader:
        publish(stack.kafka.servers, job.prefix, batches, 8, speed=2.0)
        began_s = time.monotonic()
        series = {place[:3] for place in wanted.rows}
        newest = {
            one: max(row[1] for place, row in wanted.rows.items() if place[:3] == one) for one in series
        }  # the last thing that is known of each series must come out, although nothing follows it

        def all_told() -> bool:
            told = {place[:3]: 0.0 for place in reader.found.rows}
            for place, row in reader.found.rows.items():
                told[place[:3]] = max(told[place[:3]], row[1])
            return told == newest

        assert reader.read_until(lambda found: all_told(), timeout_s=30)
        assert time.monotonic() - began_s < 10.0
        assert stack.rest.counters(job_id)["unprompted"] > 0


def test_an_upgrade_goes_on_where_the_job_stopped(stack: Stack) -> None:
    """Stopped with a savepoint in the middle, started again with less parallelism: not a row more or less."""
    job = stack.job("upgrade")
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    batches = recording(500)
    wanted = oracle(batches, job)
    middle = len(batches) // 2
    publish(stack.kafka.servers, job.prefix, batches[:middle], PARTITIONS)
    with stack.running(job) as first, stack.reader(job) as reader:
        assert reader.read_until(lambda found: len(found.rows) > len(wanted.rows) // 3, timeout_s=90)
        place = stack.rest.savepoint(first)
        assert (Path(place.removeprefix("file:")) / "_metadata").is_file()
        second, savepoint = upgrade(replace(job, parallelism=1, checkpoint_s=1.0), stack.rest, stack.environment)
        stack.rest.await_running(second, timeout_s=120.0)
        assert stack.rest.job(first).state == "FINISHED"
        assert stack.rest.checkpoints(second).restored == savepoint
        publish(stack.kafka.servers, job.prefix, with_end(batches[middle:]), PARTITIONS)
        assert reader.read_until(lambda found: len(found.rows) >= len(wanted.rows), timeout_s=90)
        reader.read_until(lambda found: False, timeout_s=4)
        assert differences(reader.found.rows, wanted.rows) == []
        assert reader.found.repeated == 0
        # Panes of another length and number: the state that was kept is taken for what it is, and features come again.
        third, _ = upgrade(replace(job, window_s=60.0, pane_s=5.0), stack.rest, stack.environment)
        stack.rest.await_running(third, timeout_s=120.0)
        later = [replace(batch, received_ns=batch.received_ns + AFTER_NS, time_ns=batch.time_ns + AFTER_NS)
                 for batch in batches[:200]]  # fmt: skip
        publish(stack.kafka.servers, job.prefix, with_end(later), PARTITIONS)
        assert reader.read_until(
            lambda found: any(place[3] > later[0].received_ns for place in found.rows), timeout_s=90
        )


def test_a_killed_taskmanager_loses_and_repeats_nothing(stack: Stack) -> None:
    job = replace(stack.job("killed"), parallelism=1, checkpoint_s=1.0)
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    batches = recording(1200)
    wanted = oracle(batches, job)
    writer = threading.Thread(
        target=publish, args=(stack.kafka.servers, job.prefix, with_end(batches), PARTITIONS), kwargs={"speed": 12.0}
    )
    with stack.running(job) as job_id, stack.reader(job) as reader:
        writer.start()
        for number in (1, 2, 1):
            have = len(reader.found.rows)
            assert reader.read_until(lambda found, have=have: len(found.rows) > have + 500, timeout_s=90)  # type: ignore[misc]
            stack.flink.kill9_taskmanager(number)
            stack.flink.start_taskmanager(number)
            stack.rest.await_running(job_id, timeout_s=90)
        writer.join()
        assert reader.read_until(lambda found: len(found.rows) >= len(wanted.rows), timeout_s=120)
        reader.read_until(lambda found: False, timeout_s=4)
        assert differences(reader.found.rows, wanted.rows) == []
        assert reader.found.repeated == 0


def test_whoever_watches_the_windows_is_told_when_they_do_not_go_on(stack: Stack) -> None:
    job = replace(stack.job("watched"), parallelism=1, checkpoint_s=1.0)
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    watch = WindowWatch(stack.flink.rest, job.group, clock=SystemClock())
    with pytest.raises(NotFound, match=r"no job named watched\.\S+ runs .* submit it with `headspring flink submit`"):
        watch.ping()
    with stack.running(job):
        watch.ping()
        late = WindowWatch(stack.flink.rest, job.group, clock=ManualClock(start_ns=time.time_ns() + 120 * NS_PER_S))
        with pytest.raises(Unavailable, match=r"has had no checkpoint for 1[12]\d s"):
            late.ping()
        late.close()
        for number in stack.flink.taskmanagers:
            stack.flink.kill9_taskmanager(number)
        with pytest.raises(Unavailable, match=r"job watched\.\S+ at \S+ is (RESTARTING|FAILING|RUNNING): \S"):
            _ask_until_it_fails(watch)
        for number in (1, 2):
            stack.flink.start_taskmanager(number)
        stack.rest.await_running(stack.rest.find(job.group), timeout_s=90)
        watch.ping()
    watch.close()


def _ask_until_it_fails(watch: WindowWatch, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        watch.ping()
        time.sleep(0.5)


def test_what_cannot_be_is_told_in_one_line(stack: Stack, tmp_path: Path) -> None:
    job = replace(stack.job("wrong"), parallelism=1)
    create_topics(stack.kafka.servers, job.prefix, PARTITIONS)
    with pytest.raises(ConfigError, match=r"no savepoint and has no complete checkpoint"):
        submit(job, stack.rest, stack.environment, restore=str(tmp_path))
    with pytest.raises(ConfigError, match=r"has no bin/python; see streaming/flink/README.md"):
        Environment(tmp_path)
    with FlinkRest("http://127.0.0.1:9") as nobody, pytest.raises(Unavailable, match="no JobManager of Flink answers"):
        submit(job, nobody, stack.environment)
    with pytest.raises(NotFound, match=r"no job named wrong\.wrong runs"):
        upgrade(job, stack.rest, stack.environment)
    with stack.running(job), pytest.raises(Conflict, match=r"job wrong\.wrong runs already"):
        submit(job, stack.rest, stack.environment)
    other = replace(job, name="elsewhere", prefix="elsewhere.")
    try:
        job_id = submit(other, stack.rest, stack.environment)
        deadline = time.monotonic() + 60
        while "elsewhere.telemetry.metrics" not in (told := stack.rest.failure(job_id)):
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
    finally:
        stack.end(other)
