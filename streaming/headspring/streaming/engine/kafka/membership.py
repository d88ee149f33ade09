"""A stage's membership in its consumer group: the lease on partition numbers, and the only way to commit.

The member subscribes to the stage's first input and reads nothing of it: what the group assigns to it are numbers, and
a number stands for that partition of every input. Every commit carries the member's generation, so the broker refuses
a process that was away for too long, whatever it believes. Within a living process a number is let go only after its
runner has ended and its last commit is through; librdkafka joins the next generation no sooner than the revoke
callback returns.

A client of librdkafka serves one thread at a time, and a poll keeps all others out. So one thread does everything: it
polls for rebalances and works off a queue of commits, also from within the revoke callback.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headspring.proto.errors import Conflict, PlatformError, Unavailable
from headspring.streaming.engine.kafka.threads import unhurried
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.errors import error_of, retryable, translate

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05
"""Between two looks for a rebalance; a commit is served at once."""
_RETRY_S = 0.05
_COMMIT_S = 20.0
"""How long a commit that the broker cannot take now is tried again: a rebalance passes within this."""
_RECONNECT_S = 5.0
"""After a failure that the client cannot recover from."""
_CLOSE_S = 15.0
_MOVING = frozenset(
    {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
     KafkaError._ASSIGNMENT_LOST}
)  # fmt: skip
"""The group is on its way to another generation, or went there without us: the lease tells which, in a moment."""


ErrorCallback = Callable[[KafkaError], None]


class Lease:
    """A partition number that this process owns until it `ended`. Made by a `Membership`."""

    __slots__ = ("_ended", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def end(self) -> None:
        """From here on no commit is made under it. Any thread."""
        self._ended.set()


class Holder(Protocol):
    """What a membership tells; all on the event loop."""

    def granted(self, leases: Sequence[Lease]) -> None:
        """The group gave these numbers to this process."""
        ...

    async def release(self, leases: Sequence[Lease]) -> None:
        """Others get these numbers: end what runs under the leases, with a commit, then return."""
        ...

    def lost(self, leases: Sequence[Lease]) -> None:
        """Others may have these numbers already: end what runs under the leases; commits are refused."""
        ...


@dataclass(slots=True)
class _Commit:
    lease: Lease
    offsets: Mapping[str, int]
    metadata: str
    until_s: float
    done: Future[None] = field(default_factory=Future)


class Membership:
    """One member of one group. `join`, then `commit` under leases, then `leave`."""

    def __init__(
        self,
        make: Callable[[ErrorCallback], Consumer],
        *,
        stage: str,
        group: str,
        topic: str,
        connection: KafkaConnection,
        holder: Holder,
        release_s: float,
    ) -> None:
        """
        Args:
            make: Takes what listens to errors; a consumer in the stage's group that commits nothing by itself and
                assigns cooperatively.
            stage: For messages.
            group: Kafka's name of the stage's group.
            topic: Kafka's name of the stage's first input.
            connection: For messages.
            holder: Is told of leases.
            release_s: Longest wait for `Holder.release`, in seconds; then the numbers go without a commit.
        """
        self._make = make
        self._stage = stage
        self._permission = f"Read on group {group} and on topic {topic}"
        self._topic = topic
        self._connection = connection
        self._holder = holder
        self._release_s = release_s
        self._loop = asyncio.get_running_loop()
        self._leases: dict[int, Lease] = {}
        """Of the thread."""
        self._queue: queue.SimpleQueue[_Commit] = queue.SimpleQueue()
        self._waiting: list[_Commit] = []
        self._retry_at_s = 0.0
        self._fatal: KafkaError | None = None
        self._closed = False
        self._closing = threading.Lock()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease:{stage}", daemon=True)
        self.joined = False
        """The group has told what is ours, and has not gone on without us since."""
        self.trouble = ""
        """What keeps us from being a member; "" for nothing."""
        self.rebalances = 0
        """Assignments received."""
        self.lost = 0
        """Leases that ended without our doing."""
        self.commits = 0
        self.commit_retries = 0
        self.last_commit_s = 0.0

    def join(self) -> None:
        """Starts joining; `Holder.granted` tells when."""
        self._thread.start()

    async def commit(self, lease: Lease, offsets: Mapping[str, int], metadata: str) -> None:
        """Commits the position of every input's partition `lease.number` in one request, durable on return.

        Args:
            offsets: Kafka's name of the topic → next offset.
            metadata: Kept with each position; Kafka takes 4 kB by default.

        Raises:
            Conflict: the lease has ended; somebody else owns the number.
            Unavailable: no coordinator could take it.
            ConfigError: a permission is missing.
        """
        item = _Commit(lease, offsets, metadata, time.monotonic() + _COMMIT_S)
        with self._closing:
            if self._closed:
                raise self._conflict(lease)
            self._queue.put(item)
        await unhurried(item.done)

    async def leave(self) -> None:
        """Leaves the group, so that others get the numbers at once; what runs should have ended before."""
        self._leaving.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _CLOSE_S)

    # The thread

    def _run(self) -> None:
        try:
            while not self._leaving.is_set():
                try:
                    self._be_member()
                except (KafkaException, PlatformError) as error:
                    self.trouble = str(self._told(error) if isinstance(error, KafkaException) else error)
                    _LOG.error("not in the group, tries again: stage=%s wait_s=%.0f error=%s",
                               self._stage, _RECONNECT_S, self.trouble)  # fmt: skip
                    self.joined = False
                    self._drop(list(self._leases.values()))
                    self._leaving.wait(_RECONNECT_S)
        finally:
            self._drop(list(self._leases.values()))
            self._refuse_all()

    def _be_member(self) -> None:
        """From joining to leaving, or to a failure that only a new client gets over."""
        self._fatal = None
        consumer = self._make(self._on_error)
        try:
            consumer.subscribe(
                [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._assignment_lost
            )
            while not self._leaving.is_set():
                message = consumer.poll(0)
                error = message.error() if message is not None else None
                if error is not None:
                    self._heard(error)
                if self._fatal is not None:
                    raise KafkaException(self._fatal)
                self._serve(consumer, _POLL_S)
        finally:
            consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error

    def _heard(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
            return
        told = translate(
            error, self._connection, doing=f"take part in the group of {self._stage}", permission=self._permission
        )
        if str(told) != self.trouble:  # the client goes on trying, and says so each time
            _LOG.warning("no part in the group yet, tries again: stage=%s error=%s", self._stage, told)
        self.trouble = str(told)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Read by others, from committed places: here nothing is fetched.
        consumer.incremental_assign([TopicPartition(at.topic, at.partition, 0) for at in partitions])
        if partitions:
            consumer.pause(partitions)
        new = [Lease(at.partition) for at in partitions if at.partition not in self._leases]
        self._leases.update({lease.number: lease for lease in new})
        self.joined = True
        self.trouble = ""
        self.rebalances += 1
        self._tell(self._holder.granted, new)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leases = self._take(partitions)
        released = self._ask(self._holder.release(leases)) if leases else None
        until_s = time.monotonic() + self._release_s
        while released is not None and not released.done() and time.monotonic() < until_s:
            self._serve(consumer, _RETRY_S)
        for lease in leases:
            lease.end()
        if released is not None and released.done() and not released.cancelled():
            released.result()
        elif released is not None:
            released.cancel()
            self.lost += len(leases)
            _LOG.error("work under way did not end in time, others do it again: stage=%s partitions=%s waited_s=%.0f",
                       self._stage, [lease.number for lease in leases], self._release_s)  # fmt: skip
            self._tell(self._holder.lost, leases)

    def _assignment_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leases = self._take(partitions)
        self.joined = False
        if leases:
            _LOG.warning("the group went on without this process, its work since the last commit is done again: "
                         "stage=%s partitions=%s", self._stage, [lease.number for lease in leases])  # fmt: skip
        self._drop(leases)

    def _take(self, partitions: Sequence[TopicPartition]) -> list[Lease]:
        found = [self._leases.pop(at.partition, None) for at in partitions]
        return [lease for lease in found if lease is not None]

    def _drop(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            lease.end()
            self._leases.pop(lease.number, None)
        self.lost += len(leases)
        if leases:
            self._tell(self._holder.lost, leases)

    def _serve(self, consumer: Consumer, wait_s: float) -> None:
        """Commits what is queued; waits for it up to `wait_s`."""
        wait_s = min(wait_s, max(0.0, self._retry_at_s - time.monotonic())) if self._waiting else wait_s
        try:
            self._waiting.append(self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait())
            while True:
                self._waiting.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        if self._waiting and time.monotonic() >= self._retry_at_s:
            due, self._waiting = self._waiting, []
            self._commit(consumer, due)

    def _commit(self, consumer: Consumer, items: Sequence[_Commit]) -> None:
        """One request for all."""
        for item in items:
            if item.lease.ended:
                item.done.set_exception(self._conflict(item.lease))
        items = [item for item in items if not item.lease.ended]
        if not items:
            return
        offsets = [
            TopicPartition(topic, item.lease.number, offset, metadata=item.metadata)
            for item in items
            for topic, offset in item.offsets.items()
        ]
        began_s = time.monotonic()
        errors: dict[int, KafkaError]
        try:
            answers = consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            errors = dict.fromkeys((item.lease.number for item in items), error_of(error))
        else:
            errors = {answer.partition: answer.error for answer in answers if answer.error is not None}
        now_s = time.monotonic()
        self.last_commit_s = now_s - began_s
        for item in items:
            failure = errors.get(item.lease.number)
            if failure is None:
                self.commits += 1
                item.done.set_result(None)
                continue
            if failure.fatal():
                self._fatal = failure
            if failure.code() not in _MOVING and not retryable(failure):
                item.done.set_exception(self._told(failure))
            elif now_s > item.until_s:
                item.done.set_exception(self._unavailable(failure))
            else:
                self.commit_retries += 1
                self._waiting.append(item)
                self._retry_at_s = now_s + _RETRY_S

    def _refuse_all(self) -> None:
        """Nobody serves the queue any more."""
        with self._closing:
            self._closed = True
        waiting, self._waiting = self._waiting, []
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        for item in waiting:
            item.done.set_exception(self._conflict(item.lease))

    def _conflict(self, lease: Lease) -> Conflict:
        return Conflict(
            f"this process does not own partition {lease.number} of {self._stage} any more; another one goes on with it"
        )

    def _unavailable(self, error: KafkaError) -> Unavailable:
        return Unavailable(f"cannot commit positions of {self._stage}: {error.str()}; it is tried again")

    def _told(self, failure: KafkaException | KafkaError) -> PlatformError:
        return translate(
            failure, self._connection, doing=f"commit positions of {self._stage}",
            permission=self._permission,
        )  # fmt: skip

    def _tell(self, callback: Callable[[Sequence[Lease]], None], leases: Sequence[Lease]) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(callback, leases)

    def _ask(self, call: Coroutine[object, object, None]) -> Future[None] | None:
        if self._loop.is_closed():
            call.close()
            return None
        return asyncio.run_coroutine_threadsafe(call, self._loop)
