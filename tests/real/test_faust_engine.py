"""Stages on Faust: state and positions agree, processes share the work, nothing is lost over kills and rebalances."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.faults.faust_kills import kill_over_and_over
from tests.servers.faust_process import INPUTS, OUTPUT, Sums, Worker, everything, number, oracle, outputs
from tests.servers.kafka import Kafka, kafka

from headspring.proto import codec
from headspring.proto.action import DeadLetter
from headspring.proto.clock import SystemClock
from headspring.proto.errors import ConfigError, Unavailable
from headspring.proto.topics import ALERTS, CHANGES, DEAD_LETTER, partition_of
from headspring.streaming.engine.faust import FaustEngine, Timing
from headspring.streaming.engine.faust.inbox import HIGH_RECORDS
from headspring.streaming.engine.health import StageState
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record, StoredRecord

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PARTITIONS = 4
KILLS = 10


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka")) as started:
        yield started


@pytest.fixture
async def log(broker: Kafka) -> AsyncIterator[KafkaLog]:
    """With topics of its own."""
    opened = await open_log(broker.servers, f"t{secrets.token_hex(4)}.")
    yield opened
    await opened.close()


async def open_log(servers: str, prefix: str = "") -> KafkaLog:
    names = [*INPUTS, OUTPUT, DEAD_LETTER.name]
    return await KafkaLog.open(
        KafkaConnection(servers), clock=SystemClock(), partitions=PARTITIONS, replication=1, prefix=prefix,
        reads=names, writes=names,
    )  # fmt: skip


def engine_of(log: KafkaLog, folder: Path, *stages: Callable[[], Sums], session_s: float = 6.0) -> FaustEngine:
    engine = FaustEngine(
        log, clock=SystemClock(), app_id="t.app", data=folder / secrets.token_hex(4), back_off_s=0.05,
        timing=Timing(session_s=session_s),
    )  # fmt: skip
    for stage in stages or (Sums,):
        engine.add(stage)
    return engine


async def drained(engine: FaustEngine, within_s: float = 60.0) -> None:
    assert await engine.drain(within_s), engine.health()


async def until(what: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 — states of other processes are looked at
            await asyncio.sleep(0.05)


def numbers(start: int, count: int) -> list[Record]:
    return [number(value) for value in range(start, start + count)]


async def test_a_stage_sees_all_of_its_inputs_and_goes_on_with_its_state_after_a_restart(
    log: KafkaLog, tmp_path: Path
) -> None:
    for topic in INPUTS:
        await log.append(topic, numbers(0, 200))
    engine = engine_of(log, tmp_path)
    await engine.start()
    assert engine.health()["t.sums"].state is StageState.STARTING
    await drained(engine)
    health = engine.health()["t.sums"]
    assert (health.state, health.lag, health.records_in, health.records_out) == (StageState.RUNNING, 0, 400, 400)
    await engine.stop()
    assert engine.health()["t.sums"].state is StageState.STOPPED
    await log.append(CHANGES.name, numbers(200, 100))
    again = engine_of(log, tmp_path)
    await again.start()
    await drained(again)
    assert again.health()["t.sums"].records_in == 100, "what the snapshot reflects was read again"
    assert again.health()["t.sums"].restarts == 0
    await again.stop()
    said = await outputs(log)
    assert sorted(said) == sorted(await oracle(log))


class Echo(Sums):
    """Says what it was given."""

    name = "t.echo"
    inputs = (ALERTS.name,)
    seen: list[StoredRecord]

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        self.seen.extend(records)
        return []


async def test_records_come_as_the_log_gives_them_and_offsets_are_committed_for_people_who_look(
    log: KafkaLog, tmp_path: Path
) -> None:
    sent = [
        Record(key=b"tenant\x1fe", value=bytes([n]) * n, time_ns=10**18 + n, headers={"traceparent": f"00-{n}"})
        for n in range(20)
    ]
    await log.append(ALERTS.name, sent)
    echo = Echo()
    echo.seen = []
    engine = engine_of(log, tmp_path, lambda: echo)
    await engine.start()
    await drained(engine)
    await engine.stop()
    assert [item.record for item in echo.seen] == sent
    assert {item.topic for item in echo.seen} == {ALERTS.name}
    of_the_group = await log.consumer(ALERTS.name, "t.app")
    assert (sum(of_the_group.positions().values()), of_the_group.lag()) == (20, 0)
    await of_the_group.close()


async def test_poison_is_set_aside_and_a_passing_failure_costs_nothing(log: KafkaLog, tmp_path: Path) -> None:
    failures: list[Exception] = [Unavailable("store away") for _ in range(3)]

    class Shaky(Sums):
        async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
            out = await super().process(topic, records)
            if failures:
                raise failures.pop()
            return out

    bad = Record(key=number(0, tenant=1).key, value=b"no number", time_ns=1)
    good = [number(value, tenant=1) for value in range(50)]
    await log.append(ALERTS.name, [*good[:20], bad, *good[20:]])
    engine = engine_of(log, tmp_path, Shaky)
    await engine.start()
    await drained(engine)
    health = engine.health()["t.sums"]
    assert (health.dead_letters, health.state) == (1, StageState.RUNNING)
    assert health.restarts >= 3
    await engine.stop()
    assert set(await outputs(log)) == set(await oracle(log))
    (letter,) = [codec.decode(DeadLetter, item.record.value) for item in await everything(log, DEAD_LETTER.name)]
    assert (letter.payload, letter.source_topic, letter.stage) == (b"no number", ALERTS.name, "t.sums")


async def test_a_stage_that_does_not_go_on_holds_up_neither_others_nor_the_memory(
    log: KafkaLog, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    class Stuck(Sums):
        name = "t.stuck"

        async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
            if records[0].partition == stuck:
                await gate.wait()
            self.sums[topic] = self.sums.get(topic, 0) + len(records)
            return []

    count = 6 * HIGH_RECORDS
    await log.append(ALERTS.name, [number(0, tenant=1)])
    stuck = (await everything(log, ALERTS.name))[0].partition
    for start in range(0, count, 500):
        await log.append(ALERTS.name, [number(value, tenant=1) for value in range(start, start + 500)])
    await log.append(ALERTS.name, numbers(0, 130))
    engine = engine_of(log, tmp_path, Sums, Stuck)
    await engine.start()
    sessions = engine._sessions
    assert sessions is not None

    def waiting() -> int:
        running = sessions._running.values()
        return sum(len(inbox._items) for session in running for inbox in session.inboxes.values())

    await until(lambda: waiting() >= HIGH_RECORDS)
    others = sum(partition_of(ALERTS.name, number(value).key, PARTITIONS) != stuck for value in range(130))
    await until(lambda: engine.health()["t.sums"].records_in >= others)
    await asyncio.sleep(3)
    assert waiting() <= 3 * HIGH_RECORDS, "the broker's records are piling up in memory"
    assert engine.health()["t.stuck"].lag > count - 3 * HIGH_RECORDS
    gate.set()
    await drained(engine)
    assert engine.health()["t.stuck"].records_in == count + 131
    await engine.stop()
    assert set(await outputs(log)) == set(await oracle(log))


async def test_processes_that_come_and_go_hand_partitions_over_with_their_state_and_repeat_nothing(
    log: KafkaLog, tmp_path: Path
) -> None:
    await log.append(ALERTS.name, numbers(0, 300))
    one, other = engine_of(log, tmp_path), engine_of(log, tmp_path)
    await one.start()
    await drained(one)
    assert one.partitions_owned == frozenset(range(PARTITIONS))
    await other.start()
    await until(lambda: len(one.partitions_owned) == len(other.partitions_owned) == PARTITIONS // 2)
    assert not one.partitions_owned & other.partitions_owned
    for topic in INPUTS:
        await log.append(topic, numbers(300, 300))
    await drained(one)
    await drained(other)
    assert one.health()["t.sums"].records_in > 300
    assert other.health()["t.sums"].records_in > 0
    await one.stop()
    await until(lambda: other.partitions_owned == frozenset(range(PARTITIONS)))
    await log.append(ALERTS.name, numbers(600, 300))
    await drained(other)
    await other.stop()
    assert sorted(await outputs(log)) == sorted(await oracle(log))


async def test_killed_over_and_over_two_processes_say_what_one_that_lives_says(broker: Kafka, tmp_path: Path) -> None:
    log = await open_log(broker.servers, "kills.")
    print(await kill_over_and_over(log, broker.servers, tmp_path, prefix="kills.", partitions=PARTITIONS, kills=KILLS))
    await log.close()


async def test_an_owner_that_stood_still_while_it_was_passed_over_spoils_nothing(broker: Kafka, tmp_path: Path) -> None:
    log = await open_log(broker.servers, "still.")
    workers = [
        Worker(tmp_path / name, broker.servers, prefix="still.", partitions=PARTITIONS, session_s=2.0) for name in "ab"
    ]
    every = frozenset(range(PARTITIONS))
    sent = 0

    async def send() -> None:
        nonlocal sent
        for topic in INPUTS:
            await log.append(topic, numbers(sent, 100))
        sent += 100

    try:
        workers[0].start()
        await until(lambda: workers[0].owned() == every)
        await send()
        workers[1].start()
        await until(lambda: bool(workers[1].owned()))
        for stopped, other in (workers, workers[::-1]):
            await send()
            os.kill(stopped.pid, signal.SIGSTOP)
            await until(lambda other=other: other.owned() == every)  # type: ignore[misc] # binds the loop's value
            await send()
            await asyncio.sleep(1)
            os.kill(stopped.pid, signal.SIGCONT)
            await send()
            await until(lambda other=other: other.owned() != every)  # type: ignore[misc] # as above
        wanted = await oracle(log)
        await until_said(log, set(wanted))
        assert [worker.stop() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.end()
    assert set(await outputs(log)) == set(wanted)
    await log.close()


async def until_said(log: KafkaLog, wanted: set[str], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not wanted <= set(await outputs(log)):  # noqa: ASYNC110 — other processes write it
            await asyncio.sleep(0.3)


async def test_records_that_faust_skips_are_noticed_and_taken_after_all(log: KafkaLog, tmp_path: Path) -> None:
    await log.append(ALERTS.name, numbers(0, 130))
    engine = engine_of(log, tmp_path)
    await engine.start()
    await drained(engine)
    life = engine._life
    assert life is not None
    consumer = life._app.consumer
    tps = [tp for tp in consumer.assignment() if tp.topic == log._name(ALERTS.name)]
    ends = await log.end_offsets(ALERTS.name)
    for tp in tps:
        consumer.pause_partitions({tp})
    await log.append(ALERTS.name, numbers(130, 130))
    await consumer.seek_wait({tp: ends[tp.partition] + 3 for tp in tps})
    consumer.resume_partitions(tps)
    consumer.resume_flow()
    await until(lambda: engine.health()["t.sums"].restarts == 1)
    await drained(engine)
    await engine.stop()
    assert set(await outputs(log)) == set(await oracle(log))


async def test_a_broker_that_is_away_is_waited_for(broker: Kafka, log: KafkaLog, tmp_path: Path) -> None:
    await log.append(ALERTS.name, numbers(0, 130))
    engine = engine_of(log, tmp_path)
    await engine.start()
    await drained(engine)
    await log.append(ALERTS.name, numbers(130, 130))
    broker.kill9(1)
    await asyncio.sleep(8)
    broker.start(1)
    await log.append(ALERTS.name, numbers(260, 130))
    await until(lambda: engine.health()["t.sums"].records_in >= 390)
    await until(lambda: engine.health()["t.sums"].state is StageState.RUNNING)
    await engine.stop(drain_s=0)
    fresh = await open_log(broker.servers, log._prefix)
    assert set(await outputs(fresh)) == set(await oracle(fresh))
    await fresh.close()


async def test_stages_that_cannot_be_run_are_refused(log: KafkaLog, tmp_path: Path) -> None:
    engine = engine_of(log, tmp_path)
    with pytest.raises(ConfigError, match=r"t\.sums"):
        engine.add(Sums)

    class Deaf(Sums):
        name = "t.deaf"
        inputs = ()

    with pytest.raises(ConfigError, match="no inputs"):
        engine.add(Deaf)
    await engine.start()
    with pytest.raises(ConfigError, match=r"t\.echo"):
        engine.add(Echo)
    await engine.stop(drain_s=0)
    with pytest.raises(ConfigError, match="session_s"):
        Timing(session_s=0)
