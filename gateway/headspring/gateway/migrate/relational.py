"""Parts that go from SQLite files to PostgreSQL: runs with everything, labels, keys, model versions; the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from headspring.action.audit.chain import AuditLog
from headspring.gateway.migrate.part import Content, Digest
from headspring.proto.relational.database import ALL_TENANTS, Database, insert_new
from headspring.proto.relational.schema import Schema

_PAGE = 500
Note = Callable[[str, int], None]


class TablesPart:
    """All rows of a store's tables, or of some of them. Rows that are there already stay as they are."""

    def __init__(self, schema: Schema, source: Path, target: str, *, leave_out: Sequence[str] = ()) -> None:
        """
        Args:
            source: The SQLite file; when it is missing there is nothing to move.
            target: A SQLAlchemy URL of PostgreSQL.
            leave_out: Tables whose rows mean nothing at the target.
        """
        self.name = f"rows of {schema.name}"
        self._schema = schema
        self._source = source
        self._target = target
        self._tables = [table for table in schema.tables.sorted_tables if table.name not in leave_out]

    async def copy(self, after: str, note: Note) -> None:
        await asyncio.to_thread(self._copy, after, note)

    async def source(self) -> Content:
        return await asyncio.to_thread(self._content, self._source)

    async def target(self) -> Content:
        """Rows that the source has; others were made at the target."""
        return await asyncio.to_thread(self._content_of_source)

    def _copy(self, after: str, note: Note) -> None:
        if not self._source.exists():
            return
        done = [name for name in after.split(",") if name]
        source, target = Database(self._source, self._schema), Database(self._target, self._schema)
        try:
            for table in self._tables:
                if table.name in done:
                    continue
                copied = 0
                for rows in _pages(source, table):
                    with target.transaction(tenant=ALL_TENANTS) as connection:
                        for row in rows:
                            insert_new(connection, table, dict(row._mapping))
                    copied += len(rows)
                done.append(table.name)
                note(",".join(done), copied)
        finally:
            source.close()
            target.close()

    def _content(self, place: Path) -> Content:
        digest = Digest()
        if place.exists():
            database = Database(place, self._schema)
            try:
                for table in self._tables:
                    for rows in _pages(database, table):
                        digest.add_all(_item(table, row) for row in rows)
            finally:
                database.close()
        return digest.content()

    def _content_of_source(self) -> Content:
        digest = Digest()
        if not self._source.exists():
            return digest.content()
        source, target = Database(self._source, self._schema), Database(self._target, self._schema)
        try:
            for table in self._tables:
                keys = list(table.primary_key.columns)
                for rows in _pages(source, table):
                    wanted = [tuple(row._mapping[key.name] for key in keys) for row in rows]
                    query = sa.select(table).where(sa.tuple_(*keys).in_(wanted))
                    with target.reading(tenant=ALL_TENANTS) as connection:
                        digest.add_all(_item(table, row) for row in connection.execute(query))
        finally:
            source.close()
            target.close()
        return digest.content()


class AuditPart:
    """The audit log: the same chain, signed by the same key, verified at the target."""

    name = "audit log"

    def __init__(self, source: AuditLog, target: AuditLog) -> None:
        self._source = source
        self._target = target

    async def copy(self, after: str, note: Note) -> None:
        added = await asyncio.to_thread(self._target.adopt, self._source)
        note("all", added)

    async def source(self) -> Content:
        return await asyncio.to_thread(_chain, self._source)

    async def target(self) -> Content:
        return await asyncio.to_thread(_chain, self._target)


def _chain(log: AuditLog) -> Content:
    """The last hash covers every entry before it."""
    verdict = log.verify()
    return Content(count=verdict.checked, digest=log.end if verdict.ok else f"broken: {verdict.reason}")


def _pages(database: Database, table: sa.Table) -> Iterator[Sequence[sa.Row[Any]]]:
    """Rows by primary key."""
    keys = list(table.primary_key.columns)
    after: tuple[Any, ...] | None = None
    while True:
        query = sa.select(table).order_by(*keys).limit(_PAGE)
        if after is not None:
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*(sa.literal(value) for value in after)))
        with database.reading(tenant=ALL_TENANTS) as connection:
            rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        after = tuple(rows[-1]._mapping[key.name] for key in keys)


def _item(table: sa.Table, row: sa.Row[Any]) -> bytes:
    values = [bytes(value) if isinstance(value, memoryview) else value for value in row]
    return f"{table.name}{values!r}".encode()
