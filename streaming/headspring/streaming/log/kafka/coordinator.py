"""A group's committed positions, by a client that reads nothing.

The admin client has calls for this too; with confluent-kafka 2.16 they crash the process when the group has committed
nothing, or while the coordinator is being elected. A consumer that never subscribes commits as well and is sound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headspring.streaming.log.kafka.cluster import retried
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import Heard, a_person_must_act

_REQUEST_S = 5.0
_COMMIT_S = 6.0
"""How long the client waits for a coordinator within one commit; Kafka calls it the session timeout."""

Place = tuple[str, int]
"""Topic (Kafka's name of it) and partition."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a group has committed for a partition."""

    offset: int
    """The next record to read."""
    metadata: str = ""


class Coordinator:
    """Of one group. Any number of tasks; requests go one after the other."""

    def __init__(self, connection: KafkaConnection, group: str) -> None:
        """
        Args:
            group: Kafka's name of it. It must have no members that joined by subscribing.
        """
        self._connection = connection
        self._group = group
        config: dict[str, Any] = {
            **connection.config(),
            "group.id": group,
            "enable.auto.commit": False,
            "session.timeout.ms": round(_COMMIT_S * 1000),
            "error_cb": Heard(connection.client_id).heard,
        }
        self._client = Consumer(config)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{connection.client_id}-commit")

    async def committed(self, places: Iterable[Place]) -> dict[Place, Committed]:
        """Those of `places` that the group has committed.

        Raises:
            Unavailable: no coordinator answered in time.
            ConfigError: reading the group or a topic is not allowed.
        """
        wanted = [TopicPartition(*place) for place in places]
        answer = await self._retried(
            lambda: self._client.committed(wanted, _REQUEST_S), doing=f"read positions of group {self._group}",
            permission=f"Read on group {self._group}",
        )  # fmt: skip
        return {
            (one.topic, one.partition): Committed(one.offset, one.metadata or "") for one in answer if one.offset >= 0
        }

    async def commit(self, positions: Mapping[Place, Committed]) -> None:
        """All of them in one request, which the coordinator writes as one batch; durable on return.

        Raises:
            Unavailable: no coordinator took it in time; it may have happened.
            ConfigError: reading the group or one of the topics is not allowed; the others may have been committed.
        """
        offsets = [
            TopicPartition(topic, partition, one.offset, metadata=one.metadata)
            for (topic, partition), one in positions.items()
        ]
        topics = ", ".join(sorted({topic for topic, _ in positions}))
        await self._retried(
            lambda: self._client.commit(offsets=offsets, asynchronous=False),
            doing=f"commit positions of group {self._group}",
            permission=f"Read on group {self._group} and on topics {topics}",
        )

    async def close(self) -> None:
        """After the request under way."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._client.close)
        self._thread.shutdown()

    async def _retried(
        self, request: Callable[[], list[TopicPartition] | None], *, doing: str, permission: str
    ) -> list[TopicPartition]:
        def ask() -> list[TopicPartition]:
            try:
                answer = request() or []
            except KafkaException:
                # The request itself only times out when the group may not be read; the reason comes beside it.
                refused = self._refused()
                if refused is not None:
                    raise KafkaException(refused) from None
                raise
            self._refused()
            for one in answer:
                if one.error is not None:
                    raise KafkaException(one.error)
            return answer

        loop = asyncio.get_running_loop()
        return await retried(
            lambda: loop.run_in_executor(self._thread, ask), self._connection, doing=doing, permission=permission
        )

    def _refused(self) -> KafkaError | None:
        """What the client has to say, if it is that a person must allow something. Unserved it would pile up."""
        refused = None
        while (message := self._client.poll(0)) is not None:
            error = message.error()
            if error is not None and a_person_must_act(error):
                refused = error
        return refused
