"""The files of one topic of the embedded log.

One thread, the log's writer, appends; any thread reads. What a reader may see is bounded by what was
synced, so nothing is ever delivered that a crash could take back. A lock guards the few fields that
both sides touch and is never held over disk work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from headspring.streaming.log.frames import FrameHeader, decode_records, encode_frame, record_bytes, scan
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.log.segment_file import INDEX_EVERY_BYTES, Counters, Segment, sparse

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"^(\d{20})(?:-(\d{20}))?\.log$")
"""`first offset.log` as written; `first offset-end offset.log` after compaction."""
_FRAME_BYTES = 4 * 1024 * 1024
"""Larger batches become several frames, so that no reader has to hold more at once for one record."""
_TAIL_BYTES = 16 * 1024 * 1024
"""Newest records of a topic kept in memory: who keeps up is served without disk or decoding."""
PARTITION = 0
"""The embedded log has one partition a topic."""


@dataclass(slots=True)
class TopicFiles:
    """Segments of one topic, oldest first. `open` makes it."""

    name: str
    directory: Path
    segment_bytes: int
    counters: Counters
    segments: list[Segment] = field(default_factory=list)
    end: int = 0
    """Offset the next record gets."""
    _fd: int = -1
    _sealed: bool = False
    """True: the newest segment takes no more frames."""
    _dirty: bool = False
    """True: the newest file may hold bytes after its synced size that must be cut off first."""
    _tail: list[StoredRecord] = field(default_factory=list)
    _tail_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, name: str, directory: Path, *, segment_bytes: int, counters: Counters) -> TopicFiles:
        """Reads what is there and cuts off a torn tail. Blocks; at most the newest segment is read whole.

        Raises:
            OSError: the folder cannot be read or repaired.
        """
        topic = cls(name=name, directory=directory, segment_bytes=segment_bytes, counters=counters)
        if directory.is_dir():
            topic._recover()
        return topic

    @property
    def oldest(self) -> int:
        """Offset at which a new reader starts."""
        with self._lock:
            return self.segments[0].base if self.segments else self.end

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return sum(segment.size for segment in self.segments)

    # Writing: the writer thread only.

    def write(self, batches: Sequence[Sequence[Record]]) -> int:
        """Appends and syncs all batches; all of them or, with an error, none. Returns the bytes written.

        Raises:
            OSError: nothing was kept; the next call may work.
        """
        offset, frames, stored = self.end, [], []
        first_offsets: list[int] = []
        for chunk in _chunks(batches):
            numbered = [(offset + place, record) for place, record in enumerate(chunk)]
            first_offsets.append(offset)
            frames.append(encode_frame(numbered))
            stored += [
                StoredRecord(topic=self.name, partition=PARTITION, offset=number, record=record)
                for number, record in numbered
            ]
            offset += len(chunk)
        if not stored:
            return 0
        data = b"".join(frames)
        try:
            segment = self._writable()
            _write_all(self._fd, data, segment.size)
            os.fdatasync(self._fd)
        except OSError:
            self.counters.write_errors += 1
            self._fall_back()
            raise
        self.counters.fsyncs += 1
        self.counters.bytes_written += len(data)
        self.counters.records_written += len(stored)
        with self._lock:
            position = segment.size
            index = segment.index if segment.index is not None else []
            for first, frame in zip(first_offsets, frames, strict=True):
                if not index or position - index[-1][1] >= INDEX_EVERY_BYTES:
                    index.append((first, position))
                position += len(frame)
            segment.index, segment.size, segment.end, self.end = index, position, offset, offset
            segment.newest_ns = max(segment.newest_ns, *(item.record.time_ns for item in stored))
            self._tail += stored
            self._tail_bytes += len(data)
            if self._tail_bytes > _TAIL_BYTES:
                self._trim_tail()
        return len(data)

    def roll(self) -> None:
        """The newest segment takes no more records; the next write starts a file."""
        if self.segments and self.segments[-1].size:
            self._close_fd()
            self._sealed = True

    def drop_older(self, cutoff_ns: int, *, max_bytes: int | None = None) -> int:
        """Unlinks segments whose every record is older than `cutoff_ns`, and, but for the newest segment, the
        oldest ones until the topic has at most `max_bytes`; returns how many."""
        if self.segments and self.segments[-1].size:
            self.segments[-1].walk()
            if self.segments[-1].newest_ns < cutoff_ns:
                self.roll()
        dropped = 0
        while max_bytes is not None and len(self.segments) > 1 and self.size_bytes > max_bytes:
            with self._lock:
                segment = self.segments.pop(0)
            segment.path.unlink(missing_ok=True)
            dropped += 1
        while self.segments:
            segment = self.segments[0]
            if segment is self.segments[-1] and not self._sealed:
                break
            segment.walk()
            if segment.newest_ns >= cutoff_ns:
                break
            if segment is self.segments[-1]:
                # The next offset must outlive the last file: an empty one, named by it, carries it on.
                self._start_segment()
            with self._lock:
                self.segments.pop(0)
            segment.path.unlink(missing_ok=True)
            dropped += 1
        return dropped

    def close(self) -> None:
        self._close_fd()

    # Reading: any thread.

    def tail(self, position: int, *, max_records: int, max_bytes: int) -> list[StoredRecord] | None:
        """Records from `position` on out of memory, at least one; None where they are only on disk."""
        with self._lock:
            if position >= self.end:
                return []
            if not self._tail or position < self._tail[0].offset:
                return None
            start = position - self._tail[0].offset
            records = self._tail[start : start + max_records]
        size = 0
        for place, item in enumerate(records):
            size += len(item.record.value)
            if size > max_bytes and place:
                return records[:place]
        return records

    def read(self, position: int, *, max_records: int, max_bytes: int) -> list[StoredRecord]:
        """Records from `position` on, from disk; at least one if there is any. Blocks."""
        result: list[StoredRecord] = []
        size = 0
        for header, frame in self._frames(position):
            for offset, record in decode_records(frame, header):
                if offset < position:
                    continue
                if len(result) >= max_records or (result and size + len(record.value) > max_bytes):
                    return result
                result.append(StoredRecord(topic=self.name, partition=PARTITION, offset=offset, record=record))
                size += len(record.value)
        return result

    def all_records(self) -> Iterator[StoredRecord]:
        """Every record there is now, in order. Blocks."""
        for header, frame in self._frames(0):
            for offset, record in decode_records(frame, header):
                yield StoredRecord(topic=self.name, partition=PARTITION, offset=offset, record=record)

    # Compaction.

    def closed_segments(self) -> list[Segment]:
        """What a compaction may rewrite while the writer goes on."""
        with self._lock:
            return list(self.segments) if self._sealed else self.segments[:-1]

    def replace(self, old: Sequence[Segment], records: Sequence[StoredRecord]) -> None:
        """Swaps the oldest segments for one file that holds `records`. Crash-safe: until the rename the old
        files count, after it the new one does. One call at a time.

        Raises:
            OSError: nothing changed.
        """
        base, end = old[0].base, old[-1].end
        path = self.directory / f"{base:020d}-{end:020d}.log"
        scratch = path.with_suffix(".tmp")
        size, newest = 0, 0
        index: list[tuple[int, int]] = []
        try:
            with scratch.open("wb") as file:
                for chunk in _stored_chunks(records):
                    frame = encode_frame([(item.offset, item.record) for item in chunk])
                    file.write(frame)
                    index.append((chunk[0].offset, size))
                    size += len(frame)
                    newest = max(newest, *(item.record.time_ns for item in chunk))
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            _sync_folder(self.directory)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise
        merged = Segment(path=path, base=base, end=end, size=size, newest_ns=newest, index=index)
        with self._lock:
            self.segments[: len(old)] = [merged]
            if len(self.segments) == 1:
                self._sealed = True
        for segment in old:
            if segment.path != path:
                segment.path.unlink(missing_ok=True)

    # Inside.

    def _recover(self) -> None:
        found: list[Segment] = []
        compacted_end = 0
        for path in sorted(self.directory.iterdir()):
            match = _NAME.match(path.name)
            if match is None:
                if path.suffix == ".tmp":
                    path.unlink()
                continue
            base, end = int(match[1]), int(match[2] or 0)
            compacted_end = max(compacted_end, end)
            found.append(Segment(path=path, base=base, end=end, size=path.stat().st_size))
        # A crash between a compaction's rename and its unlinks leaves files that the new one replaces.
        for segment in found:
            if segment.base < compacted_end and segment.end < compacted_end:
                segment.path.unlink()
        kept = [item for item in found if item.base >= compacted_end or item.end == compacted_end > 0]
        kept.sort(key=lambda item: (item.base, item.end))
        for segment, following in pairwise(kept):
            segment.end = following.base
        if not kept:
            return
        newest = kept[-1]
        result = scan(newest.path.read_bytes(), from_offset=newest.base)
        if result.good_bytes < newest.size:
            self.counters.torn_bytes += newest.size - result.good_bytes
            _LOG.warning(
                "cut a torn tail off a log segment: topic=%s file=%s bytes=%d",
                self.name, newest.path.name, newest.size - result.good_bytes,
            )  # fmt: skip
            with newest.path.open("r+b") as file:
                file.truncate(result.good_bytes)
                os.fsync(file.fileno())
            newest.size = result.good_bytes
        if result.damaged:
            self.counters.damaged_frames += result.damaged
            _LOG.error("log segment is damaged: topic=%s file=%s places=%d", self.name, newest.path, result.damaged)
        newest.index = sparse([(header.first, position) for position, header in result.frames])
        newest.newest_ns = max((header.newest_ns for _, header in result.frames), default=0)
        if newest.end:
            self._sealed = True
        else:
            newest.end = result.frames[-1][1].last + 1 if result.frames else newest.base
        self.segments = kept
        self.end = newest.end

    def _writable(self) -> Segment:
        if self._dirty:
            segment = self.segments[-1]
            os.truncate(segment.path, segment.size)
            self._dirty = False
        if self.segments and not self._sealed and self.segments[-1].size < self.segment_bytes:
            if self._fd < 0:
                self._fd = os.open(self.segments[-1].path, os.O_RDWR | os.O_CREAT, 0o640)
            return self.segments[-1]
        return self._start_segment()

    def _start_segment(self) -> Segment:
        self._close_fd()
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True)
            _sync_folder(self.directory.parent)
        path = self.directory / f"{self.end:020d}.log"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            # What a failed start may have left under this name was never acknowledged.
            os.ftruncate(fd, 0)
            _sync_folder(self.directory)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        segment = Segment(path=path, base=self.end, end=self.end, size=0, index=[])
        with self._lock:
            self.segments.append(segment)
        self._sealed = False
        return segment

    def _fall_back(self) -> None:
        """After a failed write: back to the last synced byte, and no more writes to that file."""
        if self._fd < 0 or not self.segments:
            return
        segment = self.segments[-1]
        try:
            os.ftruncate(self._fd, segment.size)
            os.fsync(self._fd)
        except OSError:
            self._dirty = True
        self._close_fd()
        self._sealed = segment.size > 0

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _trim_tail(self) -> None:
        """Drops the older half, so that trimming is rare."""
        drop, size = 0, 0
        while drop < len(self._tail) and self._tail_bytes - size > _TAIL_BYTES // 2:
            size += record_bytes(self._tail[drop].record)
            drop += 1
        # One record larger than the budget stays: who waits for it is about to read it.
        drop = min(drop, len(self._tail) - 1)
        del self._tail[:drop]
        self._tail_bytes = sum(record_bytes(item.record) for item in self._tail)

    def _frames(self, position: int) -> Iterator[tuple[FrameHeader, bytes]]:
        """Whole frames from the one that holds offset `position`, or the next one, on."""
        while True:
            with self._lock:
                segments = [segment for segment in self.segments if segment.end > position]
                limit, end = (segments[0].size, segments[0].end) if segments else (0, 0)
            if not segments:
                return
            segment = segments[0]
            try:
                for header, frame in segment.frames(position, limit, self.counters):
                    yield header, frame
                    position = header.last + 1
            except FileNotFoundError:
                continue  # retention or a compaction took it away; what replaces it is listed by now
            position = max(position, end)


def _chunks(batches: Sequence[Sequence[Record]]) -> Iterator[list[Record]]:
    """Batches as frames' worth of records; a frame never spans two batches."""
    for batch in batches:
        chunk: list[Record] = []
        size = 0
        for record in batch:
            need = record_bytes(record)
            if chunk and size + need > _FRAME_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(record)
            size += need
        if chunk:
            yield chunk


def _stored_chunks(records: Sequence[StoredRecord]) -> Iterator[list[StoredRecord]]:
    chunk: list[StoredRecord] = []
    size = 0
    for item in records:
        need = record_bytes(item.record)
        if chunk and (size + need > INDEX_EVERY_BYTES or item.offset - chunk[0].offset >= 2**32):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += need
    if chunk:
        yield chunk


def _write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
