"""The event log on Kafka.

Topics are as `headspring.proto.topics` says and records go to the partition that `partition_of` says, so whoever reads
several topics owns one number of all of them. Appends are idempotent and acknowledged by all replicas in sync; what a
group has committed, and the snapshot that belongs to it, change in one step (`groups`, `snapshots`).

Times: waits are real, whatever the clock; the clock only makes the numbers of snapshot writers grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta

from headspring.proto import tracing
from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError, PlatformError, Rejected, Unavailable
from headspring.proto.topics import BY_NAME, TOPICS
from headspring.streaming.log.compaction import newest_by_key
from headspring.streaming.log.frames import record_bytes
from headspring.streaming.log.kafka import snapshots
from headspring.streaming.log.kafka.cluster import Cluster, connect
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.consumer import KafkaConsumer
from headspring.streaming.log.kafka.fetch import fetch
from headspring.streaming.log.kafka.groups import Groups
from headspring.streaming.log.kafka.producer import HEADROOM_BYTES, Batch, KafkaProducer, ProducerStats
from headspring.streaming.log.kafka.reader import Reader
from headspring.streaming.log.kafka.records import outbound, stored
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.kafka.snapshots import Snapshots
from headspring.streaming.log.kafka.topics import Plan, ensure, plan, state_plan
from headspring.streaming.log.port import Record, StoredRecord

_LOG = logging.getLogger(__name__)
_TOPIC = re.compile(r"^[a-z0-9][a-z0-9._-]{0,199}$")
_PREFIX = re.compile(r"^([a-z0-9][a-z0-9._-]{0,39})?$")
_LOOK_S = 5.0
"""Between looks at the ends of the topics that are read, for lag."""
_SWEEP_S = 24 * 3600.0
"""Between sweeps of the snapshots' topic."""
_KEEP_ALIVE_S = 6 * 3600.0
"""Between repeated commits of positions that did not move; brokers forget them after a week, some after a day."""
_CREATE_S = 30.0
"""For `append_threadsafe` to a topic that is not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaLogStats:
    """What the log has done since it was opened, and what lies before its consumers."""

    producer: ProducerStats
    lag: Mapping[tuple[str, str], int]
    """(group, topic) → records that its open consumers here have not polled."""


class KafkaLog:
    """`EventLog` on Kafka. Also `append_threadsafe` for worker threads and `commit_with_state` for engines."""

    def __init__(
        self, connection: KafkaConnection, cluster: Cluster, *, clock: Clock, partitions: int, replication: int,
        min_insync: int, prefix: str, schema: Schema, max_record_bytes: int, producer: KafkaProducer,
        known: Collection[str],
    ) -> None:  # fmt: skip
        """Use `open`."""
        self._connection = connection
        self._partitions = partitions
        self._schema = schema
        self._cluster = cluster
        self._replication = replication
        self._min_insync = min_insync
        self._prefix = prefix
        self._max_record_bytes = max_record_bytes
        self._producer = producer
        self._known = set(known)
        self._making = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        state_topic = self._name(snapshots.TOPIC)
        self.snapshots = Snapshots(
            producer, cluster, topic=state_topic, partitions=partitions, reader=self._name("reader")
        )
        """For engines that keep one state for each partition of a group."""
        self._groups = Groups(
            connection, self.snapshots, state_topic=state_topic, state_partitions=partitions, clock=clock
        )
        self._consumers: set[KafkaConsumer] = set()
        self._closed = False
        self._upkeep = self._loop.create_task(self._maintain_forever(), name="kafka-log-upkeep")

    @classmethod
    async def open(
        cls,
        connection: KafkaConnection,
        *,
        clock: Clock,
        partitions: int = 12,
        replication: int = 3,
        min_insync: int | None = None,
        prefix: str = "",
        reads: Collection[str] | None = None,
        writes: Collection[str] | None = None,
        schema: Schema = Schema(),  # noqa: B008 — frozen
        max_record_bytes: int = 24 * 1024 * 1024,
        buffer_bytes: int = 64 * 1024 * 1024,
        delivery_timeout: timedelta = timedelta(seconds=30),
        room_timeout: timedelta = timedelta(seconds=5),
        compression: str = "lz4",
    ) -> KafkaLog:
        """Connects, and makes or checks the topics of the map.

        Args:
            connection: Where, and who signs in.
            clock: Numbers the writers of snapshots.
            partitions: Of every topic. It cannot be changed later.
            replication: Copies of every topic; fewer only for trying it out.
            min_insync: Copies that must have a record before it is acknowledged; None for one less than all, at
                least 1.
            prefix: Before the name of every topic and group, so that several installations share a cluster.
            reads, writes: Topics of the map that this process uses; None for all. Only these are made, checked and
                asked permissions for.
            schema: Versions of our messages that are read and written.
            max_record_bytes: Larger records are rejected.
            buffer_bytes: Bound for appends that are not acknowledged.
            delivery_timeout: An append that is not acknowledged by then fails with `Unavailable`.
            room_timeout: How long an append waits for room in the buffer before it does.
            compression: `lz4`, `zstd` or `none`.

        Raises:
            ConfigError: no Kafka answers there, it does not let us in, it is too old, a permission is missing, or a
                topic is otherwise; each says what was found, what was wanted and what to do.
            Unavailable: the cluster is there and cannot serve now.
        """
        if partitions < 1 or replication < 1:
            raise ConfigError(f"kafka.partitions is {partitions} and kafka.replication {replication}; wanted 1 or more")
        if not _PREFIX.match(prefix):
            raise ConfigError(f"kafka.prefix is {prefix!r}; wanted at most 40 lower-case letters, digits, dots, dashes")
        least = max(1, replication - 1) if min_insync is None else min_insync
        if not 1 <= least <= replication:
            raise ConfigError(f"kafka.min_insync is {least}; wanted 1 to kafka.replication, which is {replication}")
        cluster = await asyncio.to_thread(connect, connection)
        every = [topic.name for topic in TOPICS]
        read, written = every if reads is None else reads, every if writes is None else writes
        names = list(dict.fromkeys([*read, *written]))
        plans = [
            plan(
                prefix + name, BY_NAME.get(name), partitions=partitions, replication=replication, min_insync=least,
                max_message_bytes=max_record_bytes + HEADROOM_BYTES,
            )
            for name in names
        ]  # fmt: skip
        state = state_plan(
            prefix + snapshots.TOPIC, partitions=partitions, replication=replication, min_insync=least,
            max_message_bytes=snapshots.CHUNK_BYTES + HEADROOM_BYTES,
        )  # fmt: skip
        await ensure(
            cluster, [*plans, state],
            reads={*(prefix + name for name in read), state.name},
            writes={*(prefix + name for name in written), state.name},
        )  # fmt: skip
        producer = KafkaProducer(
            connection, buffer_bytes=buffer_bytes, max_record_bytes=max_record_bytes,
            delivery_timeout_s=delivery_timeout.total_seconds(), room_timeout_s=room_timeout.total_seconds(),
            compression=compression,
        )  # fmt: skip
        return cls(
            connection, cluster, clock=clock, partitions=partitions, replication=replication, min_insync=least,
            prefix=prefix, schema=schema, max_record_bytes=max_record_bytes, producer=producer, known=names,
        )  # fmt: skip

    # EventLog

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        """Acknowledged by the replicas in sync on return. See `EventLog` for the errors."""
        if not records:
            return
        batch = self._batch(topic, records)
        await self._ensure(topic)
        await self._producer.append(batch)

    def append_threadsafe(self, topic: str, records: Sequence[Record]) -> Future[None]:
        """`append` for any thread: acknowledged once the future is done. Order is the order of these calls.

        Raises:
            Rejected: a record is over the size limit, or the topic's name cannot be used.
            Unavailable: closed, or too much is not acknowledged yet.
        """
        batch = self._batch(topic, records)
        done: Future[None] = Future()
        if topic not in self._known:
            self._make_from_thread(topic)
        if not records:
            done.set_result(None)
            return done

        def finished(placed: Future[Mapping[int, tuple[int, int]]]) -> None:
            error = placed.exception()
            if done.set_running_or_notify_cancel():
                done.set_result(None) if error is None else done.set_exception(error)

        self._producer.append_threadsafe(batch).add_done_callback(finished)
        return done

    async def consumer(
        self, topic: str, group: str, *, latest: bool = False, partitions: Collection[int] | None = None
    ) -> KafkaConsumer:
        """A member of `group`; nobody else should read these partitions for it.

        Args:
            partitions: Which ones; None for all.
        """
        self._check_open()
        await self._ensure(topic)
        name, kafka_group = self._name(topic), self._name(group)
        wanted = sorted(range(self._partitions) if partitions is None else partitions)
        committed, oldest, ends = await asyncio.gather(
            self._groups.positions(kafka_group, name, wanted), self._cluster.oldest(name, wanted),
            self._cluster.ends(name, wanted),
        )  # fmt: skip
        starts: dict[int, int] = {}
        for partition in wanted:
            start = committed.get(partition, ends[partition] if latest else oldest[partition])
            if start > ends[partition]:
                _LOG.warning(
                    "a group is beyond the end of its partition, which was made anew or lost its tail; it starts at "
                    "the oldest record: group=%s topic=%s partition=%d committed=%d end=%d",
                    kafka_group, name, partition, start, ends[partition],
                )  # fmt: skip
                start = 0
            starts[partition] = max(start, oldest[partition])
        if latest and any(partition not in committed for partition in wanted):
            # Without this a crash before the first commit would make "latest" a later place.
            await self._groups.commit(kafka_group, name, starts)
        reader = Reader(
            self._connection.named(group), topic=topic, name=name, group=kafka_group, starts=starts,
            schema=self._schema,
        )  # fmt: skip
        consumer = KafkaConsumer(
            reader, topic=topic, group=group, starts=starts,
            commit=lambda positions: self._groups.commit(kafka_group, name, positions),
            own_end=lambda partition: self._producer.end(name, partition),
            closed=self._forget,
        )  # fmt: skip
        consumer.saw_ends(ends)
        self._groups.own(kafka_group, name, starts)
        self._consumers.add(consumer)
        return consumer

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        """The newest record of every key, per partition in offset order; reads the whole topic."""
        self._check_open()
        await self._ensure(topic)
        name, every = self._name(topic), range(self._partitions)
        oldest, ends = await asyncio.gather(self._cluster.oldest(name, every), self._cluster.ends(name, every))

        def read() -> list[StoredRecord]:
            ranges = {partition: (oldest[partition], ends[partition]) for partition in every}
            messages = fetch(self._connection, name, ranges, group=self._name("reader"))
            newest = newest_by_key(record for message in messages for record in stored(topic, [message], self._schema))
            return sorted(
                (item for item in newest.values() if item.record.value), key=lambda item: (item.partition, item.offset)
            )

        return await asyncio.to_thread(read)

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        await self._ensure(topic)
        return await self._cluster.ends(self._name(topic), range(self._partitions))

    async def offsets_at(self, topic: str, time_ns: int) -> Mapping[int, int]:
        """Per partition, where to `seek` for all records stamped `time_ns` or later, and as few before as there can
        be: the offset of the first one stamped in that millisecond or later, the end where there is none."""
        await self._ensure(topic)
        return await self._cluster.at_time(self._name(topic), range(self._partitions), max(0, time_ns // 1_000_000))

    async def close(self) -> None:
        """Sends what was handed over, and lets the cluster go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._upkeep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._upkeep
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await self._groups.close()
        await self._producer.close()
        await self._cluster.close()

    # For engines

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        """Positions (topic → partition → next offset) and the group's snapshot in one step, durable on return;
        `state` None keeps the snapshot. For groups that one process serves: see `Snapshots` for others."""
        self._check_open()
        places = {
            (self._name(topic), partition): offset
            for topic, by_partition in positions.items()
            for partition, offset in by_partition.items()
        }
        await self._groups.commit_with_state(self._name(group), places, state)

    async def load_state(self, group: str) -> bytes:
        """The group's snapshot; b"" if it never committed one."""
        self._check_open()
        return await self._groups.load_state(self._name(group))

    @property
    def connection(self) -> KafkaConnection:
        return self._connection

    @property
    def cluster(self) -> Cluster:
        return self._cluster

    @property
    def partitions(self) -> int:
        """Of every topic."""
        return self._partitions

    @property
    def schema(self) -> Schema:
        return self._schema

    def kafka_name(self, name: str) -> str:
        """Kafka's name of a topic or group of ours."""
        return self._prefix + name

    def stats(self) -> KafkaLogStats:
        lag: dict[tuple[str, str], int] = {}
        for consumer in self._consumers:
            lag[consumer.group, consumer.topic] = lag.get((consumer.group, consumer.topic), 0) + consumer.lag()
        return KafkaLogStats(producer=self._producer.stats(), lag=lag)

    # Inside

    def _name(self, name: str) -> str:
        return self._prefix + name

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the log is closed")

    def _batch(self, topic: str, records: Sequence[Record]) -> Batch:
        if not _TOPIC.match(topic):
            raise Rejected(f"{topic!r} is no topic name; wanted lower-case letters, digits, dots and dashes")
        self._check_open()
        context = tracing.carrier()
        if context:
            records = [replace(record, headers={**context, **record.headers}) for record in records]
        messages = outbound(topic, records, partitions=self._partitions, schema=self._schema)
        size = 0
        for record in records:
            need = record_bytes(record)
            if need > self._max_record_bytes:
                raise Rejected(
                    f"a record of {need} bytes for {topic} is over the limit of {self._max_record_bytes} bytes"
                )
            size += need
        return Batch(self._name(topic), messages, size)

    async def _ensure(self, topic: str) -> None:
        """Topics that were not made at start are made at their first use."""
        if topic in self._known:
            return
        if not _TOPIC.match(topic):
            raise Rejected(f"{topic!r} is no topic name; wanted lower-case letters, digits, dots and dashes")
        async with self._making:
            if topic not in self._known:
                await ensure(self._cluster, [self._plan(topic)])
                self._known.add(topic)

    def _plan(self, topic: str) -> Plan:
        return plan(
            self._name(topic), BY_NAME.get(topic), partitions=self._partitions, replication=self._replication,
            min_insync=self._min_insync, max_message_bytes=self._max_record_bytes + HEADROOM_BYTES,
        )  # fmt: skip

    def _make_from_thread(self, topic: str) -> None:
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise Rejected(f"topic {topic} is not there yet, and only `append` makes it from the event loop")
        try:
            asyncio.run_coroutine_threadsafe(self._ensure(topic), self._loop).result(_CREATE_S)
        except TimeoutError as error:
            raise Unavailable(f"topic {topic} could not be made within {_CREATE_S:g} s") from error

    def _forget(self, consumer: KafkaConsumer) -> None:
        self._consumers.discard(consumer)
        self._groups.disown(self._name(consumer.group), self._name(consumer.topic), consumer.positions())

    async def _maintain_forever(self) -> None:
        kept_s = swept_s = time.monotonic()
        failing = False
        while True:
            await asyncio.sleep(_LOOK_S)
            self._cluster.admin.poll(0)  # serves what the client has to say; unserved it would pile up
            try:
                await self._look_at_ends()
                if time.monotonic() - kept_s > _KEEP_ALIVE_S:
                    kept_s = time.monotonic()
                    await self._groups.keep_alive()
                if time.monotonic() - swept_s > _SWEEP_S:
                    swept_s = time.monotonic()
                    await self.snapshots.sweep()
            except PlatformError as error:
                if not failing:  # once for each outage
                    _LOG.warning("kafka upkeep failed and goes on trying: error=%s", error)
                failing = True
            else:
                failing = False

    async def _look_at_ends(self) -> None:
        for topic in {consumer.topic for consumer in self._consumers}:
            ends = await self._cluster.ends(self._name(topic), range(self._partitions))
            for consumer in self._consumers:
                if consumer.topic == topic:
                    consumer.saw_ends(ends)
