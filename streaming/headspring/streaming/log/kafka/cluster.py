"""The cluster, and where its partitions begin and end; requests are tried again while a leader moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import Heard, at_start, error_of, gone, leaderless, retryable, translate

T = TypeVar("T")
K = TypeVar("K")

_CONNECT_S = 10.0
"""At start; a broker that is up answers within a second."""
_TRY_FOR_S = 20.0
"""An election after a lost broker takes a session of it, 9 s by Kafka's default, and a little."""
_REQUEST_S = 3.0
_SETTLING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})
"""Brokers learn of a new topic one after the other."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0
_NEWS_S = 5.0
"""A topic that one broker shows has reached all others by then."""


class Cluster:
    """One admin client, and one that asks for offsets. Safe for many tasks at once.

    Offsets are asked for by a consumer that reads nothing: the admin client's call answers without an error, and wrong,
    for a partition whose leader does not answer (confluent-kafka 2.16).
    """

    def __init__(self, connection: KafkaConnection, admin: AdminClient, heard: Heard) -> None:
        self.connection = connection
        self.admin = admin
        self.heard = heard
        config: dict[str, Any] = {
            **connection.config(),
            "group.id": "headspring.offsets",  # the client wants one; it is never used
            "enable.auto.commit": False,
            "error_cb": heard.heard,
        }
        self._client = Consumer(config)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{connection.client_id}-offsets")

    async def oldest(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Per partition, the offset of its oldest record; where there is none, of the next."""
        return await self._offsets(topic, partitions, OFFSET_BEGINNING)

    async def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Per partition, the offset that the next record will get; where somebody's transaction is open, of its
        first record."""
        return await self._offsets(topic, partitions, OFFSET_END)

    async def at_time(self, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
        """Per partition, the offset of the first record of that time or later; its end where there is none."""
        wanted = tuple(partitions)
        found = await self._offsets(topic, wanted, time_ms)
        none = [partition for partition, offset in found.items() if offset < 0]
        return found | (await self.ends(topic, none) if none else {})

    async def close(self) -> None:
        """After the request under way."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._client.close)
        self._thread.shutdown()

    async def _offsets(self, topic: str, partitions: Iterable[int], at: int) -> dict[int, int]:
        """
        Args:
            at: A time in milliseconds, or one of the client's numbers for the beginning and the end.
        """
        wanted = [TopicPartition(topic, partition, at) for partition in partitions]
        doing = f"ask for offsets of {topic}"
        tries = 0

        def ask() -> dict[int, int]:
            nonlocal tries
            tries += 1
            if tries > 1:
                # The client goes on asking the leader it knows, also when that is gone.
                self._client.list_topics(topic, timeout=_REQUEST_S)
            try:
                answers = self._client.offsets_for_times(wanted, timeout=_REQUEST_S)
            except KafkaException as failure:
                if error_of(failure).code() == KafkaError._UNKNOWN_PARTITION:
                    # What the client says of a partition without a leader too.
                    without = self._leaderless(topic)
                    if without:
                        raise leaderless(self.connection, topic, without, doing=doing) from failure
                raise
            self._client.poll(0)  # serves what the client has to say; unserved it would pile up
            for one in answers:
                if one.error is not None:
                    raise KafkaException(one.error)
            return {one.partition: one.offset for one in answers}

        loop = asyncio.get_running_loop()
        return await retried(
            lambda: loop.run_in_executor(self._thread, ask), self.connection, doing=doing,
            permission=f"Describe on topic {topic}", news_s=_NEWS_S,
        )  # fmt: skip

    def _leaderless(self, topic: str) -> list[int]:
        """Partitions that the cluster knows and nobody leads."""
        known = self._client.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions
        return sorted(number for number, partition in known.items() if partition.leader < 0)


async def retried(
    ask: Callable[[], Awaitable[T]], connection: KafkaConnection, *, doing: str, permission: str = "",
    news_s: float = 0.0,
) -> T:  # fmt: skip
    """`ask` until it succeeds, for a while.

    Args:
        news_s: For so long a topic that nobody knows may be one that a broker has not heard of yet.

    Raises:
        PlatformError: as `errors.translate` says.
    """
    began_s, wait_s = time.monotonic(), _FIRST_WAIT_S
    while True:
        try:
            return await ask()
        except KafkaException as failure:
            error = error_of(failure)
            for_s = _TRY_FOR_S if retryable(error) else news_s if gone(error) else 0.0
            if time.monotonic() + wait_s > began_s + for_s:
                raise translate(failure, connection, doing=doing, permission=permission) from failure
        await asyncio.sleep(wait_s)
        wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)


async def each(
    ask: Callable[[list[K]], Mapping[K, Future[Any]]], keys: Iterable[K], connection: KafkaConnection, *, doing: str
) -> dict[K, Any | KafkaError]:
    """What a request about many things says of each: an answer, or an error that trying again does not help.

    Args:
        ask: Sends it for some of the keys.

    Raises:
        Unavailable: for one of them no answer came for a while.
    """
    answers: dict[K, Any | KafkaError] = {}
    left = list(keys)

    async def once() -> None:
        failure: KafkaException | None = None
        for key, future in ask(left).items():
            try:
                answers[key] = await asyncio.wrap_future(future)
            except KafkaException as error:
                if retryable(error_of(error)):
                    failure = error
                    continue
                answers[key] = error_of(error)
            left.remove(key)
        if failure is not None:
            raise failure

    if left:
        await retried(once, connection, doing=doing)
    return answers


def connect(connection: KafkaConnection) -> Cluster:
    """Returns once a broker has answered. Blocks.

    Raises:
        ConfigError: none did, or it does not let us in.
    """
    heard = Heard(connection.client_id)
    config: dict[str, Any] = {**connection.config(), "error_cb": heard.heard}
    try:
        admin = AdminClient(config)
    except KafkaException as failure:
        raise at_start(failure, connection, heard, doing="use these settings") from failure
    deadline_s = time.monotonic() + _CONNECT_S
    while True:
        try:
            admin.list_topics(timeout=1.0)
            return Cluster(connection, admin, heard)
        except KafkaException as failure:
            admin.poll(0)
            if heard.sign_in_refused() is not None or time.monotonic() > deadline_s:
                raise at_start(failure, connection, heard, doing="connect") from failure
        time.sleep(0.1)
