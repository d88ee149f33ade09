"""Appends to Kafka: idempotent, acknowledged by all replicas in sync, bounded in memory.

What was handed over and is not acknowledged counts against `buffer_bytes`; when that is full, appends wait in line and
are refused after a while. One thread serves the client's delivery reports; an append is done with the last of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headspring.proto.errors import PlatformError, Unavailable
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import Heard, error_of, translate
from headspring.streaming.log.kafka.records import Outbound

_LOG = logging.getLogger(__name__)
_LINGER_MS = 3
"""Wait for company: appends of tasks that run at the same time share a request."""
_POLL_S = 0.5
"""Delivery reports wake the thread at once; this only bounds how long it takes to notice the end."""
_ROOM_RETRY_S = 2.0
HEADROOM_BYTES = 1024 * 1024
"""What a batch may take beyond the largest record: framing and headers."""
_Delivered = Callable[[KafkaError | None, Message], None]


@dataclass(slots=True, eq=False)
class Batch:
    """One append under way."""

    topic: str
    """Kafka's name of it."""
    messages: Sequence[Outbound]
    size_bytes: int
    done: Future[Mapping[int, tuple[int, int]]] = field(default_factory=Future)
    """Per partition the first and the last offset that the records got; the first is -1 where one is not known,
    because a repeated request found the record there already."""
    total: int = 0
    left: int = 0
    error: KafkaError | None = None
    places: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerStats:
    """Since open, except what is pending."""

    records_written: int
    bytes_written: int
    """Of keys, values and headers, before compression."""
    write_errors: int
    """Appends that failed."""
    restarts: int
    """Clients that gave up for good and were replaced."""
    pending_bytes: int
    """Handed over and not acknowledged."""
    waiting: int
    """Appends in line for room."""


class KafkaProducer:
    """One client. `append` on the event loop, `append_threadsafe` on any thread."""

    def __init__(
        self, connection: KafkaConnection, *, buffer_bytes: int, max_record_bytes: int, delivery_timeout_s: float,
        room_timeout_s: float, compression: str = "lz4",
    ) -> None:  # fmt: skip
        """
        Args:
            buffer_bytes: Bound for what is not acknowledged; one append that is larger still goes, alone.
            max_record_bytes: The caller checks it; the client is set up for it.
            delivery_timeout_s: After this without acknowledgement an append fails.
            room_timeout_s: How long an append waits in line.
            compression: `lz4`, `zstd` or `none`.
        """
        self._connection = connection
        self._buffer_bytes = buffer_bytes
        self._delivery_timeout_s = delivery_timeout_s
        self._room_timeout_s = room_timeout_s
        self._loop = asyncio.get_running_loop()
        self._heard = Heard(connection.client_id)
        self._config = {
            **connection.config(),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": _LINGER_MS,
            "compression.type": compression,
            "message.max.bytes": max_record_bytes + HEADROOM_BYTES,
            "message.timeout.ms": round(delivery_timeout_s * 1000),
            # The bound is ours, in bytes of appends; the client's own must not come before it.
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 2 * buffer_bytes // 1024 + 1024 * 1024,
            "error_cb": self._on_error,
        }
        self._order = threading.Lock()
        """Held while one append is handed over: its records stay together, and appends in the order of their calls."""
        self._count = threading.Lock()
        """Guards what the thread of delivery reports changes too."""
        self._client = Producer(self._config)
        self._line: deque[Batch] = deque()
        self._pending_bytes = 0
        self._records = self._bytes = self._errors = self._restarts = 0
        self._ends: dict[str, dict[int, int]] = {}
        self._broken = False
        self._closed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"{connection.client_id}-reports", daemon=True)
        self._thread.start()

    async def append(self, batch: Batch) -> Mapping[int, tuple[int, int]]:
        """Acknowledged on return; where the records are.

        Raises:
            Unavailable: no room came in time, no acknowledgement, or closed.
            BackendError: Kafka refuses it.
        """
        if self._closed:
            raise Unavailable("the log is closed")
        self._line.append(batch)
        # Also where others wait: room may have come between their look and their joining the line.
        self._admit()
        waiting = asyncio.wrap_future(batch.done)
        if batch in self._line:
            try:
                await asyncio.wait((waiting,), timeout=self._room_timeout_s)
            finally:
                left = batch in self._line
                if left:
                    self._line.remove(batch)
            if left:
                raise self._full()
        return await waiting

    def append_threadsafe(self, batch: Batch) -> Future[Mapping[int, tuple[int, int]]]:
        """Acknowledged when the future is done.

        Raises:
            Unavailable: no room now, or closed.
        """
        if self._closed:
            raise Unavailable("the log is closed")
        if self._line or not self._reserve(batch):
            raise self._full()
        self._hand_over(batch)
        return batch.done

    def end(self, topic: str, partition: int) -> int:
        """The offset after the newest of our own acknowledged records; 0 if there is none."""
        with self._count:
            return self._ends.get(topic, {}).get(partition, 0)

    def stats(self) -> ProducerStats:
        with self._count:
            return ProducerStats(
                records_written=self._records, bytes_written=self._bytes, write_errors=self._errors,
                restarts=self._restarts, pending_bytes=self._pending_bytes, waiting=len(self._line),
            )  # fmt: skip

    async def close(self) -> None:
        """Sends what is under way, up to the delivery timeout. Idempotent."""
        if self._closed:
            return
        self._closed = True
        while self._line:
            self._line.popleft().done.set_exception(Unavailable("the log is closed"))
        await asyncio.to_thread(self._end)

    # Inside

    def _reserve(self, batch: Batch) -> bool:
        with self._count:
            if self._pending_bytes and self._pending_bytes + batch.size_bytes > self._buffer_bytes:
                return False
            self._pending_bytes += batch.size_bytes
            return True

    def _full(self) -> Unavailable:
        reason = self._heard.reason()
        return Unavailable(
            f"{self._pending_bytes} bytes wait for Kafka at {self._connection.servers}"
            f"{f' ({reason})' if reason else ''}; it takes less than comes in",
            retry_after_s=_ROOM_RETRY_S,
        )

    def _hand_over(self, batch: Batch) -> None:
        batch.total = batch.left = len(batch.messages)
        delivered = self._delivered_of(batch)
        given = 0
        with self._order:
            produce, topic = self._client.produce, batch.topic
            try:
                for message in batch.messages:
                    produce(
                        topic, message.value, message.key, message.partition, on_delivery=delivered,
                        timestamp=message.time_ms, headers=message.headers,
                    )  # fmt: skip
                    given += 1
            except (KafkaException, BufferError) as error:
                failure = error if isinstance(error, KafkaException) else KafkaError(KafkaError._QUEUE_FULL)
                self._failed(batch, len(batch.messages) - given, failure)
        batch.messages = ()

    def _delivered_of(self, batch: Batch) -> _Delivered:
        def delivered(error: KafkaError | None, message: Message) -> None:
            """Runs in the thread of delivery reports."""
            if error is not None:
                self._failed(batch, 1, error)
                return
            partition, offset = message.partition() or 0, message.offset()
            if offset is None or offset < 0:
                offset = -1
            span = batch.places.get(partition)
            if span is None:
                batch.places[partition] = (offset, offset)
            else:
                batch.places[partition] = (min(span[0], offset), max(span[1], offset))
            with count:
                batch.left -= 1
                done = not batch.left
            if done:
                self._done(batch)

        count = self._count
        return delivered

    def _failed(self, batch: Batch, count: int, failure: KafkaException | KafkaError) -> None:
        """`count` records of an append will not be acknowledged."""
        with self._count:
            batch.error = batch.error or error_of(failure)
            batch.left -= count
            done = not batch.left
        if done:
            self._done(batch)

    def _done(self, batch: Batch) -> None:
        """All records of an append have come to their end."""
        with self._count:
            self._pending_bytes -= batch.size_bytes
            if batch.error is None:
                self._records += batch.total
                self._bytes += batch.size_bytes
            else:
                self._errors += 1
            ends = self._ends.setdefault(batch.topic, {})
            for partition, (_, last) in batch.places.items():
                ends[partition] = max(ends.get(partition, 0), last + 1)
        if self._line:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._admit)
        # A caller that gave up has cancelled its future; the records are written all the same.
        if batch.done.set_running_or_notify_cancel():
            if batch.error is None:
                batch.done.set_result(batch.places)
            else:
                batch.done.set_exception(self._error(batch))

    def _admit(self) -> None:
        """Lets appends in line go while there is room, in their order."""
        while self._line and not self._closed and self._reserve(self._line[0]):
            self._hand_over(self._line.popleft())

    def _error(self, batch: Batch) -> PlatformError:
        error = batch.error or KafkaError(KafkaError._FAIL)
        if error.code() == KafkaError._MSG_TIMED_OUT:
            reason = self._heard.reason()
            return Unavailable(
                f"no acknowledgement for topic {batch.topic} from Kafka at {self._connection.servers} within "
                f"{self._delivery_timeout_s:g} s ({reason or 'is a broker away, or its disk full?'}); nothing is lost "
                "that was acknowledged, and it goes on by itself",
                retry_after_s=_ROOM_RETRY_S,
            )
        return translate(
            error, self._connection, doing=f"write topic {batch.topic}", permission=f"Write on topic {batch.topic}"
        )

    def _on_error(self, error: KafkaError) -> None:
        """Runs in the thread of delivery reports."""
        self._heard.heard(error)
        if error.fatal():
            self._broken = True

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._client.poll(_POLL_S)
            if self._broken:
                self._renew()

    def _renew(self) -> None:
        """An idempotent client that met a fatal error never works again: another takes its place."""
        self._broken = False
        _LOG.warning(
            "kafka producer gave up and is replaced; what it had not got acknowledged is answered as unavailable: "
            "client=%s reason=%s", self._connection.client_id, self._heard.reason(),
        )  # fmt: skip
        with self._order:
            old, self._client = self._client, Producer(self._config)
        old.purge()
        while len(old):
            old.poll(_POLL_S)
        with self._count:
            self._restarts += 1

    def _end(self) -> None:
        self._client.flush(self._delivery_timeout_s + 1.0)
        self._stop.set()
        self._thread.join()
        self._client.purge()
        self._client.flush(1.0)
