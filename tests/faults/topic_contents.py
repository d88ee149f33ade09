"""Everything that is on a topic of Kafka, by the client library alone: not by our own reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """One record."""

    partition: int
    offset: int
    key: bytes
    value: bytes


def contents(servers: str, topic: str) -> Iterator[Held]:
    """Every record, partition after partition, each from its beginning to the end it has now."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": "look", "enable.auto.commit": False})
    try:
        for partition in sorted(reader.list_topics(topic, timeout=_WAIT_S).topics[topic].partitions):
            low, high = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=_WAIT_S)
            reader.assign([TopicPartition(topic, partition, low)])
            while reader.position([TopicPartition(topic, partition)])[0].offset < high and low < high:
                message = reader.poll(_WAIT_S)
                if message is None or message.error():
                    raise AssertionError(f"{topic}[{partition}] cannot be read: {message and message.error()}")
                yield Held(partition, message.offset() or 0, message.key() or b"", message.value() or b"")
    finally:
        reader.close()


def repeats(records: list[Held]) -> tuple[list[Held], list[Held]]:
    """Those that came first, and those that are to the byte what came before on the same partition."""
    seen: set[tuple[int, bytes, bytes]] = set()
    first: list[Held] = []
    again: list[Held] = []
    for one in records:
        same = (one.partition, one.key, one.value)
        (again if same in seen else first).append(one)
        seen.add(same)
    return first, again
