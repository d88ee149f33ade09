"""Records between Faust's stream and a stage."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("faust")

from headspring.streaming.engine.faust import inbox
from headspring.streaming.engine.faust.inbox import Inbox, InboxConsumer
from headspring.streaming.log.port import Record, StoredRecord


def record(offset: int) -> StoredRecord:
    return StoredRecord(topic="t", partition=0, offset=offset, record=Record(key=b"k", value=b"v", time_ns=1))


def filled(count: int, *, highwater: int) -> Inbox:
    found = Inbox("t", 0, highwater=lambda: highwater)
    for offset in range(count):
        found.put(record(offset), lambda: None)
    return found


async def hand_over(into: Inbox, first: int, end: int) -> None:
    """One by one, as Faust does."""
    for offset in range(first, end):
        await asyncio.sleep(0.001)
        into.put(record(offset), lambda: None)


async def test_a_poll_waits_for_more_that_is_known_to_be_there() -> None:
    box = filled(1, highwater=20)
    handing = asyncio.create_task(hand_over(box, 1, 20))
    assert len(await InboxConsumer(box, None).poll(max_records=500)) == 20
    await handing


async def test_a_poll_takes_no_more_than_it_was_asked_for_and_leaves_the_rest() -> None:
    box = filled(1, highwater=20)
    handing = asyncio.create_task(hand_over(box, 1, 20))
    consumer = InboxConsumer(box, None)
    assert [one.offset for one in await consumer.poll(max_records=5)] == [0, 1, 2, 3, 4]
    assert [one.offset for one in await consumer.poll(max_records=500)] == list(range(5, 20))
    await handing


async def test_what_does_not_come_is_not_waited_for_long() -> None:
    box = filled(3, highwater=20)
    began = asyncio.get_running_loop().time()
    assert len(await InboxConsumer(box, None).poll(max_records=500, max_wait_s=5.0)) == 3
    assert asyncio.get_running_loop().time() - began < inbox.GATHER_S + 1.0


async def test_a_poll_of_the_last_records_waits_for_nothing() -> None:
    box = filled(3, highwater=3)
    async with asyncio.timeout(inbox.GATHER_S / 2):
        assert len(await InboxConsumer(box, None).poll(max_records=500)) == 3


async def test_nobody_waits_for_more_than_an_inbox_holds() -> None:
    box = filled(inbox.HIGH_RECORDS, highwater=5000)
    async with asyncio.timeout(inbox.GATHER_S / 2):
        assert len(await InboxConsumer(box, None).poll(max_records=2000)) == inbox.HIGH_RECORDS
