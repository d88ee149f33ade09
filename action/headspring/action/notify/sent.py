"""Which messages were sent, remembered over restarts and, on PostgreSQL, among processes."""

from __future__ import annotations

from enum import Enum

import sqlalchemy as sa

from headspring.proto.relational.database import ALL_TENANTS, Database, Place, insert_new
from headspring.proto.relational.schema import Schema

Key = tuple[str, str, str]
"""Incident, channel, kind."""
SENDING_S = 60
"""A process that has not sent a message so long after it took it is taken for dead; longer than any channel takes."""

_tables = sa.MetaData()
_sent = sa.Table(
    "sent", _tables,
    sa.Column("incident", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)  # fmt: skip
_shared = sa.MetaData()
_sending = sa.Table(
    "sending", _shared,
    sa.Column("incident", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),
)  # fmt: skip
_SCHEMA = Schema(name="notifications", tables=_tables)
_SHARED_SCHEMA = Schema(name="notifications under way", tables=_shared)
_TAKE = sa.text(
    "INSERT INTO sending AS s (incident, channel, kind, until) "
    "VALUES (:incident, :channel, :kind, clock_timestamp() + :seconds * interval '1 second') "
    "ON CONFLICT (incident, channel, kind) DO UPDATE SET until = excluded.until WHERE s.until < clock_timestamp() "
    "RETURNING 1"
)


class Claim(Enum):
    """What asking for a message found."""

    YOURS = 0
    """The caller sends it, and says how that went."""
    SENT = 1
    ELSEWHERE = 2
    """Another process is about to send it."""


class SentMessages:
    """See the module. Safe to call from several threads; every call may raise `Unavailable`."""

    def __init__(self, place: Place) -> None:
        self._database = Database(place, _SCHEMA)
        self._shared = Database(place, _SHARED_SCHEMA) if self._database.is_server else None

    def claim(self, key: Key) -> Claim:
        """Threads of one process see to it themselves that only one of them asks."""
        if self._shared is None:
            with self._database.reading(tenant=ALL_TENANTS) as connection:
                return Claim.SENT if _known(connection, key) else Claim.YOURS
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            self._database.lock(connection, "notification", *key)
            if _known(connection, key):
                return Claim.SENT
            return (
                Claim.YOURS
                if connection.execute(_TAKE, {**_values(key), "seconds": SENDING_S}).first()
                else Claim.ELSEWHERE
            )

    def end(self, key: Key, *, sent: bool) -> None:
        """What became of a message that was claimed."""
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            if sent:
                insert_new(connection, _sent, _values(key))
            if self._shared is not None:
                connection.execute(sa.delete(_sending).where(*_is(_sending, key)))

    def close(self) -> None:
        self._database.close()
        if self._shared is not None:
            self._shared.close()


def _known(connection: sa.Connection, key: Key) -> bool:
    return connection.execute(sa.select(_sent.c.incident).where(*_is(_sent, key))).first() is not None


def _is(table: sa.Table, key: Key) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.incident == key[0], table.c.channel == key[1], table.c.kind == key[2]


def _values(key: Key) -> dict[str, str]:
    return dict(zip(("incident", "channel", "kind"), key, strict=True))
