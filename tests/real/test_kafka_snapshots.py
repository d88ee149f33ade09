"""Snapshots on Kafka: only what a commit refers to counts, and nothing can take that away."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from tests.servers.kafka import Kafka, kafka

from headspring.proto.clock import SystemClock
from headspring.proto.errors import ContractError, NotFound
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.fetch import fetch
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.kafka.snapshots import TOPIC, Pointer
from headspring.streaming.testing import record

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

GROUP = "stage"
STATE_BYTES = 1_500_000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka"), settings={"log.cleaner.backoff.ms": "300"}) as started:
        yield started


@pytest.fixture
def prefix() -> str:
    """Before the names of topics and groups: no other test uses them."""
    return f"test-{secrets.token_hex(4)}."


async def open_log(broker: Kafka, prefix: str, **options: Any) -> KafkaLog:
    return await KafkaLog.open(
        KafkaConnection(broker.servers), clock=SystemClock(), prefix=prefix, partitions=1, replication=1, reads=(),
        writes=(), **options,
    )  # fmt: skip


def compact_at_once(broker: Kafka, prefix: str) -> None:
    """Small segments, no waiting: what compaction may remove is gone within seconds."""
    admin = AdminClient({"bootstrap.servers": broker.servers})
    eager = {"min.compaction.lag.ms": "0", "segment.bytes": str(4 * STATE_BYTES), "min.cleanable.dirty.ratio": "0.01"}
    change = ConfigResource(
        ResourceType.TOPIC, prefix + TOPIC,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in eager.items()
        ],
    )  # fmt: skip
    admin.incremental_alter_configs([change])[change].result(10)


def state(number: int) -> bytes:
    return b"%d " % number + secrets.token_bytes(STATE_BYTES)


async def records(log: KafkaLog) -> list[tuple[bytes, bytes | None]]:
    """Keys and values that are left of the snapshots' topic."""
    topic = log.kafka_name(TOPIC)
    ranges = {0: (0, (await log.cluster.ends(topic, [0]))[0])}
    messages = await asyncio.to_thread(lambda: list(fetch(log.connection, topic, ranges, group=log.kafka_name("test"))))
    return [(message.key() or b"", message.value()) for message in messages]


async def compacted(log: KafkaLog, *, fewer_than: int) -> None:
    for _ in range(60):
        left = await records(log)
        if len(left) < fewer_than:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"{len(left)} records are left; wanted fewer than {fewer_than}")


async def test_a_snapshot_without_its_commit_does_not_count(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    await log.append("in", [record("a"), record("b")])
    await log.commit_with_state(GROUP, {"in": {0: 1}}, b"first")
    # As a process that is killed between the two steps:
    await log.snapshots.write(prefix + GROUP, 0, 10**19, b"second", after=None)
    await log.close()
    log = await open_log(broker, prefix)
    assert await log.load_state(GROUP) == b"first"
    assert (await log.consumer("in", GROUP)).positions() == {0: 1}
    await log.close()


async def test_writers_that_were_fenced_off_cannot_touch_what_the_commit_refers_to(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    compact_at_once(broker, prefix)
    store = log.snapshots
    committed = await store.write(GROUP, 3, 7, first := state(0), after=None)
    # The new owner has read this pointer; the old one goes on, and each of its commits is refused.
    for number in range(1, 8):
        await store.write(GROUP, 3, 7, state(number), after=committed)
    assert await store.read(committed) == first
    new = await store.write(GROUP, 3, 8, second := state(100), after=committed)
    await store.retire(committed, by=new)
    zombie = committed
    for number in range(200, 208):
        zombie = await store.write(GROUP, 3, 7, state(number), after=zombie)
    await compacted(log, fewer_than=8)
    assert await store.read(new) == second
    with pytest.raises(NotFound, match=r"stage/3 .* has 0 of 1 parts left"):
        await store.read(committed)
    await log.close()


async def test_superseded_snapshots_are_compacted_away_and_the_two_newest_stay(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    compact_at_once(broker, prefix)
    store = log.snapshots
    pointer: Pointer | None = None
    before: Pointer | None = None
    for number in range(12):
        large = state(number) * (3 if number == 8 else 1)
        new = await store.write(GROUP, 0, 5, large, after=pointer)
        await store.retire(pointer, by=new)
        before, pointer = pointer, new
    assert pointer is not None
    assert before is not None
    assert pointer.slot != before.slot
    await compacted(log, fewer_than=8)
    assert (await store.read(pointer)).startswith(b"11 ")
    assert (await store.read(before)).startswith(b"10 ")
    await log.close()


async def test_a_sweep_removes_what_crashes_left_and_nothing_else(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    store = log.snapshots
    other = await store.write("other", 0, 1, b"other", after=None)
    lost = [await store.write(GROUP, 0, generation, b"lost", after=None) for generation in (1, 2)]
    assert await store.sweep() == 0, "which of them a commit refers to cannot be known"
    first = await store.write(GROUP, 0, 3, b"first", after=None)
    assert await store.sweep() == 0
    second = await store.write(GROUP, 0, 3, b"second", after=first)
    assert await store.sweep() == 2
    assert await store.sweep() == 0
    for pointer, text in ((first, b"first"), (second, b"second"), (other, b"other")):
        assert await store.read(pointer) == text
    await store.discard(second)
    left = dict(await records(log))
    assert {key for key, value in left.items() if value} == {*first.chunk_keys(), *other.chunk_keys()}
    assert all(left[key] is None for pointer in lost for key in pointer.chunk_keys())
    await log.close()


async def test_a_damaged_snapshot_and_a_strange_pointer_are_told(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    pointer = await log.snapshots.write(GROUP, 0, 1, b"state", after=None)
    with pytest.raises(ContractError, match="its commit says 5 of 00"):
        await log.snapshots.read(dataclasses.replace(pointer, sha256="00"))
    assert Pointer.from_metadata(pointer.to_metadata()) == pointer
    assert Pointer.from_metadata("somebody else's") is None
    with pytest.raises(ContractError, match="no pointer to a snapshot"):
        Pointer.from_metadata(pointer.to_metadata()[:-1])
    await log.close()


async def test_positions_that_do_not_move_are_committed_again_as_they_are(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    await log.append("in", [record("a"), record("b")])
    consumer = await log.consumer("in", GROUP)
    await log.consumer("other", GROUP)
    await log.commit_with_state(GROUP, {"in": {0: 1}}, b"state")
    await log._groups.keep_alive()  # in six hours by itself
    await log.close()
    log = await open_log(broker, prefix)
    assert await log.load_state(GROUP) == b"state"
    assert (await log.consumer("in", GROUP)).positions() == {0: 1}
    assert consumer.positions() == {0: 0}
    await log.close()
