"""The event log in one process: segment files, group commit, positions in SQLite.

Layout of the data folder::

    lock                       held while a process has the log open
    positions.db               consumer positions and stage snapshots
    topics/<topic>/<first offset>.log

An append is queued to the writer thread; the writer takes all that is queued, writes it, syncs once per
topic, and only then resolves the futures. A failed write is taken back before anybody is told.
Waits for new records are in real time, whatever the clock; the clock decides retention.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import sqlite3
import struct
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from headspring.proto import tracing
from headspring.proto.clock import Clock
from headspring.proto.errors import BackendError, ConfigError, Rejected, Unavailable
from headspring.proto.topics import BY_NAME
from headspring.streaming.log.compaction import Garbage, newest_by_key, survivors
from headspring.streaming.log.consumer import SegmentConsumer
from headspring.streaming.log.frames import record_bytes
from headspring.streaming.log.group import GroupThread
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.log.positions import PositionStore
from headspring.streaming.log.segment_file import Counters
from headspring.streaming.log.topic_files import PARTITION, TopicFiles

_LOG = logging.getLogger(__name__)
_TOPIC = re.compile(r"^[a-z0-9][a-z0-9._-]{0,199}$")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OTHER_RETENTION_NS = 30 * 24 * 3600 * 1_000_000_000
"""For topics that the map of topics does not name."""
_MAX_PENDING_BYTES = 256 * 1024 * 1024
"""Appends that wait for the disk; more are refused, so a slow disk cannot fill the memory."""
_LINGER_S = 0.001
"""Wait for company under load: a fraction of a usual sync."""
_READ_BYTES = 32 * 1024 * 1024
"""Values returned by one poll, unless a single one is larger."""
_MAINTAIN_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """Since open, except `size_bytes`."""

    bytes_written: int
    records_written: int
    fsyncs: int
    groups: int
    """Group commits; one may sync several topics."""
    write_errors: int
    torn_bytes: int
    damaged_frames: int
    size_bytes: int
    """All segments on disk now."""
    pending_bytes: int
    """Waiting for the disk now."""


@dataclass(frozen=True, slots=True)
class _Append:
    topic: str
    records: tuple[Record, ...]
    size_bytes: int
    done: Future[None] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Upkeep:
    """Retention and rolling, which only the writer may do."""

    done: Future[None] = field(default_factory=Future)


class SegmentLog:
    """`EventLog`, embedded. Also `append_threadsafe` for worker threads and `commit_with_state` for engines."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        segment_bytes: int,
        max_record_bytes: int,
        max_topic_bytes: int | None,
        lock_fd: int,
    ) -> None:
        """Use `open`."""
        self._path = path
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._max_record_bytes = max_record_bytes
        self._max_topic_bytes = max_topic_bytes
        self._lock_fd = lock_fd
        self._loop = asyncio.get_running_loop()
        self._counters = Counters()
        self._groups = 0
        self._topics: dict[str, TopicFiles] = {}
        self._garbage: dict[str, Garbage] = {}
        self._topics_lock = threading.Lock()
        self._pending_bytes = 0
        self._pending_lock = threading.Lock()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        segment_bytes: int = 64 * 1024 * 1024,
        max_record_bytes: int = 24 * 1024 * 1024,
        max_topic_bytes: int | None = None,
    ) -> SegmentLog:
        """Opens or makes the log in folder `path`; cuts off torn tails; takes the folder for this process.

        Args:
            path: The folder.
            clock: Decides retention.
            segment_bytes: A file that has this much is followed by the next one.
            max_record_bytes: Larger records are rejected.
            max_topic_bytes: Bound for each topic that is not compacted: its oldest files go, read or not, before
                their time is up. None leaves it to retention by time.

        Raises:
            ConfigError: another process has it open, or it cannot be read or written.
        """
        lock_fd = -1
        try:
            lock_fd = _make_and_lock(path)
            log = cls(
                path,
                clock=clock,
                segment_bytes=segment_bytes,
                max_record_bytes=max_record_bytes,
                max_topic_bytes=max_topic_bytes,
                lock_fd=lock_fd,
            )
            await asyncio.to_thread(log._load)
        except BlockingIOError as error:
            raise ConfigError(f"log folder {path} is open in another process; give each its own data folder") from error
        except (OSError, sqlite3.Error) as error:
            if lock_fd >= 0:
                os.close(lock_fd)
            raise ConfigError(f"cannot open log folder {path}: {error}; check that it is a writable folder") from error
        log._start()
        return log

    # EventLog

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        """Durable on return. See `EventLog` for the errors."""
        if records:
            await asyncio.wrap_future(self.append_threadsafe(topic, records))

    def append_threadsafe(self, topic: str, records: Sequence[Record]) -> Future[None]:
        """`append` for any thread: durable once the future is done. Order is the order of these calls.

        Raises:
            Rejected: a record is over the size limit, or the topic's name cannot be used.
            Unavailable: closed, or too much is waiting for the disk.
        """
        self._check_name(topic)
        context = tracing.carrier()
        if context:
            records = [replace(record, headers={**context, **record.headers}) for record in records]
        size = 0
        for record in records:
            need = record_bytes(record)
            if need > self._max_record_bytes:
                raise Rejected(
                    f"a record of {need} bytes for {topic} is over the limit of {self._max_record_bytes} bytes"
                )
            size += need
        item = _Append(topic, tuple(records), size)
        with self._pending_lock:
            if self._closed:
                raise Unavailable("the log is closed")
            if self._pending_bytes and self._pending_bytes + size > _MAX_PENDING_BYTES:
                raise Unavailable(f"{self._pending_bytes} bytes wait for the disk of {self._path}; it is too slow")
            self._pending_bytes += size
            self._writer.submit(item)
        return item.done

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> SegmentConsumer:
        """A member of `group`; the group's other members of this topic should be gone."""
        self._check_name(topic)
        self._check_open()
        files = self.topic_files(topic)
        positions, _ = await asyncio.wrap_future(self._positions.load(group))
        start = positions.get(topic, {}).get(PARTITION)
        if start is None:
            start = files.end if latest else files.oldest
            if latest:
                # Without this a crash before the first commit would make "latest" a later place.
                await self.commit_with_state(group, {topic: {PARTITION: start}})
        return SegmentConsumer(self, topic, group, min(start, files.end))

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        """The newest record of every key, in offset order; reads the whole topic from disk."""
        self._check_name(topic)
        self._check_open()
        files = self.topic_files(topic)
        newest = await asyncio.to_thread(lambda: newest_by_key(files.all_records()))
        return [item for item in newest.values() if item.record.value]

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        self._check_name(topic)
        return {PARTITION: self.topic_files(topic).end}

    async def close(self) -> None:
        """Writes what is queued, then lets the folder go. Idempotent."""
        with self._pending_lock:
            if self._closed:
                return
            self._closed = True
        self._upkeep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._upkeep
        await asyncio.to_thread(self._close_threads)
        for topic in list(self._waiters):
            self._wake(topic)
        os.close(self._lock_fd)

    # For engines

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        """Positions (topic → partition → next offset) and the group's snapshot in one transaction, durable on
        return; `state` None keeps the snapshot."""
        self._check_open()
        await asyncio.wrap_future(self._positions.commit(group, positions, state))

    async def load_state(self, group: str) -> bytes:
        """The group's snapshot; b"" if it never committed one."""
        self._check_open()
        return (await asyncio.wrap_future(self._positions.load(group)))[1]

    def stats(self) -> LogStats:
        with self._topics_lock:
            topics = list(self._topics.values())
        counters = self._counters
        return LogStats(
            bytes_written=counters.bytes_written,
            records_written=counters.records_written,
            fsyncs=counters.fsyncs,
            groups=self._groups,
            write_errors=counters.write_errors,
            torn_bytes=counters.torn_bytes,
            damaged_frames=counters.damaged_frames,
            size_bytes=sum(topic.size_bytes for topic in topics),
            pending_bytes=self._pending_bytes,
        )

    async def maintain(self) -> None:
        """Retention and compaction now; it also runs by itself every half minute.

        Raises:
            OSError: the disk refused; nothing is lost.
        """
        item = _Upkeep()
        with self._pending_lock:
            if self._closed:
                raise Unavailable("the log is closed")
            self._writer.submit(item)
        await asyncio.wrap_future(item.done)
        await self._loop.run_in_executor(self._keeper, self._compact_due)

    # For consumers

    def topic_files(self, topic: str) -> TopicFiles:
        with self._topics_lock:
            files = self._topics.get(topic)
            if files is None:
                files = TopicFiles(
                    name=topic,
                    directory=self._path / "topics" / topic,
                    segment_bytes=self._segment_bytes,
                    counters=self._counters,
                )
                self._topics[topic] = files
                if topic in BY_NAME and BY_NAME[topic].compacted:
                    self._garbage[topic] = Garbage()
            return files

    async def read(self, topic: str, position: int, max_records: int) -> list[StoredRecord]:
        """Records from `position` on, out of memory or off the disk; empty where there are none."""
        self._check_open()
        files = self.topic_files(topic)
        records = files.tail(position, max_records=max_records, max_bytes=_READ_BYTES)
        if records is None:
            records = await asyncio.to_thread(files.read, position, max_records=max_records, max_bytes=_READ_BYTES)
        return records

    async def wait(self, topic: str, position: int, timeout_s: float) -> None:
        """Returns when the topic has a record at `position`, or after `timeout_s`, or on close."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters = self._waiters.setdefault(topic, set())
        waiters.add(waiter)
        try:
            # Checked after joining the waiters: an append in between wakes us.
            if self.topic_files(topic).end <= position and not self._closed:
                await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            waiters.discard(waiter)

    # Inside

    def _check_name(self, topic: str) -> None:
        if not _TOPIC.match(topic):
            raise Rejected(f"{topic!r} is no topic name; wanted lower-case letters, digits, dots and dashes")

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the log is closed")

    def _load(self) -> None:
        folder = self._path / "topics"
        folder.mkdir(exist_ok=True)
        for directory in sorted(folder.iterdir()):
            if not directory.is_dir() or not _TOPIC.match(directory.name):
                continue
            files = TopicFiles.open(
                directory.name, directory, segment_bytes=self._segment_bytes, counters=self._counters
            )
            self._topics[files.name] = files
            if files.name in BY_NAME and BY_NAME[files.name].compacted:
                garbage = self._garbage[files.name] = Garbage()
                for item in files.all_records():
                    garbage.add(item.record)
                if garbage.total_bytes > 2 * garbage.live_bytes:
                    files.roll()
                    self._compact(files, garbage)
        self._positions = PositionStore(self._path / "positions.db")
        self._positions.clamp({topic.name: topic.end for topic in self._topics.values()})

    def _start(self) -> None:
        self._writer: GroupThread[_Append | _Upkeep] = GroupThread("log-writer", self._handle, linger_s=_LINGER_S)
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-keeper")
        self._upkeep = self._loop.create_task(self._maintain_forever(), name="log-upkeep")

    def _close_threads(self) -> None:
        self._writer.close()
        self._keeper.shutdown()
        self._positions.close()
        for topic in self._topics.values():
            topic.close()

    async def _maintain_forever(self) -> None:
        while True:
            await asyncio.sleep(_MAINTAIN_EVERY_S)
            try:
                await self.maintain()
            except OSError as error:
                _LOG.warning("log upkeep failed and will be tried again: path=%s error=%s", self._path, error)

    def _handle(self, items: Sequence[_Append | _Upkeep]) -> None:
        """The writer thread: one group."""
        by_topic: dict[str, list[_Append]] = {}
        for item in items:
            if isinstance(item, _Append):
                by_topic.setdefault(item.topic, []).append(item)
        failures = {topic: self._write(topic, appends) for topic, appends in by_topic.items()}
        self._groups += bool(by_topic)
        written = [topic for topic, per_item in failures.items() if None in per_item]
        if written:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._wake, *written)
        done = sum(item.size_bytes for appends in by_topic.values() for item in appends)
        with self._pending_lock:
            self._pending_bytes -= done
        for topic, appends in by_topic.items():
            for item, failure in zip(appends, failures[topic], strict=True):
                # A caller that gave up has cancelled its future; the records are written all the same.
                if item.done.set_running_or_notify_cancel():
                    item.done.set_result(None) if failure is None else item.done.set_exception(failure)
        for item in items:
            if isinstance(item, _Upkeep):
                self._retain(item)

    def _write(self, topic: str, appends: Sequence[_Append]) -> list[BackendError | None]:
        """What became of each append."""
        files = self.topic_files(topic)
        try:
            files.write([item.records for item in appends])
        except OSError as error:
            return [self._unavailable(topic, error)] * len(appends)
        except (TypeError, ValueError, struct.error) as error:
            # A record that cannot be put into bytes; its neighbours in the group must not suffer.
            if len(appends) == 1:
                return [Rejected(f"a record for {topic} is not bytes with a 64-bit time: {error}")]
            return [failure for item in appends for failure in self._write(topic, [item])]
        garbage = self._garbage.get(topic)
        if garbage is not None:
            for item in appends:
                for record in item.records:
                    garbage.add(record)
        return [None] * len(appends)

    def _unavailable(self, topic: str, error: OSError) -> Unavailable:
        if error.errno in _NO_ROOM:
            return Unavailable(
                f"no room to write topic {topic} under {self._path} ({error.strerror}): free disk space or raise "
                "the quota; writing resumes by itself",
                retry_after_s=5.0,
            )
        return Unavailable(f"cannot write topic {topic} under {self._path}: {error}; check the disk")

    def _retain(self, item: _Upkeep) -> None:
        now_ns = self._clock.now_ns()
        try:
            for files in list(self._topics.values()):
                known = BY_NAME.get(files.name)
                garbage = self._garbage.get(files.name)
                if garbage is not None:
                    if garbage.due:
                        files.roll()
                    continue
                keep_ns = round(known.retention.total_seconds() * 1e9) if known else _OTHER_RETENTION_NS
                files.drop_older(now_ns - keep_ns, max_bytes=self._max_topic_bytes)
        except OSError as error:
            item.done.set_exception(error)
        else:
            item.done.set_result(None)

    def _compact_due(self) -> None:
        for name, garbage in list(self._garbage.items()):
            if garbage.due:
                self._compact(self.topic_files(name), garbage)

    def _compact(self, files: TopicFiles, garbage: Garbage) -> None:
        old = files.closed_segments()
        if not old:
            return
        end = old[-1].end
        kept = survivors((item for item in files.all_records() if item.offset < end), now_ns=self._clock.now_ns())
        before = garbage.total_bytes
        files.replace(old, kept)
        _LOG.info("compacted a topic: topic=%s records=%d bytes_before=%d", files.name, len(kept), before)
        garbage.rewrote()

    def _wake(self, *topics: str) -> None:
        for topic in topics:
            for waiter in self._waiters.get(topic, ()):
                if not waiter.done():
                    waiter.set_result(None)


def _make_and_lock(path: Path) -> int:
    """The descriptor that holds the folder's lock.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the folder cannot be made or written.
    """
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
