"""One SQLite file as the embedded backends use it: one writer, a few readers, our own errors.

WAL mode lets readers go on while the writer commits. `synchronous="FULL"` fsyncs every commit (a
committed row survives power loss), `"NORMAL"` only checkpoints (it survives `kill -9`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from headspring.proto.errors import BackendError, Unavailable

_BUSY_TIMEOUT_MS = 5_000
"""Another process that holds the file (a backup, a shell) gets this long before a write gives up."""
_MAX_IDLE_READERS = 4
"""Reader connections kept open; more threads than that open one for the call."""


class Database:
    """A file (or, with `path=None`, private memory) with serialised writes and concurrent reads."""

    def __init__(self, path: Path | None, schema: str, *, synchronous: Literal["FULL", "NORMAL"] = "NORMAL") -> None:
        """Opens the file, makes its folder and tables. `schema` is SQL of idempotent statements."""
        self._target = str(path) if path is not None else ":memory:"
        self._private = path is None
        self._synchronous = synchronous
        self._lock = threading.RLock()
        self._depth = 0
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._closed = False
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with _translated(self._target):
            self._writer = self._connect()
            self._writer.executescript(schema)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._target, timeout=_BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed on return and rolled back on any error. Nested calls join the outer one.

        Raises:
            Unavailable: the disk is full or the file is locked; nothing of the transaction was kept.
        """
        with self._lock, _translated(self._target):
            if self._depth:
                self._depth += 1
                try:
                    yield self._writer
                finally:
                    self._depth -= 1
                return
            self._writer.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees every committed transaction; not for writing."""
        if self._private:
            # Memory belongs to the connection that made it.
            with self._lock, _translated(self._target):
                yield self._writer
            return
        with _translated(self._target):
            try:
                connection = self._idle.get_nowait()
            except Empty:
                connection = self._connect()
            try:
                yield connection
            finally:
                if self._closed or self._idle.qsize() >= _MAX_IDLE_READERS:
                    connection.close()
                else:
                    self._idle.put(connection)

    def close(self) -> None:
        """Ends all connections; safe to call twice."""
        with self._lock:
            self._closed = True
            while True:
                try:
                    self._idle.get_nowait().close()
                except Empty:
                    break
            self._writer.close()


@contextmanager
def _translated(target: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{target}: {error}; check free disk space and that nothing else locks the file") from error
    except sqlite3.Error as error:
        raise BackendError(f"{target}: {error}") from error
