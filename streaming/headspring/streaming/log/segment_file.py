"""One segment file: where things are in it, and reading it while it is written to."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headspring.streaming.log.frames import HEADER_BYTES, FrameHeader, is_whole, read_header, scan

_LOG = logging.getLogger(__name__)
INDEX_EVERY_BYTES = 64 * 1024
"""Distance of index entries: a look-up then walks over at most this many bytes of frame headers."""


@dataclass(slots=True)
class Counters:
    """Since the log was opened."""

    bytes_written: int = 0
    records_written: int = 0
    fsyncs: int = 0
    write_errors: int = 0
    torn_bytes: int = 0
    """Bytes cut off at open because no whole frame covered them."""
    damaged_frames: int = 0
    """Places that were written whole once and cannot be read any more: data loss."""


@dataclass(slots=True)
class Segment:
    """One file. The writer moves `size` and `end` on after each sync; readers are told how far they may go."""

    path: Path
    base: int
    """Offset of its first record, or of the one that will be first."""
    end: int
    """Offset that follows its last record."""
    size: int
    """Bytes that are synced; readers stop here."""
    newest_ns: int = 0
    """Newest record time, 0 until the file was walked or written to."""
    index: list[tuple[int, int]] | None = None
    """(first offset, position) of some frames; None until walked."""

    def walk(self) -> Sequence[tuple[int, int]]:
        """The sparse index, from the frame headers where it is not in memory yet."""
        index = self.index
        if index is None:
            entries: list[tuple[int, int]] = []
            newest = 0
            for position, header in self._headers():
                entries.append((header.first, position))
                newest = max(newest, header.newest_ns)
            index = sparse(entries)
            self.newest_ns, self.index = newest, index
        return index

    def frames(self, position: int, limit: int, counters: Counters) -> Iterator[tuple[FrameHeader, bytes]]:
        """Whole frames within the first `limit` bytes, from the one that holds offset `position` on.

        Raises:
            FileNotFoundError: retention or a compaction took the file away.
        """
        with self.path.open("rb", buffering=0) as file:
            fd = file.fileno()
            # A copy: the writer may be adding to the list.
            index = list(self.walk())
            entry = bisect_right(index, (position, limit)) - 1
            at = index[entry][1] if entry >= 0 else 0
            while at < limit:
                header = read_header(os.pread(fd, HEADER_BYTES, at))
                if header is not None and header.last < position:
                    at += header.size
                    continue
                frame = os.pread(fd, header.size, at) if header is not None and at + header.size <= limit else b""
                if header is None or not is_whole(frame, header):
                    counters.damaged_frames += 1
                    _LOG.error("log segment is damaged: file=%s position=%d", self.path, at)
                    at = _after_damage(fd, at, limit)
                    continue
                if header.first >= self.end:
                    return  # left over from a write that was refused and could not be cut off
                yield header, frame
                at += header.size

    def _headers(self) -> Iterator[tuple[int, FrameHeader]]:
        with self.path.open("rb", buffering=0) as file:
            at = 0
            while at < self.size:
                header = read_header(os.pread(file.fileno(), HEADER_BYTES, at))
                if header is None:
                    rest = os.pread(file.fileno(), self.size - at - 1, at + 1)
                    yield from ((at + 1 + position, found) for position, found in scan(rest).frames)
                    return
                yield at, header
                at += header.size


def _after_damage(fd: int, at: int, limit: int) -> int:
    """Position of the next whole frame, `limit` if there is none."""
    found = scan(os.pread(fd, limit - at - 1, at + 1)).frames
    return at + 1 + found[0][0] if found else limit


def sparse(entries: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The entries that are far enough from the one before."""
    index: list[tuple[int, int]] = []
    for first, position in entries:
        if not index or position - index[-1][1] >= INDEX_EVERY_BYTES:
            index.append((first, position))
    return index
