"""What a runner sees of Kafka: one partition number of every input, and the state that belongs to it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from headspring.proto.errors import Conflict, NotFound, PlatformError
from headspring.streaming.engine.kafka.ground import Ground
from headspring.streaming.engine.kafka.inbox import Inbox
from headspring.streaming.engine.kafka.membership import Lease, Membership
from headspring.streaming.engine.kafka.reader import Reader
from headspring.streaming.log.kafka.snapshots import Pointer
from headspring.streaming.log.port import Record, StoredRecord

_LOG = logging.getLogger(__name__)
_COMMITTED_S = 5.0
_REFRESH_S = 6 * 3600.0
"""Kafka forgets positions of topics that the group does not subscribe to a week after their commit (the broker's
`offsets.retention.minutes`), so they are committed again even where nothing happens."""
_LOOKS = 3
"""Reads of a commit and its snapshot, before a snapshot that is not there is an error."""


@dataclass(slots=True)
class _Committed:
    """What the group's coordinator knows of a number."""

    positions: dict[str, int]
    """Our name of the topic → next offset."""
    pointer: Pointer | None


class PartitionLog:
    """`StatefulLog` for one runner, under one lease. One task at a time, but for `refresh`."""

    def __init__(
        self, ground: Ground, reader: Reader, membership: Membership, lease: Lease, *, stage: str,
        topics: Mapping[str, str],
    ) -> None:  # fmt: skip
        """
        Args:
            ground: Where it writes, and keeps snapshots.
            reader: Of the stage.
            membership: Of the stage.
            lease: The number, and for how long.
            stage: Its name, which is the group's.
            topics: Our name of each input → Kafka's, in the stage's order.
        """
        self._log = ground.log
        self._snapshots = ground.snapshots
        self._group = ground.group(stage)
        self._reader = reader
        self._membership = membership
        self._lease = lease
        self._stage = stage
        self._topics = dict(topics)
        self._committed = _Committed({}, None)
        self._committed_s = time.monotonic()
        self._inboxes: dict[str, Inbox] = {}
        self._one_commit = asyncio.Lock()
        self._generation = 0
        self._predecessor: Pointer | None = None
        """What the owner before us left; its other snapshot goes after our first commit."""
        self._retiring: asyncio.Task[None] | None = None

    async def committed_before(self) -> bool:
        """Whether the group has ever committed anything for the number.

        Raises:
            Conflict: the lease has ended.
            PlatformError: it cannot be read now.
        """
        return bool((await self._load()).positions)

    async def first_record(self) -> None:
        """Returns when there is a record in any of the inputs, or a failure that a runner should meet."""
        for topic in self._topics:
            self._open(topic, OFFSET_BEGINNING)
        waits = [asyncio.create_task(inbox.arrived.wait()) for inbox in self._inboxes.values()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def lag(self) -> int:
        """Records of all inputs that are known and were not taken."""
        return sum(inbox.lag() for inbox in self._inboxes.values())

    async def refresh(self) -> None:
        """Commits again what was committed long ago."""
        if self._committed.positions and time.monotonic() - self._committed_s > _REFRESH_S:
            async with self._one_commit:
                await self._commit(self._committed)

    async def finish(self) -> None:
        """Ends what still goes on beside the runner."""
        for inbox in self._inboxes.values():
            inbox.close()
        if self._retiring is not None:
            await asyncio.wait((self._retiring,))

    # StatefulLog

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        await self._log.append(topic, records)

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> InboxConsumer:
        """Reads the number's partition from where the state that was loaded last has it, else from the oldest
        record."""
        del group, latest  # one group, and a runner never asks for less than all
        position = self._committed.positions.get(topic, OFFSET_BEGINNING)
        inbox = self._inboxes.get(topic)
        if inbox is None or not inbox.fresh or inbox.start != position:
            inbox = self._open(topic, position)
        return InboxConsumer(self, inbox)

    async def load_state(self, group: str) -> bytes:
        """
        Raises:
            Conflict: the lease has ended.
            PlatformError: commit or snapshot cannot be read.
        """
        del group
        for look in range(_LOOKS):
            committed = await self._load()
            try:
                return await self._snapshots.read(committed.pointer) if committed.pointer is not None else b""
            except NotFound:
                # Rewritten between the two reads, by a commit of ours whose outcome was not known.
                if look == _LOOKS - 1:
                    raise
        raise AssertionError("unreachable")

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        """The positions of all inputs and the pointer to the state, in one commit; durable on return.

        Raises:
            Conflict: the lease has ended; nothing was committed.
            PlatformError: Kafka did not take it; whether it was committed is not known.
        """
        del group
        async with self._one_commit:
            before = self._committed
            moved = {topic: per[self._lease.number] for topic, per in positions.items()}
            # Every commit names every input, so that a group's view is whole, and none grows old.
            wanted = _Committed({**dict.fromkeys(self._topics, 0), **before.positions, **moved}, before.pointer)
            if state is not None:
                wanted.pointer = await self._write(state, before.pointer)
            try:
                await self._commit(wanted)
            except Conflict:
                if state is not None and wanted.pointer is not None:
                    await self._discard(wanted.pointer)
                raise
            if state is not None and wanted.pointer is not None:
                self._retiring = asyncio.create_task(self._retire(before.pointer, wanted.pointer))

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        return await self._log.latest_by_key(topic)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return await self._log.end_offsets(topic)

    async def close(self) -> None:
        """The log stays open: it is the engine's."""

    # Inside

    def _open(self, topic: str, position: int) -> Inbox:
        inbox = self._inboxes[topic] = self._reader.open(topic, self._lease.number, position)
        return inbox

    async def _load(self) -> _Committed:
        if self._lease.ended:
            raise Conflict(f"this process does not own partition {self._lease.number} of {self._stage} any more")
        wanted = [TopicPartition(topic, self._lease.number) for topic in self._topics.values()]

        def ask(consumer: Consumer) -> list[TopicPartition]:
            return consumer.committed(wanted, _COMMITTED_S)

        found = await self._reader.ask(
            ask, doing=f"read positions of {self._stage}", permission=f"Read on group {self._group}"
        )
        ours = {theirs: topic for topic, theirs in self._topics.items()}
        positions = {ours[at.topic]: at.offset for at in found if at.offset >= 0}
        pointers = [Pointer.from_metadata(at.metadata or "") for at in found if at.offset >= 0]
        # One commit wrote them all; should somebody have set single positions back by hand, the newest state counts.
        pointer = max(
            (pointer for pointer in pointers if pointer is not None), key=lambda one: one.generation, default=None
        )
        self._committed = _Committed(positions, pointer)
        if not self._generation:
            previous = pointer.generation if pointer is not None else 0
            self._generation = max(previous + 1, (time.time_ns() // 1_000_000) << 16) + secrets.randbits(16)
            self._predecessor = pointer
        return self._committed

    async def _write(self, state: bytes, after: Pointer | None) -> Pointer:
        if self._retiring is not None:
            await asyncio.wait((self._retiring,))  # one at a time for each number
        return await self._snapshots.write(self._group, self._lease.number, self._generation, state, after=after)

    async def _commit(self, wanted: _Committed) -> None:
        metadata = wanted.pointer.to_metadata() if wanted.pointer is not None else ""
        offsets = {self._topics[topic]: offset for topic, offset in wanted.positions.items()}
        await self._membership.commit(self._lease, offsets, metadata)
        self._committed = wanted
        self._committed_s = time.monotonic()

    async def _retire(self, before: Pointer | None, by: Pointer) -> None:
        predecessor, self._predecessor = self._predecessor, None
        try:
            await self._snapshots.retire(before, by=by)
            if predecessor is not None:
                # Two commits old: the predecessor did not live to remove it.
                await self._snapshots.discard(replace(predecessor, slot=1 - predecessor.slot))
        except PlatformError as error:
            _LOG.info("an old snapshot stays for now: stage=%s partition=%d error=%s",
                      self._stage, self._lease.number, error)  # fmt: skip

    async def _discard(self, pointer: Pointer) -> None:
        try:
            await self._snapshots.discard(pointer)
        except PlatformError as error:
            _LOG.info("a snapshot that nothing refers to stays: stage=%s partition=%d error=%s",
                      self._stage, self._lease.number, error)  # fmt: skip


class InboxConsumer:
    """`Consumer` of one partition. One task at a time."""

    def __init__(self, log: PartitionLog, inbox: Inbox) -> None:
        self._log = log
        self._inbox = inbox

    async def poll(self, *, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
        return await self._inbox.take(max_records, max_wait_s)

    def positions(self) -> Mapping[int, int]:
        return {self._inbox.partition: self._inbox.position}

    async def commit(self, positions: Mapping[int, int]) -> None:
        await self._log.commit_with_state("", {self._inbox.topic: positions})

    async def seek(self, positions: Mapping[int, int]) -> None:
        if self._inbox.partition in positions:
            self._inbox = self._inbox.reopened(positions[self._inbox.partition])

    def lag(self) -> int:
        return self._inbox.lag()

    async def close(self) -> None:
        self._inbox.close()
