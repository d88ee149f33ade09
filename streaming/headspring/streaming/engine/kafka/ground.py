"""What stages stand on: the log, the names and clients of its cluster, and how their group works."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, Message

from headspring.streaming.log.kafka.errors import Heard
from headspring.streaming.log.kafka.fetch import consumer_config
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.kafka.records import stored
from headspring.streaming.log.port import StoredRecord

_LOG = logging.getLogger(__name__)
_REJOIN_S = 60.0
"""Beyond the longest release of a number, until the group goes on without a member that does not answer."""


class Ground:
    """Of one engine."""

    def __init__(
        self, log: KafkaLog, *, session_s: float, heartbeat_s: float, release_s: float, instance: str,
        buffer_bytes: int,
    ) -> None:  # fmt: skip
        """
        Args:
            log: Where stages meet.
            session_s: Without a heartbeat for this long a member is gone, in seconds.
            heartbeat_s: Seconds between heartbeats.
            release_s: Longest release of a number, in seconds.
            instance: Static member name, "" for none.
            buffer_bytes: What each stage may have read ahead.
        """
        self.log = log
        self.connection = log.connection
        self.partitions = log.partitions
        self.snapshots = log.snapshots
        self.buffer_bytes = buffer_bytes
        self._group_settings: dict[str, object] = {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(session_s * 1000),
            "heartbeat.interval.ms": round(heartbeat_s * 1000),
            "max.poll.interval.ms": round((max(release_s, session_s) + _REJOIN_S) * 1000),
        }
        if instance:
            self._group_settings["group.instance.id"] = instance

    def topic(self, name: str) -> str:
        """Kafka's name of a topic."""
        return self.log.kafka_name(name)

    def group(self, stage: str) -> str:
        """Kafka's name of a stage's group."""
        return self.log.kafka_name(stage)

    def records(self, topic: str, messages: Sequence[Message]) -> list[StoredRecord]:
        """Under our name of the topic."""
        return stored(topic, messages, self.log.schema)

    def member(self, stage: str, on_error: Callable[[KafkaError], None]) -> Consumer:
        """A client that takes part in the stage's group, and reads nothing."""
        config = consumer_config(self.connection.named(stage), self.group(stage), Heard(stage))
        return Consumer({**config, **self._group_settings, "error_cb": on_error}, logger=_LOG)

    def reader(self, stage: str) -> Consumer:
        """A client that reads what it is told to, and asks for what the group has committed."""
        return Consumer(consumer_config(self.connection.named(stage), self.group(stage), Heard(stage)), logger=_LOG)

    async def prepare(self, topics: Iterable[str]) -> None:
        """Every topic is there.

        Raises:
            PlatformError: one cannot be had.
        """
        await asyncio.gather(*map(self.log.end_offsets, topics))
