"""Consumer positions and stage snapshots of the embedded log, in SQLite.

A group's positions and its state change in one transaction, so a stage never comes back with one of
them older than the other. Commits that arrive together share one transaction and one sync.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from headspring.proto.errors import Unavailable
from headspring.streaming.log.group import GroupThread

_CHUNK_BYTES = 64 * 1024 * 1024
"""A snapshot is cut into rows of this size: SQLite's own limit is 10^9 bytes a value."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS positions (
    grp TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (grp TEXT NOT NULL, chunk INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (grp, chunk));
"""

Positions = Mapping[str, Mapping[int, int]]
"""Topic → partition → next offset."""


@dataclass(frozen=True, slots=True)
class _Commit:
    group: str
    positions: Positions
    state: bytes | None
    done: Future[None] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Load:
    group: str
    done: Future[tuple[dict[str, dict[int, int]], bytes]] = field(default_factory=Future)


class PositionStore:
    """One SQLite connection in one thread. `commit` and `load` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            sqlite3.Error: the file cannot be opened or is no database.
        """
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._thread: GroupThread[_Commit | _Load] = GroupThread("log-positions", self._handle)

    def commit(self, group: str, positions: Positions, state: bytes | None = None) -> Future[None]:
        """Durable once the future is done; `state` None leaves the snapshot as it is.

        The future raises `Unavailable` where SQLite cannot write now.
        """
        item = _Commit(group, positions, state)
        self._thread.submit(item)
        return item.done

    def load(self, group: str) -> Future[tuple[dict[str, dict[int, int]], bytes]]:
        """A group's positions (topic → partition → next offset) and its snapshot, b"" if none."""
        item = _Load(group)
        self._thread.submit(item)
        return item.done

    def clamp(self, ends: Mapping[str, int]) -> None:
        """Positions beyond a topic's end go back to it: the log lost its tail to damage. Only before first use."""
        for topic, end in ends.items():
            self._db.execute("UPDATE positions SET next = ? WHERE topic = ? AND next > ?", (end, topic, end))

    def close(self) -> None:
        """Commits what is queued. Blocks."""
        self._thread.close()
        self._db.close()

    def _handle(self, items: Sequence[_Commit | _Load]) -> None:
        commits = [item for item in items if isinstance(item, _Commit)]
        if commits:
            error = self._guarded(lambda: self._write(commits))
            for commit in commits:
                if error is None:
                    commit.done.set_result(None)
                else:
                    commit.done.set_exception(error)
        for item in items:
            if isinstance(item, _Load):
                try:
                    item.done.set_result(self._read(item.group))
                except sqlite3.Error as failure:
                    item.done.set_exception(Unavailable(f"cannot read positions of {item.group}: {failure}"))

    def _guarded(self, work: Callable[[], None]) -> Unavailable | None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                work()
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.rollback()
            return Unavailable(f"cannot commit consumer positions: {error}; is the disk of the data folder full?")
        return None

    def _write(self, commits: Sequence[_Commit]) -> None:
        for item in commits:
            self._db.executemany(
                "INSERT INTO positions VALUES (?, ?, ?, ?) "
                "ON CONFLICT (grp, topic, part) DO UPDATE SET next = excluded.next",
                [
                    (item.group, topic, partition, offset)
                    for topic, by_partition in item.positions.items()
                    for partition, offset in by_partition.items()
                ],
            )
            if item.state is not None:
                self._db.execute("DELETE FROM states WHERE grp = ?", (item.group,))
                self._db.executemany(
                    "INSERT INTO states VALUES (?, ?, ?)",
                    [
                        (item.group, at // _CHUNK_BYTES, item.state[at : at + _CHUNK_BYTES])
                        for at in range(0, len(item.state), _CHUNK_BYTES)
                    ],
                )

    def _read(self, group: str) -> tuple[dict[str, dict[int, int]], bytes]:
        positions: dict[str, dict[int, int]] = {}
        for topic, partition, offset in self._db.execute(
            "SELECT topic, part, next FROM positions WHERE grp = ?", (group,)
        ):
            positions.setdefault(topic, {})[partition] = offset
        chunks = self._db.execute("SELECT data FROM states WHERE grp = ? ORDER BY chunk", (group,))
        return positions, b"".join(row[0] for row in chunks)
