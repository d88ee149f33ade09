"""Reads partitions ahead in a thread of its own, into a bounded buffer that the event loop takes from."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headspring.proto.errors import PlatformError
from headspring.streaming.log.frames import record_bytes
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import Heard, retryable, translate
from headspring.streaming.log.kafka.fetch import consumer_config
from headspring.streaming.log.kafka.records import stored
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.port import StoredRecord

_BUFFER_RECORDS = 2000
_BUFFER_BYTES = 8 * 1024 * 1024
"""Beside what the client itself has read ahead (`fetch.consumer_config`)."""
_BATCH = 500
_POLL_S = 0.1
"""Records wake the thread at once; this bounds how long it takes to notice a seek or the end."""
_TAKE_BYTES = 32 * 1024 * 1024
"""Values handed out at once, unless a single one is larger."""


@dataclass(frozen=True, slots=True)
class End:
    """Everything of a partition below `offset` has been read: holes leave no record that would tell."""

    partition: int
    offset: int


class Reader:
    """One topic from given offsets on. Made and used on the event loop; the thread is its own."""

    def __init__(
        self, connection: KafkaConnection, *, topic: str, name: str, group: str, starts: Mapping[int, int],
        schema: Schema,
    ) -> None:  # fmt: skip
        """
        Args:
            topic: Our name of it, which records get, and
            name: Kafka's.
            group: Kafka's name of the group; it is not joined and nothing is committed here.
            starts: Per partition, the first offset.
        """
        self._connection = connection
        self._topic = topic
        self._name = name
        self._schema = schema
        self._heard = Heard(connection.client_id)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changed = threading.Condition()
        """Guards everything below; told when the thread has a reason to look again."""
        self._buffer: deque[StoredRecord | End] = deque()
        self._bytes = 0
        self._highs: dict[int, int] = {}
        self._failure: PlatformError | None = None
        self._starts: Mapping[int, int] | None = dict(starts)
        """Where to start over; None while going on."""
        self._epoch = 0
        self._stopped = False
        self._consumer = Consumer(consumer_config(connection, group, self._heard))
        self._thread = threading.Thread(target=self._run, name=f"{connection.client_id}-read-{name}", daemon=True)
        self._thread.start()

    def take(self, max_records: int) -> list[StoredRecord | End]:
        """What is there, in order, at most `max_records` of it.

        Raises:
            PlatformError: reading failed in a way that waiting does not help; the next call goes on.
        """
        taken: list[StoredRecord | End] = []
        size = records = 0
        with self._changed:
            self._news.clear()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            while self._buffer and records < max_records:
                item = self._buffer[0]
                if isinstance(item, StoredRecord):
                    need = record_bytes(item.record)
                    if records and size + need > _TAKE_BYTES:
                        break
                    size += need
                    records += 1
                    self._bytes -= need
                taken.append(self._buffer.popleft())
            self._changed.notify()
        return taken

    async def wait(self, timeout_s: float) -> None:
        """Until there may be something to take, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)

    def seek(self, starts: Mapping[int, int]) -> None:
        """Starts over at these offsets, which name every partition; what was read ahead is forgotten."""
        with self._changed:
            self._starts = dict(starts)
            self._epoch += 1
            self._buffer.clear()
            self._bytes = 0
            self._changed.notify()

    def high(self, partition: int) -> int:
        """The end of a partition as of the last fetch; 0 before the first."""
        with self._changed:
            return self._highs.get(partition, 0)

    async def close(self) -> None:
        """Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    # The thread

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while self._full() and self._starts is None and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    starts, self._starts = self._starts, None
                    epoch = self._epoch
                try:
                    if starts is not None:
                        self._consumer.assign([TopicPartition(self._name, *start) for start in starts.items()])
                    first = self._consumer.poll(_POLL_S)
                    if first is not None:
                        self._put([first], epoch)
                        self._put(self._consumer.consume(_BATCH, 0), epoch)
                except KafkaException as failure:
                    self._fail(failure)
        finally:
            self._consumer.close()

    def _full(self) -> bool:
        return self._bytes >= _BUFFER_BYTES or len(self._buffer) >= _BUFFER_RECORDS

    def _put(self, messages: list[Message], epoch: int) -> None:
        if not messages:
            return
        items: list[StoredRecord | End] = []
        highs: dict[int, int] = {}
        good: list[Message] = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
                highs[message.partition() or 0] = 0
                continue
            items += stored(self._topic, good, self._schema)
            good = []
            if error.code() == KafkaError._PARTITION_EOF:
                items.append(End(message.partition() or 0, message.offset() or 0))
                highs[message.partition() or 0] = 0
            elif not retryable(error):
                self._fail(error)
        items += stored(self._topic, good, self._schema)
        for partition in highs:
            _, highs[partition] = self._consumer.get_watermark_offsets(
                TopicPartition(self._name, partition), cached=True
            )
        with self._changed:
            self._highs.update(highs)
            if epoch != self._epoch:
                return
            self._buffer.extend(items)
            self._bytes += sum(record_bytes(item.record) for item in items if isinstance(item, StoredRecord))
        self._tell()

    def _fail(self, failure: KafkaException | KafkaError) -> None:
        error = translate(
            failure, self._connection, doing=f"read topic {self._name}", permission=f"Read on topic {self._name}"
        )
        with self._changed:
            self._failure = error
            if not self._stopped:
                self._changed.wait(_POLL_S)  # not in a tight loop
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._news.set)
