"""Reads a known range of offsets, once: snapshots, and whole compacted topics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headspring.proto.errors import Unavailable
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import Heard, retryable, translate

_STALLED_S = 20.0
"""Without a record for so long the read is given up."""
_BATCH = 500
_POLL_S = 0.5

FETCH_WAIT_MS = 250
"""How long a broker holds a fetch for want of records. What else is asked on the connection waits behind it."""


def consumer_config(connection: KafkaConnection, group: str, heard: Heard) -> dict[str, Any]:
    """What every consumer of ours has: no commits by itself, little memory, quick after a pause.

    Args:
        group: Kafka's name of it; a member that only assigns partitions does not join it.
    """
    return {
        **connection.config(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # Tells where the end is: holes that compaction or transactions left are passed without a record.
        "enable.partition.eof": True,
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "fetch.message.max.bytes": 4 * 1024 * 1024,
        "fetch.max.bytes": 16 * 1024 * 1024,
        "check.crcs": True,
        "queued.max.messages.kbytes": 16 * 1024,
        # The default second between "full" and the next fetch would bound reading to 16 MiB/s.
        "fetch.queue.backoff.ms": 5,
        "error_cb": heard.heard,
    }


def fetch(
    connection: KafkaConnection, topic: str, ranges: Mapping[int, tuple[int, int]], *, group: str
) -> Iterator[Message]:
    """Messages of `topic` (Kafka's name), per partition from an offset up to, not including, another. Blocks.

    Raises:
        Unavailable: nothing came for a while.
        PlatformError: reading is not allowed, or the topic is gone.
    """
    left = {partition: end for partition, (first, end) in ranges.items() if first < end}
    if not left:
        return
    heard = Heard(connection.client_id)
    consumer = Consumer(consumer_config(connection, group, heard))
    try:
        consumer.assign([TopicPartition(topic, partition, ranges[partition][0]) for partition in left])
        deadline_s = time.monotonic() + _STALLED_S
        while left:
            first = consumer.poll(_POLL_S)
            messages = [first, *consumer.consume(_BATCH, 0)] if first is not None else []
            for message in messages:
                partition, error = message.partition() or 0, message.error()
                offset = message.offset() or 0
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if retryable(error):
                        continue
                    raise translate(error, connection, doing=f"read topic {topic}", permission=f"Read on topic {topic}")
                if partition not in left:
                    continue
                deadline_s = time.monotonic() + _STALLED_S
                if error is None and offset < left[partition]:
                    yield message
                if offset + (error is None) >= left[partition]:
                    del left[partition]
                    consumer.incremental_unassign([TopicPartition(topic, partition)])
            if left and time.monotonic() > deadline_s:
                raise Unavailable(
                    f"cannot read topic {topic} of Kafka at {connection.servers}: nothing came for {_STALLED_S:g} s "
                    f"({heard.reason() or 'no reason was given'}); it is tried again"
                )
    except KafkaException as failure:
        raise translate(failure, connection, doing=f"read topic {topic}", permission=f"Read on topic {topic}") from (
            failure
        )
    finally:
        consumer.close()
