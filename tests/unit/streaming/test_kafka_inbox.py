"""What the reading thread sorts into inboxes: order, ends, gaps, and the bound on memory. Messages are Kafka's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Consumer, KafkaError, Message

from headspring.proto.errors import ConfigError
from headspring.streaming.engine.kafka.inbox import Inbox
from headspring.streaming.engine.kafka.reader import Reader
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.port import Record, StoredRecord


def record(offset: int, *, size: int = 1) -> Message:
    return Message(topic="p.in", partition=0, offset=offset, key=b"k", value=b"v" * size)


def end(offset: int) -> Message:
    return Message(topic="p.in", partition=0, offset=offset, error=KafkaError(KafkaError._PARTITION_EOF))


def convert(topic: str, messages: Sequence[Message]) -> list[StoredRecord]:
    return [
        StoredRecord(
            topic=topic, partition=0, offset=message.offset() or 0,
            record=Record(key=b"k", value=message.value() or b"", time_ns=1),
        )
        for message in messages
    ]  # fmt: skip


class Desk:
    """A reader whose thread is the test; its client knows no broker."""

    def __init__(self, *, budget_bytes: int = 1_000_000) -> None:
        self.reader = Reader(
            self._client, convert, stage="t", topics={"in": "p.in", "other": "p.other"},
            connection=KafkaConnection("127.0.0.1:9"), budget_bytes=budget_bytes,
        )  # fmt: skip
        self.consumer = self._client()

    def open(self, topic: str = "in", position: int = 0) -> Inbox:
        inbox = self.reader.open(topic, 0, position)
        self.reader._do_work(self.consumer, 0.0)
        return inbox

    def arrive(self, *messages: Message) -> None:
        self.reader._sort(self.consumer, messages)

    @staticmethod
    def _client() -> Consumer:
        return Consumer({"bootstrap.servers": "127.0.0.1:9", "group.id": "t", "log_level": 0})


async def test_a_position_follows_the_last_record_taken_whatever_end_was_told_before_it() -> None:
    desk = Desk()
    inbox = desk.open()
    desk.arrive(record(0), end(1), record(1), record(2))
    assert [item.offset for item in await inbox.take(500, 0.0)] == [0, 1, 2]
    assert (inbox.position, inbox.lag()) == (3, 0)


async def test_offsets_that_hold_no_record_count_as_read_once_the_end_is_told() -> None:
    desk = Desk()
    inbox = desk.open()
    desk.arrive(record(0), end(1))
    desk.arrive(end(5))
    assert [item.offset for item in await inbox.take(500, 0.0)] == [0]
    assert (inbox.position, inbox.lag()) == (5, 0)


async def test_an_end_moves_no_position_past_records_that_were_not_taken() -> None:
    desk = Desk()
    inbox = desk.open()
    desk.arrive(record(0), record(1), end(7))
    await inbox.take(1, 0.0)
    assert (inbox.position, inbox.lag()) == (1, 6)


async def test_who_waits_is_woken_by_the_first_record() -> None:
    desk = Desk()
    inbox = desk.open()
    waiting = asyncio.create_task(inbox.take(500, 30.0))
    await asyncio.sleep(0)
    desk.arrive(record(0))
    assert [item.offset for item in await asyncio.wait_for(waiting, 5)] == [0]


async def test_a_partition_that_may_not_be_read_is_told_to_its_taker_once() -> None:
    desk = Desk()
    inbox = desk.open()
    desk.arrive(Message(topic="p.in", partition=0, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
    with pytest.raises(ConfigError, match="Read on topic"):
        await inbox.take(500, 5.0)
    assert await inbox.take(500, 0.0) == []


async def test_reading_on_from_another_place_leaves_the_old_inbox_empty() -> None:
    desk = Desk()
    inbox = desk.open()
    desk.arrive(record(0), record(1))
    again = inbox.reopened(1)
    desk.reader._do_work(desk.consumer, 0.0)
    desk.arrive(record(1))
    assert await inbox.take(500, 0.0) == []
    assert [item.offset for item in await again.take(500, 0.0)] == [1]
    assert desk.reader.buffered_bytes == 0


async def test_who_sleeps_until_the_first_record_is_woken_even_if_the_record_had_to_give_way_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headspring.streaming.engine.kafka.reader._STALLED_S", -1.0)
    desk = Desk(budget_bytes=1_000)
    sleeping, _ = desk.open(), desk.open("other")
    asleep = asyncio.create_task(sleeping.arrived.wait())
    await asyncio.sleep(0)
    desk.arrive(record(0, size=6_000))
    desk.reader._make_room(desk.consumer)  # the event loop was busy and has not heard of the record
    await asyncio.wait_for(asleep, 5)
    assert await sleeping.take(500, 0.0) == []
    desk.reader._do_work(desk.consumer, 0.0)
    desk.arrive(record(0, size=6_000))
    assert [item.offset for item in await sleeping.take(500, 5.0)] == [0]


async def test_who_does_not_take_gives_way_to_who_waits_and_reads_it_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headspring.streaming.engine.kafka.reader._STALLED_S", -1.0)
    desk = Desk(budget_bytes=10_000)
    stalled, hungry = desk.open(), desk.open("other")
    desk.arrive(Message(topic="p.other", partition=0, offset=0, key=b"k", value=b"v"))
    assert len(await hungry.take(500, 0.0)) == 1
    desk.arrive(record(0, size=6_000), record(1, size=6_000))
    assert [item.offset for item in await stalled.take(1, 0.0)] == [0]
    desk.arrive(record(2, size=6_000))
    desk.reader._make_room(desk.consumer)
    assert desk.reader.buffered_bytes > 10_000, "nobody waits, so nothing is given up"
    assert await hungry.take(500, 0.0) == []
    desk.reader._make_room(desk.consumer)
    assert desk.reader.buffered_bytes == 0
    assert await stalled.take(500, 0.0) == []
    desk.reader._do_work(desk.consumer, 0.0)
    desk.arrive(record(1), record(2))
    assert [item.offset for item in await stalled.take(500, 0.0)] == [1, 2]
