"""Stages on the engine on Kafka: several inputs, bad records, a broker that goes away, everybody's streams, memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from tests.real.counting import (
    KEYS,
    PARTITIONS,
    POISON,
    Counting,
    Load,
    Oracle,
    Plan,
    engine_of,
    open_log,
    running,
    until,
    warm,
)
from tests.servers.kafka import Kafka, kafka

from headspring.proto import codec
from headspring.proto.action import DeadLetter
from headspring.proto.clock import SystemClock
from headspring.proto.errors import ConfigError, Unavailable
from headspring.proto.topics import partition_of
from headspring.streaming.engine.health import StageState
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.testing import take, values

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
    for topic in ("t.in", "t.more", "t.out"):
        await opened.end_offsets(topic)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def oracle(log: KafkaLog) -> AsyncIterator[Oracle]:
    started = Oracle(log)
    started.start()
    yield started
    await started.stop()


def engine_for(log: KafkaLog, plan: Plan, *, buffer_bytes: int = 32 * 1024 * 1024) -> KafkaEngine:
    return KafkaEngine(
        log, clock=SystemClock(), back_off_s=0.05, session_s=plan.session_s, heartbeat_s=plan.heartbeat_s,
        buffer_bytes=buffer_bytes,
    )  # fmt: skip


class Joining(Counting):
    """Counts two topics; every output says how many of its key it has seen of each."""

    name = "t.joining"
    inputs = ("t.in", "t.more")

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        out = []
        for item in records:
            key = item.record.key.decode()
            self.counts[f"{topic}/{key}"] = self.counts.get(f"{topic}/{key}", 0) + 1
            seen = ":".join(str(self.counts.get(f"{one}/{key}", 0)) for one in self.inputs)
            out.append(Outgoing(topic="t.out", key=item.record.key, value=seen.encode(), time_ns=1))
        return out


async def test_a_stage_sees_one_number_of_all_its_inputs_whoever_has_it(log: KafkaLog, plan: Plan) -> None:
    load = Load(log)
    engines = [engine_for(log, plan) for _ in range(3)]
    async with AsyncExitStack() as started:
        for engine in engines:
            engine.add(Joining)
            await started.enter_async_context(running(engine))
            await load.send(10)
            for number in range(7):
                await log.append("t.more", [Record(key=key.encode(), value=b"%d" % number, time_ns=1) for key in KEYS])
        await until(lambda: [len(engine.partitions()["t.joining"]) for engine in engines] == [2, 2, 2], "shares")
        for engine in engines:
            assert await engine.drain(30)
    newest: dict[str, tuple[int, ...]] = {}
    count = sum((await log.end_offsets("t.out")).values())
    for item in await take(await log.consumer("t.out", "t.check"), count):
        key, pair = item.record.key.decode(), tuple(map(int, item.record.value.split(b":")))
        newest[key] = max(newest.get(key, pair), pair)
    assert newest == dict.fromkeys(KEYS, (30, 21)), "one object saw both topics of a key"


async def test_a_record_the_stage_cannot_take_is_set_aside_and_those_around_it_are_not(
    log: KafkaLog, plan: Plan, oracle: Oracle
) -> None:
    load = Load(log)
    await load.send(3)
    await log.append("t.in", [Record(key=KEYS[0].encode(), value=POISON, time_ns=1)])
    await load.send(3)
    engine = engine_of(log, plan)
    async with running(engine):
        await oracle.complete(load.sent)
        assert await engine.drain(30)
    assert engine.health()[Counting.name].dead_letters == 1
    (stored,) = await take(await log.consumer("dead-letter", "t.check"), 1)
    letter = codec.decode(DeadLetter, stored.record.value)
    assert (letter.payload, letter.source_topic, letter.stage) == (POISON, "t.in", Counting.name)
    assert letter.headers["partition"] == str(partition_of("t.in", KEYS[0].encode(), PARTITIONS))


async def test_a_broker_that_is_killed_and_comes_back_is_waited_for(
    broker: Kafka, log: KafkaLog, plan: Plan, oracle: Oracle
) -> None:
    load = Load(log)
    engine = engine_of(log, plan)
    async with running(engine):
        await load.send(10)
        await oracle.complete(load.sent)
        await asyncio.to_thread(broker.kill9, 1)
        try:
            await until(lambda: engine.health()[Counting.name].state is StageState.BACKING_OFF, "health tells")
            assert "Kafka" in engine.health()[Counting.name].last_error
        finally:
            await asyncio.to_thread(broker.start, 1)
        await load.send(10)
        await oracle.complete(load.sent)
        await until(lambda: engine.health()[Counting.name].state is StageState.RUNNING, "health tells that it is over")
        assert await engine.drain(30)


class Hearing:
    """Remembers values; fails when told to."""

    name = "t.hearing"
    inputs = ("t.in",)
    tick_s = 0.0

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failures = 0

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("a page went away")
        self.heard += values(records)
        return []

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return []

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None: ...


async def test_every_process_hears_everything_from_its_start_or_from_a_given_time(log: KafkaLog, plan: Plan) -> None:
    def texts(first: int, count: int) -> list[Record]:
        return [
            Record(key=key.encode(), value=b"%d" % number, time_ns=(1_000 + number) * 1_000_000_000)
            for number, key in zip(range(first, first + count), KEYS, strict=False)
        ]

    await log.append("t.in", texts(0, 10))
    stages = [Hearing(), Hearing(), Hearing()]
    engines = [engine_for(log, plan) for _ in stages]
    async with AsyncExitStack() as started:
        for engine, stage, since_ns in zip(engines, stages, (None, 0, 1_004 * 1_000_000_000), strict=True):
            engine.add(lambda stage=stage: stage, shared=False, since_ns=since_ns)  # type: ignore[misc] # bound in the loop
            await started.enter_async_context(running(engine))
            assert await engine.drain(30)
        stages[0].failures = 2
        await log.append("t.in", texts(10, 10))
        for engine in engines:
            assert await engine.drain(30)
        health = engines[0].health()["t.hearing"]
        assert (health.state, health.lag, health.restarts) == (StageState.RUNNING, 0, 2)
    assert [sorted(map(int, stage.heard)) for stage in stages] == [
        list(range(10, 20)), list(range(20)), list(range(4, 20)),
    ]  # fmt: skip


async def test_a_partition_that_is_held_up_fills_no_memory_and_holds_up_no_other(log: KafkaLog, plan: Plan) -> None:
    held, free = KEYS[0].encode(), next(
        key.encode() for key in KEYS
        if partition_of("t.in", key.encode(), PARTITIONS) != partition_of("t.in", KEYS[0].encode(), PARTITIONS)
    )  # fmt: skip
    go_on = asyncio.Event()
    heard: set[tuple[bytes, int]] = set()

    def count_of(key: bytes) -> int:
        return sum(one == key for one, _ in heard)

    class Holding(Hearing):
        async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
            for item in records:
                if item.record.key == held:
                    await go_on.wait()
                heard.add((item.record.key, item.offset))
            return []

    engine = engine_for(log, plan, buffer_bytes=2 * 1024 * 1024)
    engine.add(Holding)
    block = bytes(256 * 1024)
    highest = 0
    async with running(engine):
        for _ in range(25):
            await log.append("t.in", [Record(key=held, value=block, time_ns=1) for _ in range(8)])
        for count in range(1, 26):
            await log.append("t.in", [Record(key=free, value=block, time_ns=1) for _ in range(8)])
            await until(lambda count=count: count_of(free) == 8 * count, "the other partition goes on")
            highest = max(highest, engine.metrics()["t.hearing"].buffered_bytes)
        assert count_of(held) == 0
        assert highest < 32 * 1024 * 1024, "of the 50 MiB that the held partition has"
        go_on.set()
        assert await engine.drain(30)
        assert count_of(held) == 200


async def test_wrong_use_is_told_in_one_line(log: KafkaLog) -> None:
    with pytest.raises(ConfigError, match="heartbeat_s is 2"):
        KafkaEngine(log, clock=SystemClock(), session_s=3.0, heartbeat_s=2.0)
    engine = KafkaEngine(log, clock=SystemClock())
    engine.add(Counting)
    with pytest.raises(ConfigError, match=r"two stages are named t\.counting"):
        engine.add(Counting)
