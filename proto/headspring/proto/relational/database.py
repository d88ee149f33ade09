"""A store's database: tables made, transactions that are durable on return, errors in our words.

Over a SQLite file one writer at a time holds the lock from its first read on; readers do not wait. Over PostgreSQL
every transaction says whose rows it works on, and row-level security keeps it to that.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from headspring.proto.errors import BackendError, PlatformError, Unavailable
from headspring.proto.relational import postgres
from headspring.proto.relational.schema import ALL, SCOPE, Schema, install, scope_of

BUSY_TIMEOUT_MS = 10_000
"""How long a write waits for another process that holds the SQLite file."""
_READ_ONLY = "headspring_reads"
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_NOT_NOW = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SNAPSHOT: Final[Mapping[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""Sent along with BEGIN, so it costs no round trip."""


class AllTenants(Enum):
    """The one value that stands for all tenants."""

    ALL = ALL


ALL_TENANTS: Final = AllTenants.ALL
"""For background work and for what belongs to no tenant; a call made for somebody names its tenant."""
Tenant = str | AllTenants
Place = Path | str
"""A SQLite file, or a SQLAlchemy URL (`postgresql://…`, `sqlite:///…`)."""


class Database:
    """See the module. Safe to use from several threads."""

    def __init__(self, place: Place, schema: Schema) -> None:
        """Opens it and makes the tables of `schema` that are missing.

        Raises:
            ConfigError: PostgreSQL cannot be used as it is, or its tables are of a newer program.
            Unavailable: PostgreSQL does not answer, or the SQLite file cannot be used now.
        """
        if isinstance(place, Path):
            self._url = sa.URL.create("sqlite", database=str(place))
        else:
            self._url = postgres.normalised(place)
        self._write = threading.Lock()
        self.is_server = self._url.get_backend_name() != "sqlite"
        """Whether other processes may work on it at the same time as this one."""
        if self.is_server:
            self._engine = postgres.acquire(self._url)
            try:
                install(self._engine, schema, postgres.where(self._url))
            except sa.exc.SQLAlchemyError as error:
                postgres.release(self._url)
                raise postgres.refused(error, self._url) from None
            except BaseException:
                postgres.release(self._url)
                raise
        else:
            self._engine = _sqlite(self._url)
            with self.transaction(tenant=ALL_TENANTS) as connection:
                schema.tables.create_all(connection)

    @property
    def name(self) -> str:
        """For people and logs; no secret."""
        return postgres.where(self._url) if self.is_server else str(self._url.database)

    @contextmanager
    def transaction(self, *, tenant: Tenant) -> Iterator[sa.Connection]:
        """Committed and durable on return, rolled back on an error.

        Args:
            tenant: Whose rows it may see and write (enforced by PostgreSQL; SQLite's callers filter themselves).

        Raises:
            Unavailable: the database cannot be reached, is busy, locked or full.
            Conflict: PostgreSQL has such a row already.
            Rejected: PostgreSQL will never take this.
            BackendError: it refused for another reason.
        """
        if self.is_server:
            with self._translated(), self._engine.begin() as connection:
                _set_scope(connection, tenant)
                yield connection
            return
        # Without our lock SQLite would make the second writer wait by sleeping.
        with self._write, self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self, *, tenant: Tenant) -> Iterator[sa.Connection]:
        """One consistent look; raises as `transaction`. Does not wait for writers."""
        with self._translated(), self._engine.connect() as connection:
            connection.execution_options(**(_SNAPSHOT if self.is_server else {_READ_ONLY: True}))
            with connection.begin():
                if self.is_server:
                    _set_scope(connection, tenant)
                yield connection

    def lock(self, connection: sa.Connection, *what: str) -> None:
        """From here to the end of the transaction no other transaction passes a lock of the same words. A SQLite
        transaction is alone anyway."""
        if self.is_server:
            name = "\x1f".join(what).replace("\x00", "")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        with self.reading(tenant=ALL_TENANTS) as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        if self.is_server:
            postgres.release(self._url)
        else:
            self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            if self.is_server:
                raise postgres.translated(error, self._url) from error
            raise _of_sqlite(error, self.name) from error


def insert_new(connection: sa.Connection, table: sa.Table, values: Mapping[str, object]) -> bool:
    """Inserts a row unless its key is taken; whether it did."""
    build = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = build(table).values(dict(values)).on_conflict_do_nothing()
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def _set_scope(connection: sa.Connection, tenant: Tenant) -> None:
    scope = ALL if isinstance(tenant, AllTenants) else scope_of(tenant)
    connection.execute(_SET_SCOPE, {"scope": scope})


_SET_SCOPE = sa.text(f"SELECT set_config('{SCOPE}', :scope, true)")


def _of_sqlite(error: sa.exc.SQLAlchemyError, name: str) -> PlatformError:
    """What an error of SQLite means; "no such table" is an OperationalError too, and a defect."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
    if code in _NO_ROOM:
        return Unavailable(
            f"{name} cannot be written now ({getattr(error, 'orig', error)}): free disk space and repeat",
            retry_after_s=5.0,
        )
    if code in _NOT_NOW:
        return Unavailable(f"{name}: {getattr(error, 'orig', error)}")
    return BackendError(f"{name}: {error}")


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url)
    sa.event.listen(engine, "connect", _durable)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _durable(connection: Any, _record: Any) -> None:  # SQLAlchemy passes the driver's own, untyped objects
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # The driver would begin transactions late and lazily; a writer must hold the lock from its first read.
    reads = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
