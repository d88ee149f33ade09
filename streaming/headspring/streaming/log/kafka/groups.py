"""What groups have committed: positions, and the pointer to the snapshot that belongs to them.

The pointer is the metadata of one more place in the same OffsetCommit, the group's *anchor*: a partition of the
snapshots' topic, whose own offset means nothing. So a group has one pointer however many topics it reads, also before
it has read any, and a commit of positions alone leaves it as it is.

Kafka forgets a position `offsets.retention.minutes` (a week by default) after it was last committed, one by one where
no member has joined the group. So every commit names all that this process owns, and what did not move is
committed again now and then.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headspring.proto.clock import Clock
from headspring.proto.errors import NotFound, PlatformError
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.coordinator import Committed, Coordinator, Place
from headspring.streaming.log.kafka.snapshots import Pointer, Snapshots

_LOG = logging.getLogger(__name__)
_LOADS = 3
"""Tries to read a snapshot while its owner commits newer ones."""


@dataclass(slots=True)
class _Group:
    coordinator: Coordinator
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One commit at a time."""
    owned: dict[Place, int] = field(default_factory=dict)
    """Positions that this process commits for the group, as last committed."""
    known: bool = False
    """The pointer below is what the commit says."""
    pointer: Pointer | None = None
    generation: int = 0


class Groups:
    """By Kafka's names of groups and topics. Any number of tasks."""

    def __init__(
        self,
        connection: KafkaConnection,
        snapshots: Snapshots,
        *,
        state_topic: str,
        state_partitions: int,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._snapshots = snapshots
        self._state_topic = state_topic
        self._state_partitions = state_partitions
        self._clock = clock
        self._groups: dict[str, _Group] = {}

    async def positions(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """What the group has committed for a topic, partition → next offset; without those it has not."""
        committed = await self._of(group).coordinator.committed([(topic, partition) for partition in partitions])
        return {partition: one.offset for (_, partition), one in committed.items()}

    def own(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """From now on commits of the group name these too, until `disown`."""
        self._of(group).owned |= {(topic, partition): offset for partition, offset in positions.items()}

    def disown(self, group: str, topic: str, partitions: Iterable[int]) -> None:
        owned = self._of(group).owned
        for partition in partitions:
            owned.pop((topic, partition), None)

    async def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Durable on return; the group's snapshot stays."""
        await self.commit_with_state(group, {(topic, partition): at for partition, at in positions.items()}, None)

    async def commit_with_state(self, group: str, positions: Mapping[Place, int], state: bytes | None) -> None:
        """Positions and snapshot in one step, durable on return; `state` None keeps the snapshot.

        Raises:
            Unavailable: it may have happened or not.
        """
        one = self._of(group)
        async with one.lock:
            before = await self._know(group, one)
            if state is None:
                await self._commit(group, one, positions, before)
                return
            if not one.generation:
                one.generation = max(self._clock.now_ns(), before.generation + 1 if before is not None else 1)
            pointer = await self._snapshots.write(group, 0, one.generation, state, after=before)
            await self._commit(group, one, positions, pointer)
            try:
                await self._snapshots.retire(before, by=pointer)
            except PlatformError as error:
                _LOG.warning("an old snapshot stays until the next sweep: group=%s error=%s", group, error)

    async def load_state(self, group: str) -> bytes:
        """The group's snapshot; b"" if it never committed one."""
        one = self._of(group)
        async with one.lock:
            for tries in range(_LOADS):
                one.known, one.generation = False, 0
                pointer = await self._know(group, one)
                if pointer is None:
                    return b""
                try:
                    return await self._snapshots.read(pointer)
                except NotFound:
                    if tries == _LOADS - 1:
                        raise
        return b""

    async def keep_alive(self) -> None:
        """Commits again what this process owns and was not moved for long."""
        for name, group in list(self._groups.items()):
            async with group.lock:
                if group.owned:
                    await self._commit(name, group, {}, await self._know(name, group))

    async def close(self) -> None:
        """Lets the coordinators go."""
        await asyncio.gather(*(group.coordinator.close() for group in self._groups.values()))

    async def _commit(self, name: str, group: _Group, positions: Mapping[Place, int], pointer: Pointer | None) -> None:
        wanted = {place: Committed(at) for place, at in {**group.owned, **positions}.items()}
        if pointer is not None:
            wanted[self._anchor(name)] = Committed(pointer.last, pointer.to_metadata())
        if not wanted:
            return
        group.known = False  # should it fail, it may still have happened: the next one looks first
        await group.coordinator.commit(wanted)
        group.owned |= {place: at for place, at in positions.items() if place in group.owned}
        group.pointer, group.known = pointer, True

    async def _know(self, name: str, group: _Group) -> Pointer | None:
        """The pointer that counts; after a failure, what this process owns is looked up too."""
        if not group.known:
            committed = await group.coordinator.committed([self._anchor(name), *group.owned])
            anchor = committed.get(self._anchor(name))
            group.pointer = Pointer.from_metadata(anchor.metadata) if anchor is not None else None
            group.owned |= {place: committed[place].offset for place in group.owned if place in committed}
            group.known = True
        return group.pointer

    def _anchor(self, group: str) -> Place:
        return self._state_topic, zlib.crc32(group.encode()) % self._state_partitions

    def _of(self, group: str) -> _Group:
        if group not in self._groups:
            self._groups[group] = _Group(Coordinator(self._connection.named("commit"), group))
        return self._groups[group]
