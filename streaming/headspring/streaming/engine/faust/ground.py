"""What an app stands on: the log, and the names and settings of its cluster, so that both always agree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from headspring.streaming.engine.faust.table import MAX_ENTRY_BYTES, changelog_of
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.kafka.producer import HEADROOM_BYTES
from headspring.streaming.log.kafka.topics import ensure, state_plan

_SHORT = {"segment.ms": "60000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0"}
"""A key gets a new entry with every batch, and who takes over reads the topic whole: old ones go within a minute or
two, although Kafka never compacts the segment it writes to."""


class Ground:
    """Of one engine."""

    def __init__(self, log: KafkaLog, app_id: str) -> None:
        self.log = log
        self.connection = log._connection.named("faust")
        self.partitions = log._partitions
        self.schema = log._schema
        self.group = log._name(app_id)
        """Kafka's name of the consumer group."""

    def topic(self, name: str) -> str:
        """Kafka's name of a topic of ours."""
        return self.log._name(name)

    async def prepare(self, inputs: Iterable[str]) -> None:
        """Every input is there, and the topic of the state.

        Raises:
            PlatformError: one cannot be had, or is otherwise than wanted.
        """
        await asyncio.gather(*map(self.log.end_offsets, inputs))
        changelog = state_plan(
            changelog_of(self.group), partitions=self.partitions, replication=self.log._replication,
            min_insync=self.log._min_insync, max_message_bytes=MAX_ENTRY_BYTES + HEADROOM_BYTES,
        )  # fmt: skip
        changelog = replace(changelog, settings={**changelog.settings, **_SHORT})
        await ensure(self.log._cluster, [changelog], reads=[changelog.name], writes=[changelog.name])
