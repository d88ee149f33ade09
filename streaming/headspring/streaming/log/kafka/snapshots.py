"""State of stages on a compacted topic, referred to by what a group commits.

A snapshot is written first; then **one** OffsetCommit, which the coordinator writes as one batch, carries both the
input positions and, as metadata, the pointer to the snapshot. The commit is the atomic step: before it the old pair
counts, after it the new one. Use::

    pointer = Pointer.from_metadata(metadata found at the group's commit)       # None at the first start
    state = await snapshots.read(pointer) if pointer else b""
    ...
    new = await snapshots.write(group, partition, generation, state, after=pointer)
    commit the positions of all inputs with metadata new.to_metadata()          # in one request
    await snapshots.retire(pointer, by=new)                                     # what no pointer can name any more
    pointer = new

`generation` is a number that no other writer of the same (group, partition) ever used or will use, larger than those
before it: a lease's or a group's epoch. Keys hold it, so a writer that was fenced off, but does not know it yet,
writes under keys of its own and cannot have compaction remove what the new owner refers to. Within a generation
snapshots alternate between two slots, so the one that the commit refers to stays until the next commit has happened.
A commit that was *refused* leaves a snapshot that nothing refers to: `discard` it. One whose outcome is unknown may
have happened: read the commit again, and go on from what it says.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from headspring.proto.errors import ContractError, NotFound
from headspring.streaming.log.kafka.cluster import Cluster
from headspring.streaming.log.kafka.fetch import fetch
from headspring.streaming.log.kafka.producer import Batch, KafkaProducer
from headspring.streaming.log.kafka.records import Outbound

TOPIC = "headspring.state"
CHUNK_BYTES = 4 * 1024 * 1024
"""A snapshot is cut into records of this size."""
_CHUNKS_AT_ONCE = 2
"""Chunks handed to the producer together; other appends find room between them."""
_MARK = "headspring-state "
_NOW = 0
"""The client stamps the record."""
_SEPARATOR = "\x1f"
_KEY_PARTS = 5
"""Group, partition, generation, slot, chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Where a snapshot is, and what it must be."""

    group: str
    partition: int
    """What the state belongs to: a partition of the group's inputs, or 0 where a group has one state for all."""
    generation: int
    slot: int
    """0 or 1."""
    place: int
    """The partition of the snapshots' topic that holds it."""
    first: int
    last: int
    """Offsets of its first and last chunk; records of others may lie between."""
    chunks: int
    """0 for an empty state, which is nowhere."""
    size_bytes: int
    sha256: str

    def to_metadata(self) -> str:
        """Text for a commit's metadata, below 400 characters; brokers take 4096."""
        return _MARK + json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_metadata(cls, metadata: str) -> Pointer | None:
        """None for metadata of others, such as "" after a reset by hand.

        Raises:
            ContractError: it is marked as ours and cannot be read.
        """
        if not metadata.startswith(_MARK):
            return None
        try:
            return cls(**json.loads(metadata.removeprefix(_MARK)))
        except (ValueError, TypeError) as error:
            raise ContractError(f"a commit's metadata is no pointer to a snapshot: {metadata[:200]!r}") from error

    def chunk_keys(self) -> tuple[bytes, ...]:
        """The records' keys, in order."""
        return _keys(self.group, self.partition, self.generation, self.slot, self.chunks)


class Snapshots:
    """See the module. Any number of tasks, one at a time for each (group, partition)."""

    def __init__(self, producer: KafkaProducer, cluster: Cluster, *, topic: str, partitions: int, reader: str) -> None:
        """
        Args:
            topic: Kafka's name of the snapshots' topic, and
            partitions: how many it has.
            reader: Group id that reads are made under; it commits nothing.
        """
        self._producer = producer
        self._cluster = cluster
        self._connection = cluster.connection
        self._topic = topic
        self._partitions = partitions
        self._reader = reader
        self._superseded: dict[tuple[str, int], Pointer] = {}

    async def write(
        self, group: str, partition: int, generation: int, state: bytes, *, after: Pointer | None
    ) -> Pointer:
        """Durable on return, and of no effect until a commit refers to it.

        Args:
            after: What the group's commit refers to now; the new snapshot takes the other slot.

        Raises:
            Unavailable: Kafka did not take it in time.
        """
        slot = 1 - after.slot if after is not None and after.generation == generation else 0
        place = zlib.crc32(_owner(group, partition).encode()) % self._partitions
        chunks = -(-len(state) // CHUNK_BYTES)
        offsets: list[int] = []
        keys = _keys(group, partition, generation, slot, chunks)
        for start in range(0, chunks, _CHUNKS_AT_ONCE):
            few = {
                keys[number]: state[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
                for number in range(start, min(chunks, start + _CHUNKS_AT_ONCE))
            }
            offsets += await self._append(place, few)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(state).hexdigest())
        return Pointer(
            group=group, partition=partition, generation=generation, slot=slot, place=place,
            first=min(offsets, default=0), last=max(offsets, default=0), chunks=chunks, size_bytes=len(state),
            sha256=digest,
        )  # fmt: skip

    async def read(self, pointer: Pointer) -> bytes:
        """The state it was written from.

        Raises:
            NotFound: it is not there any more: another commit has happened since the pointer was read.
            ContractError: what is there is not what was written.
            Unavailable: Kafka cannot be read now.
        """
        return await asyncio.to_thread(self._read, pointer)

    async def retire(self, pointer: Pointer | None, *, by: Pointer) -> None:
        """The commit that refers to `by` has happened. Removes what was superseded the time before: a commit that the
        network held up may still bring `pointer` back for a moment."""
        owner = (by.group, by.partition)
        older = self._superseded.pop(owner, None)
        if pointer is not None:
            self._superseded[owner] = pointer
        if older is not None:
            spare = set(by.chunk_keys()) | set(pointer.chunk_keys() if pointer is not None else ())
            await self._remove(older.place, [key for key in older.chunk_keys() if key not in spare])

    async def discard(self, pointer: Pointer) -> None:
        """Removes a snapshot whose commit was refused."""
        await self._remove(pointer.place, pointer.chunk_keys())

    async def sweep(self) -> int:
        """Removes what crashes left behind; how many records. Reads the whole topic: once a day is plenty.

        A writer takes slot 1 only after a commit has referred to its slot 0. So where a generation has used slot 1,
        nothing of the generations before it can be referred to any more.
        """
        oldest, ends = await asyncio.gather(
            self._cluster.oldest(self._topic, range(self._partitions)),
            self._cluster.ends(self._topic, range(self._partitions)),
        )
        removed = 0
        for place in range(self._partitions):
            spare = await asyncio.to_thread(self._superseded_keys, place, oldest[place], ends[place])
            await self._remove(place, spare)
            removed += len(spare)
        return removed

    def _superseded_keys(self, place: int, first: int, end: int) -> list[bytes]:
        live: dict[tuple[str, str], dict[bytes, int]] = {}
        proven: dict[tuple[str, str], int] = {}
        for message in fetch(self._connection, self._topic, {place: (first, end)}, group=self._reader):
            key = message.key() or b""
            parts = key.decode(errors="replace").split(_SEPARATOR)
            if len(parts) != _KEY_PARTS or not parts[2].isdecimal():
                continue  # somebody else's
            owner, generation, slot = (parts[0], parts[1]), int(parts[2]), parts[3]
            if slot == "1":
                proven[owner] = max(proven.get(owner, 0), generation)
            if message.value() is None:
                live.get(owner, {}).pop(key, None)
            else:
                live.setdefault(owner, {})[key] = generation
        return [
            key for owner, keys in live.items() for key, generation in keys.items() if generation < proven.get(owner, 0)
        ]

    async def _append(self, place: int, values: Mapping[bytes, bytes | None]) -> list[int]:
        messages = [Outbound(place, key, value, [], _NOW) for key, value in values.items()]
        size = sum(len(key) + len(value or b"") for key, value in values.items())
        while True:
            first, last = (await self._producer.append(Batch(self._topic, messages, size)))[place]
            if first >= 0:
                return [first, last]
            # It is there, but where was not told: written once more under the same keys, it is known.

    async def _remove(self, place: int, keys: Sequence[bytes]) -> None:
        if keys:
            await self._append(place, dict.fromkeys(keys))

    def _read(self, pointer: Pointer) -> bytes:
        wanted = {key: number for number, key in enumerate(pointer.chunk_keys())}
        found: dict[int, bytes] = {}
        if wanted:
            ranges = {pointer.place: (pointer.first, pointer.last + 1)}
            for message in fetch(self._connection, self._topic, ranges, group=self._reader):
                number = wanted.get(message.key() or b"")
                value = message.value()
                if number is not None and value is not None:
                    found[number] = value
        if len(found) < pointer.chunks:
            raise NotFound(
                f"the snapshot of {_owner(pointer.group, pointer.partition)} that its commit refers to has "
                f"{len(found)} of {pointer.chunks} parts left on topic {self._topic}; was it written by a newer owner "
                "since, or the topic changed by hand?"
            )
        state = b"".join(found[number] for number in range(pointer.chunks))
        digest = hashlib.sha256(state).hexdigest()
        if len(state) != pointer.size_bytes or digest != pointer.sha256:
            raise ContractError(
                f"the snapshot of {_owner(pointer.group, pointer.partition)} on topic {self._topic} has "
                f"{len(state)} bytes of sha256 {digest}; its commit says {pointer.size_bytes} of {pointer.sha256}"
            )
        return state


def _owner(group: str, partition: int) -> str:
    return f"{group}/{partition}"


def _keys(group: str, partition: int, generation: int, slot: int, chunks: int) -> tuple[bytes, ...]:
    start = _SEPARATOR.join((group, str(partition), str(generation), str(slot)))
    return tuple(f"{start}{_SEPARATOR}{number}".encode() for number in range(chunks))
