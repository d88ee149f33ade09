"""The engine on Kafka under what may happen to its processes, over and over: nothing lost, nothing counted twice."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.real.counting import (
    PARTITIONS,
    Load,
    Oracle,
    Plan,
    Worker,
    engine_of,
    open_log,
    running,
    until,
    warm,
    workers,
)
from tests.servers.kafka import Kafka, kafka

from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.log.kafka.log import KafkaLog

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

KILLS = 20
STORM = 50
NAPS = 5


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka"), heap="384m") as started:
        warm(started)
        yield started


@pytest.fixture
def plan(broker: Kafka) -> Plan:
    return Plan(servers=broker.servers, prefix=f"t{secrets.token_hex(4)}.", session_s=2.0)


@pytest_asyncio.fixture
async def log(plan: Plan) -> AsyncIterator[KafkaLog]:
    opened = await open_log(plan.servers, plan.prefix)
    for topic in ("t.in", "t.out"):
        await opened.end_offsets(topic)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def load(log: KafkaLog) -> AsyncIterator[Load]:
    made = Load(log)
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def oracle(log: KafkaLog) -> AsyncIterator[Oracle]:
    started = Oracle(log)
    started.start()
    yield started
    await started.stop()


def owned(running_workers: list[Worker]) -> int:
    return sum(len(worker.owned) for worker in running_workers)


async def test_twenty_kills_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, plan: Plan, load: Load, oracle: Oracle
) -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    print(f"seed {seed}")  # shown with a failure, to have the same moments again
    taken_over_s: list[float] = []
    with workers(tmp_path, plan) as made:
        alive = [made.start(), made.start()]
        load.start()
        await until(lambda: owned(alive) == PARTITIONS, "all partitions have an owner")
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.0, 1.0))
            victim = alive.pop(chance.randrange(2))
            victim.kill()
            killed_s = time.monotonic()
            await until(lambda: owned(alive) == PARTITIONS, "the other one has taken over")
            taken_over_s.append(time.monotonic() - killed_s)
            alive.append(made.start())
            if chance.random() < 0.7:
                await until(lambda: bool(alive[-1].owned), "the new one has a share")
        await load.stop()
        await oracle.complete(load.sent, timeout_s=120)
        for worker in alive:
            worker.end()
    sent = sum(load.sent.values())
    print(f"{KILLS} kills, {sent} records, {oracle.repeated} outputs repeated, taken over within "
          f"{sorted(taken_over_s)[KILLS // 2]:.1f} s (median), {max(taken_over_s):.1f} s (longest)")  # fmt: skip


async def test_fifty_joins_and_leaves_stall_nobody(log: KafkaLog, plan: Plan, load: Load, oracle: Oracle) -> None:
    async with running(engine_of(log, plan)), AsyncExitStack() as passing:
        load.start()
        await until(lambda: any(oracle.seen.values()), "work has begun")
        oracle.watch()
        guests: list[KafkaEngine] = []
        for _ in range(STORM):
            guests.append(engine_of(log, plan))
            await passing.enter_async_context(running(guests[-1]))
            await asyncio.sleep(0.2)
            if len(guests) > 2:
                await guests.pop(0).stop(drain_s=0.0)
        await passing.aclose()
        await load.stop()
        await oracle.complete(load.sent)
        print(f"{STORM} joins and leaves, {sum(load.sent.values())} records, {oracle.repeated} outputs repeated, "
              f"longest stall {oracle.longest_stall_s:.1f} s")  # fmt: skip
        assert oracle.longest_stall_s < 10.0


async def test_processes_that_sleep_past_their_session_again_and_again_commit_nothing_stale(
    tmp_path: Path, plan: Plan, load: Load, oracle: Oracle
) -> None:
    with workers(tmp_path, plan) as made:
        alive = [made.start(), made.start()]
        load.start()
        await until(lambda: all(worker.owned for worker in alive), "both work")
        for nap in range(NAPS):
            sleeper, other = alive[nap % 2], alive[1 - nap % 2]
            await until(lambda: [len(worker.owned) for worker in alive] == [3, 3], "each has its share")
            lost = sleeper.status()["leases_lost"]
            sleeper.signal(signal.SIGSTOP)
            await until(lambda other=other: len(other.owned) == PARTITIONS, "the other one has all")
            sleeper.signal(signal.SIGCONT)
            await until(lambda sleeper=sleeper, lost=lost: sleeper.status()["leases_lost"] > lost, "it lost its own")
            await until(lambda: all(worker.owned for worker in alive), "both work again")
        await load.stop()
        await oracle.complete(load.sent, timeout_s=120)
        for worker in alive:
            worker.end()
