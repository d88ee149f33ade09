"""Relational rows of this room: SQLAlchemy Core over SQLite (embedded) or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from headspring.proto.errors import BackendError, Unavailable

_BUSY_TIMEOUT_MS = 5_000
"""How long a write waits for another process that holds the file."""


class Rows:
    """An engine with its tables made; errors of the driver become ours."""

    def __init__(self, where: Path | str, metadata: sa.MetaData) -> None:
        """`where`: a file for SQLite, or a SQLAlchemy URL."""
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True)
        url = sa.make_url(where) if isinstance(where, str) else sa.URL.create("sqlite", database=str(where))
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _durable)
        with self.transaction() as connection:
            metadata.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Committed and durable on return, rolled back on an error.

        Raises:
            Unavailable: the database cannot be reached, is locked or full.
            BackendError: it refused for another reason.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise Unavailable(f"{self._engine.url!r}: {error.orig}") from error
        except sa.exc.SQLAlchemyError as error:
            raise BackendError(f"{self._engine.url!r}: {error}") from error

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    def close(self) -> None:
        self._engine.dispose()


def _durable(connection: Any, record: Any) -> None:  # SQLAlchemy passes the driver's own, untyped objects
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {_BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
