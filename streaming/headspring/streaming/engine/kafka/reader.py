"""One client of librdkafka that reads all partitions a stage owns in this process, each from its own place.

A thread polls and sorts what comes into inboxes; the event loop takes from them. Memory is bounded: the client's queue
is, and the inboxes hold `budget_bytes` and one poll together. When they are full the thread waits. Where an owner then
does not take (it backs off, or works on) while another one waits, the first one's inbox is emptied and read again
later, so that nobody is held up by a neighbour.

Nothing is committed here. Offsets before the end that hold no records (transaction markers, what compaction took)
count as read, by the client's end-of-partition events.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headspring.proto.errors import PlatformError, Unavailable
from headspring.streaming.engine.kafka.inbox import Inbox, Room
from headspring.streaming.engine.kafka.threads import unhurried
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import translate
from headspring.streaming.log.port import StoredRecord

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_POLL_S = 0.1
_POLL_MESSAGES = 64
"""More come with one poll only if they are there already."""
_FULL_S = 0.05
_STALLED_S = 2.0
"""An inbox from which nobody took for this long gives way when the room is needed."""
_ENDS_EVERY_S = 1.0
_ASK_EVERY_S = 5.0
"""Between two questions to the broker, which also show whether it is there."""
_ASK_S = 2.0
_CLOSE_S = 15.0
_Place = tuple[str, int]
"""Kafka's name of a topic, and a partition."""


class Reader:
    """`Source` of inboxes. `open` and `close` from one event loop."""

    def __init__(
        self,
        make: Callable[[], Consumer],
        convert: Callable[[str, Sequence[Message]], list[StoredRecord]],
        *,
        stage: str,
        topics: Mapping[str, str],
        connection: KafkaConnection,
        budget_bytes: int,
    ) -> None:
        """
        Args:
            make: A consumer that commits nothing by itself, tells the end of partitions and starts at the oldest
                record where a position is gone.
            convert: Our name of a topic and its messages → records.
            stage: For messages and the thread's name.
            topics: Our name of each topic → Kafka's.
            connection: For messages.
            budget_bytes: What the inboxes hold together.
        """
        self._make = make
        self._convert = convert
        self._stage = stage
        self._topics = dict(topics)
        self._ours = {theirs: ours for ours, theirs in topics.items()}
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._room = Room(budget_bytes)
        self._inboxes: dict[_Place, Inbox] = {}
        self._work: queue.SimpleQueue[Callable[[Consumer], None]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._waits_for_room = False
        self._thread = threading.Thread(target=self._run, name=f"read:{stage}", daemon=True)
        self.missed = 0
        """Records that were deleted, by age or size, before they were read."""
        self.trouble = ""
        """Why nothing can be read; "" when it can."""

    @property
    def buffered_bytes(self) -> int:
        return self._room.held_bytes

    def start(self) -> None:
        self._thread.start()

    def open(
        self, topic: str, partition: int, position: int = OFFSET_BEGINNING, *, bell: asyncio.Event | None = None
    ) -> Inbox:
        """Reads a partition from `position` on, for one taker; the inbox opened before it gets nothing more."""
        inbox = Inbox(self._room, self, topic, partition, position, bell)
        at = self._place(inbox)
        before = self._inboxes.get(at)
        if before is not None:
            self.forget(before)
        with self._room.lock:
            self._inboxes[at] = inbox
        self._work.put(lambda consumer: self._attach(consumer, inbox))
        return inbox

    def wanted(self, inbox: Inbox) -> None:
        self._work.put(lambda consumer: self._attach(consumer, inbox))

    def made_room(self) -> None:
        if self._waits_for_room:
            self._work.put(lambda consumer: None)

    def forget(self, inbox: Inbox) -> None:
        """What it holds is gone."""
        with self._room.lock:
            if self._inboxes.get(self._place(inbox)) is inbox:
                del self._inboxes[self._place(inbox)]
            inbox.empty()
        self._work.put(lambda consumer: self._detach(consumer, inbox))

    async def ask(self, question: Callable[[Consumer], T], *, doing: str, permission: str = "") -> T:
        """What the client answers, in its thread.

        Raises:
            PlatformError: it failed; `doing` and `permission` as for `translate`.
        """
        done: Future[T] = Future()

        def work(consumer: Consumer) -> None:
            try:
                done.set_result(question(consumer))
            except KafkaException as error:
                done.set_exception(translate(error, self._connection, doing=doing, permission=permission))

        if self._closing.is_set():
            raise Unavailable(f"cannot {doing}: the engine has stopped")
        self._work.put(work)
        return await unhurried(done)

    async def look(self) -> None:
        """Asks the broker where everything ends now.

        Raises:
            PlatformError: it does not say.
        """
        await self.ask(self._look, doing=f"ask where the inputs of {self._stage} end")

    async def close(self) -> None:
        """What waits in `ask` then waits for ever: end it before."""
        self._closing.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _CLOSE_S)

    # The thread

    def _run(self) -> None:
        defect = True
        try:
            while not self._closing.is_set():
                try:
                    self._read()
                except (KafkaException, PlatformError) as error:
                    self.trouble = str(self._told(error) if isinstance(error, KafkaException) else error)
                    _LOG.error("cannot read, tries again with a new client: stage=%s error=%s",
                               self._stage, self.trouble)  # fmt: skip
                    self._closing.wait(_ASK_EVERY_S)
            defect = False
        finally:
            if defect:
                self.trouble = f"reading for {self._stage} ended by a defect: see the log, and restart the process"

    def _read(self) -> None:
        consumer = self._make()
        try:
            with self._room.lock:
                inboxes = list(self._inboxes.values())
                for inbox in inboxes:
                    inbox.empty()
                    inbox.attached = False
            for inbox in inboxes:
                self._attach(consumer, inbox)
            ends_s = asked_s = 0.0
            while not self._closing.is_set():
                self._do_work(consumer, 0.0)
                now_s = time.monotonic()
                if now_s - ends_s >= _ENDS_EVERY_S:
                    ends_s = now_s
                    self._learn_ends(consumer)
                if now_s - asked_s >= _ASK_EVERY_S:
                    asked_s = now_s
                    self._ask_broker(consumer)
                self._poll(consumer)
        finally:
            consumer.close()

    def _poll(self, consumer: Consumer) -> None:
        if self._room.full:
            self._make_room(consumer)
            self._waits_for_room = True
            self._do_work(consumer, _FULL_S)
            self._waits_for_room = False
        elif self._inboxes:
            first = consumer.poll(_POLL_S)
            if first is not None:
                self._sort(consumer, [first, *consumer.consume(_POLL_MESSAGES - 1, 0)])
        else:
            consumer.poll(0)
            self._do_work(consumer, _POLL_S)

    def _do_work(self, consumer: Consumer, wait_s: float) -> None:
        try:
            work = self._work.get(timeout=wait_s) if wait_s > 0 else self._work.get_nowait()
            while True:
                work(consumer)
                work = self._work.get_nowait()
        except queue.Empty:
            pass

    def _attach(self, consumer: Consumer, inbox: Inbox) -> None:
        at = self._place(inbox)
        with self._room.lock:
            if inbox.attached or self._inboxes.get(at) is not inbox:
                return
            position = inbox.attach()
        consumer.incremental_assign([TopicPartition(*at, position)])

    def _detach(self, consumer: Consumer, inbox: Inbox) -> None:
        with self._room.lock:
            attached, inbox.attached = inbox.attached, False
        if attached:
            consumer.incremental_unassign([TopicPartition(*self._place(inbox))])

    def _make_room(self, consumer: Consumer) -> None:
        """Takes from who does not take what another waits for."""
        with self._room.lock:
            inboxes = list(self._inboxes.values())
            if not any(inbox.hungry and inbox.attached for inbox in inboxes):
                return
            before_s = time.monotonic() - _STALLED_S
            stalled = [inbox for inbox in inboxes if inbox.full_since_s is not None and inbox.full_since_s < before_s]
            for inbox in stalled:
                inbox.empty()
        for inbox in stalled:
            self._detach(consumer, inbox)
        # Who has not been told yet of what is gone again would sleep on.
        self._tell(stalled)

    def _sort(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        arrived: dict[_Place, list[Message]] = {}
        ends: dict[_Place, int] = {}
        told: list[Inbox] = []
        for message in messages:
            at, error = (message.topic() or "", _number(message.partition())), message.error()
            if error is None:
                arrived.setdefault(at, []).append(message)
                ends.pop(at, None)  # that was the end before this record
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[at] = _number(message.offset())
            else:
                told += self._failed(at, error)
        for at, some in arrived.items():
            records = self._convert(self._ours.get(at[0], at[0]), some)
            with self._room.lock:
                inbox = self._inboxes.get(at)
                if inbox is None or not inbox.attached:
                    continue
                expected = inbox.expected
                inbox.put(records)
            told.append(inbox)
            if 0 < expected != records[0].offset:
                self._look_for_gap(consumer, at, expected, records[0].offset)
        with self._room.lock:
            for at, end in ends.items():
                inbox = self._inboxes.get(at)
                if inbox is not None and inbox.attached:
                    inbox.put_end(end)
        self._tell(told)

    def _look_for_gap(self, consumer: Consumer, at: _Place, expected: int, found: int) -> None:
        """Gaps of compaction and of transactions are none; records that retention took unread are."""
        oldest, _ = consumer.get_watermark_offsets(TopicPartition(*at), cached=True)
        if found < expected:
            _LOG.error("a topic was made anew or cut off, reads its oldest record: stage=%s topic=%s partition=%d "
                       "wanted=%d found=%d", self._stage, *at, expected, found)  # fmt: skip
        elif oldest > expected:
            self.missed += oldest - expected
            _LOG.error("records were deleted before they were read: stage=%s topic=%s partition=%d records=%d; raise "
                       "the topic's retention, or add processes", self._stage, *at, oldest - expected)  # fmt: skip

    def _failed(self, at: _Place, error: KafkaError) -> list[Inbox]:
        failure = self._told(error)
        with self._room.lock:
            inbox = self._inboxes.get(at)
            if inbox is not None:
                inbox.fail(failure)
                return [inbox]
        self.trouble = str(failure)
        return []

    def _learn_ends(self, consumer: Consumer) -> None:
        """From what the client heard with its last fetches."""
        for at, inbox in self._all():
            if inbox.attached:
                _, end = consumer.get_watermark_offsets(TopicPartition(*at), cached=True)
                with self._room.lock:
                    inbox.learn_end(end)

    def _ask_broker(self, consumer: Consumer) -> None:
        try:
            if self._all():
                self._look(consumer)
            else:
                consumer.list_topics(next(iter(self._ours)), timeout=_ASK_S)
        except KafkaException as error:
            self.trouble = str(self._told(error))
        else:
            self.trouble = ""

    def _look(self, consumer: Consumer) -> None:
        """In one request to each broker: it waits behind the fetch that is under way there."""
        inboxes = dict(self._all())
        if not inboxes:
            return
        asked = [TopicPartition(*at, OFFSET_END) for at in inboxes]
        failure: KafkaError | None = None
        for answer in consumer.offsets_for_times(asked, timeout=_ASK_S):
            if answer.error is not None:
                failure = answer.error
                continue
            with self._room.lock:
                inboxes[answer.topic, answer.partition].learn_end(answer.offset)
        if failure is not None:
            raise KafkaException(failure)

    def _tell(self, inboxes: Sequence[Inbox]) -> None:
        if inboxes and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_notice, inboxes)

    def _all(self) -> list[tuple[_Place, Inbox]]:
        with self._room.lock:
            return list(self._inboxes.items())

    def _place(self, inbox: Inbox) -> _Place:
        return self._topics[inbox.topic], inbox.partition

    def _told(self, failure: KafkaException | KafkaError) -> PlatformError:
        topics = ", ".join(self._topics.values())
        return translate(
            failure, self._connection, doing=f"read {topics} for {self._stage}", permission=f"Read on topic {topics}"
        )


def _notice(inboxes: Sequence[Inbox]) -> None:
    for inbox in inboxes:
        inbox.notice()


def _number(value: int | None) -> int:
    return -1 if value is None else value
