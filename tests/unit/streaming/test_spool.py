"""The log in front of a log: nothing acknowledged is lost or out of order over outages, and the disk is bounded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from headspring.proto.clock import SystemClock
from headspring.proto.errors import Rejected, Unavailable
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.log.spool import SpoolingLog

TOPIC = "telemetry.metrics"


class FlakyLog(SegmentLog):
    """A real log that can be told to be away; half of what it refuses it has written all the same."""

    away = False
    appended = 0

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if self.away:
            self.appended += 1
            if self.appended % 2:
                await super().append(topic, records)
            await asyncio.sleep(0.002 * (self.appended % 3))
            raise Unavailable("the log was told to be away")
        if any(record.value == b"never" for record in records):
            raise Rejected("a record that no log takes")
        await super().append(topic, records)


def record(key: str, number: int, value: bytes = b"") -> Record:
    return Record(key=key.encode(), value=value or str(number).encode(), time_ns=number)


async def held(log: FlakyLog, topic: str = TOPIC) -> dict[bytes, list[int]]:
    """Values by key, each only where it came first."""
    consumer = await log.consumer(topic, "look")
    found: dict[bytes, list[int]] = {}
    while consumer.lag():
        for stored in await consumer.poll(max_wait_s=0.0):
            values = found.setdefault(stored.record.key, [])
            number = int(stored.record.value)
            if number not in values:
                values.append(number)
    return found


async def until_straight(log: SpoolingLog) -> None:
    await asyncio.wait_for(log.drained(), 20)


async def open_pair(folder: Path, *, max_bytes: int = 1 << 30) -> tuple[FlakyLog, SpoolingLog]:
    upstream = await FlakyLog.open(folder / "upstream", clock=SystemClock())
    assert isinstance(upstream, FlakyLog)
    return upstream, await SpoolingLog.open(upstream, folder / "spool", clock=SystemClock(), max_bytes=max_bytes)


async def test_outages_lose_nothing_and_keep_the_order_of_every_key(tmp_path: Path) -> None:
    upstream, log = await open_pair(tmp_path)
    chance = random.Random(7)

    async def send(key: str) -> None:
        for number in range(60):
            await log.append(TOPIC, [record(key, number)])
            await asyncio.sleep(chance.random() * 0.01)

    async def flap() -> None:
        for _ in range(8):
            await asyncio.sleep(0.06)
            upstream.away = not upstream.away

    await asyncio.gather(*(send(f"k{n}") for n in range(8)), flap())
    upstream.away = False
    await until_straight(log)
    assert await held(upstream) == {f"k{n}".encode(): list(range(60)) for n in range(8)}
    assert log.stats().spooled_records > 0
    assert not list((tmp_path / "spool").iterdir())
    await log.close()


async def test_what_waits_at_a_crash_is_handed_on_at_the_next_start_before_anything_else(tmp_path: Path) -> None:
    upstream, log = await open_pair(tmp_path)
    upstream.away = True
    for number in range(5):
        await log.append(TOPIC, [record("a", number)])
    await log.close()
    upstream, log = await open_pair(tmp_path)
    for number in range(5, 9):
        await log.append(TOPIC, [record("a", number)])
    await until_straight(log)
    assert await held(upstream) == {b"a": list(range(9))}
    await log.close()


async def test_a_full_spool_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    upstream, log = await open_pair(tmp_path, max_bytes=10_000)
    upstream.away = True
    for number in range(10):
        await log.append(TOPIC, [record("a", number, value=bytes(1000))])
    with pytest.raises(Unavailable, match=r"spool .* is full .*raise spool_bytes"):
        await log.append(TOPIC, [record("a", 10, value=bytes(1000))])
    upstream.away = False
    await until_straight(log)
    await log.append(TOPIC, [record("a", 99)])
    await log.close()


async def test_a_record_that_upstream_never_takes_does_not_stop_the_spool(tmp_path: Path) -> None:
    upstream, log = await open_pair(tmp_path)
    upstream.away = True
    await log.append(TOPIC, [record("a", 1)])
    upstream.appended = 1  # the next refusal writes nothing
    await log.append(TOPIC, [record("a", 2, value=b"never"), record("a", 3)])
    upstream.away = False
    await until_straight(log)
    assert await held(upstream) == {b"a": [1, 3]}
    assert log.stats().rejected_records == 1
    await log.close()


async def test_without_a_spool_the_refusal_reaches_the_sender(tmp_path: Path) -> None:
    upstream, log = await open_pair(tmp_path, max_bytes=0)
    upstream.away = True
    with pytest.raises(Unavailable, match="told to be away"):
        await log.append(TOPIC, [record("a", 1)])
    await log.close()
