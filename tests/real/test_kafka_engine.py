"""The engine on a real Kafka: processes share a stage's work, and whatever happens to them nothing is lost."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.real.counting import (
    KEYS,
    PARTITIONS,
    Counting,
    Load,
    Oracle,
    Plan,
    engine_of,
    open_log,
    running,
    until,
    warm,
    workers,
)
from tests.servers.kafka import Kafka, kafka

from headspring.proto.clock import SystemClock
from headspring.streaming.engine.health import StageState
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record, StoredRecord

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka"), heap="384m") as started:
        warm(started)
        yield started


@pytest.fixture
def plan(broker: Kafka) -> Plan:
    return Plan(servers=broker.servers, prefix=f"t{secrets.token_hex(4)}.")


@pytest_asyncio.fixture
async def log(plan: Plan) -> AsyncIterator[KafkaLog]:
    opened = await open_log(plan.servers, plan.prefix)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def load(log: KafkaLog) -> AsyncIterator[Load]:
    await log.end_offsets("t.in")
    await log.end_offsets("t.out")
    made = Load(log)
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def oracle(log: KafkaLog, load: Load) -> AsyncIterator[Oracle]:
    started = Oracle(log)
    started.start()
    yield started
    await started.stop()


async def test_one_process_takes_everything_and_goes_on_where_it_was(
    log: KafkaLog, plan: Plan, load: Load, oracle: Oracle
) -> None:
    engine = engine_of(log, plan)
    async with running(engine):
        assert engine.health()[Counting.name].state is StageState.STARTING
        await load.send(20)
        assert await engine.drain(30)
        await oracle.complete(load.sent)
        health = engine.health()[Counting.name]
        assert (health.state, health.lag, health.records_in) == (StageState.RUNNING, 0, 20 * len(KEYS))
        assert list(engine.partitions()[Counting.name]) == list(range(PARTITIONS))
    assert engine.health()[Counting.name].state is StageState.STOPPED
    await load.send(5)
    again = engine_of(log, plan)
    async with running(again):
        await oracle.complete(load.sent)
        assert again.health()[Counting.name].records_in == 5 * len(KEYS), "what was committed is not read again"
    assert oracle.repeated == 0


async def test_a_partition_in_which_nothing_ever_came_has_no_stage_object_until_something_does(
    log: KafkaLog, plan: Plan, oracle: Oracle
) -> None:
    made = []

    def factory() -> Counting:
        made.append(Counting())
        return made[-1]

    engine = KafkaEngine(log, clock=SystemClock(), session_s=plan.session_s, heartbeat_s=plan.heartbeat_s)
    engine.add(factory)
    async with running(engine):
        assert await engine.drain(30)
        assert engine.metrics()[Counting.name].partitions == engine.metrics()[Counting.name].asleep == PARTITIONS
        assert len(made) == 1, "only the one that was asked for its name"
        await log.append("t.in", [Record(key=KEYS[0].encode(), value=b"0", time_ns=1)])
        await until(lambda: oracle.seen[KEYS[0]] == {0}, "the one record's output")
        assert engine.metrics()[Counting.name].asleep == PARTITIONS - 1
        assert len(made) == 1
        await log.append("t.in", [Record(key=key.encode(), value=b"0", time_ns=1) for key in KEYS[1:]])
        await until(lambda: all(oracle.seen.values()), "outputs of all")
        assert len(made) == PARTITIONS


async def test_two_processes_share_the_numbers_and_hand_them_over_without_repeating_anything(
    tmp_path: Path, plan: Plan, load: Load, oracle: Oracle
) -> None:
    with workers(tmp_path, plan) as made:
        first = made.start()
        load.start()
        await until(lambda: len(first.owned) == PARTITIONS, "the first process has all")
        second = made.start()
        await until(lambda: (len(first.owned), len(second.owned)) == (3, 3), "each has half")
        assert not set(first.owned) & set(second.owned)
        await until(lambda: second.status()["records_in"] > 100, "the second one works")
        first.end()
        await until(lambda: len(second.owned) == PARTITIONS, "the second process has all")
        await load.stop()
        await oracle.complete(load.sent)
        second.end()
    assert oracle.repeated == 0, "who leaves in order commits what it did"


@pytest.mark.parametrize("snapshot_every_s", [0.0, 1.0])
async def test_kill_9_of_one_process_after_another_loses_nothing(
    tmp_path: Path, plan: Plan, load: Load, oracle: Oracle, snapshot_every_s: float
) -> None:
    plan = Plan(servers=plan.servers, prefix=plan.prefix, snapshot_every_s=snapshot_every_s, session_s=2.0)
    with workers(tmp_path, plan) as made:
        running = [made.start(), made.start()]
        load.start()
        await until(lambda: all(worker.owned for worker in running), "both work")
        for kill in range(4):
            await asyncio.sleep(0.5)
            victim = running.pop(kill % 2)
            victim.kill()
            running.append(made.start())
            await until(lambda: all(worker.owned for worker in running), "both work again")
        await load.stop()
        await oracle.complete(load.sent)
        assert sum(len(worker.owned) for worker in running) == PARTITIONS


async def test_processes_that_come_and_go_all_the_time_do_not_stop_the_others(
    log: KafkaLog, plan: Plan, load: Load, oracle: Oracle
) -> None:
    staying = engine_of(log, plan)
    async with running(staying), AsyncExitStack() as passing:
        load.start()
        await until(lambda: any(oracle.seen.values()), "work has begun")
        oracle.watch()
        guests: list[KafkaEngine] = []
        for _ in range(8):
            guests.append(engine_of(log, plan))
            await passing.enter_async_context(running(guests[-1]))
            if len(guests) > 2:
                await guests.pop(0).stop(drain_s=0.0)
            await asyncio.sleep(0.3)
        await passing.aclose()
        await load.stop()
        await oracle.complete(load.sent)
        assert oracle.longest_stall_s < 10.0
        assert staying.metrics()[Counting.name].rebalances >= 5


async def test_a_process_that_was_asleep_for_too_long_cannot_commit_and_starts_over(
    tmp_path: Path, plan: Plan, load: Load, oracle: Oracle
) -> None:
    plan = Plan(servers=plan.servers, prefix=plan.prefix, session_s=2.0, work_s=0.02)
    with workers(tmp_path, plan) as made:
        sleeper, other = made.start(), made.start()
        load.start()
        await until(lambda: bool(sleeper.owned and other.owned), "both work")
        for naps in (1, 2):
            sleeper.signal(signal.SIGSTOP)
            await until(lambda: len(other.owned) == PARTITIONS, "the other one has all")
            await asyncio.sleep(0.5)
            sleeper.signal(signal.SIGCONT)
            await until(
                lambda naps=naps: sleeper.status()["leases_lost"] == 3 * naps, "it learns that it lost its numbers"
            )
            await until(lambda: len(sleeper.owned) == 3, "it has a share again")
        await load.stop()
        await oracle.complete(load.sent)
        sleeper.end()
        other.end()


async def test_a_call_that_takes_longer_than_the_session_costs_nobody_a_place(
    log: KafkaLog, plan: Plan, oracle: Oracle
) -> None:
    brief = Plan(servers=plan.servers, prefix=plan.prefix, session_s=3.0)

    class Slow(Counting):
        async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
            time.sleep(brief.session_s + 1.0)  # noqa: ASYNC251 — it blocks the event loop on purpose
            return await super().process(topic, records)

    engine = KafkaEngine(log, clock=SystemClock(), session_s=brief.session_s, heartbeat_s=plan.heartbeat_s)
    engine.add(Slow)
    async with running(engine):
        await log.append("t.in", [Record(key=KEYS[0].encode(), value=b"0", time_ns=1)])
        await until(lambda: oracle.seen[KEYS[0]] == {0}, "the slow call's output")
        assert await engine.drain(30)
        metrics = engine.metrics()[Counting.name]
        assert (metrics.leases_lost, metrics.rebalances, oracle.repeated) == (0, 1, 0)
