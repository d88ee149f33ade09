"""An append-only record of actions: each entry holds the hash of the one before, the last is signed.

Changing, dropping, adding or reordering an entry breaks the chain. Cutting the end off, or cutting and adding
anew, disagrees with the signed head (`head`): a file of its own beside a SQLite file, a row of its own on PostgreSQL,
which every process witnesses in a file. Keep a copy of such a file elsewhere and even somebody with the whole disk,
the database and the key cannot shorten the record unseen.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from headspring.action.audit.head import HEADS, End, FileHead, Head, RowHead, Signer
from headspring.proto.errors import ConfigError, Rejected, Unavailable
from headspring.proto.relational.database import ALL_TENANTS, Database, Place
from headspring.proto.relational.schema import Schema
from headspring.proto.secret_file import make_or_read

_KEY_BYTES = 32
_MAX_DETAIL_BYTES = 64 * 1024
"""Bytes of one entry's detail."""
_MAX_PAGE = 1_000
_PAGE = 1_000
"""Entries read at a time when the chain is walked."""

_ENTRIES = sa.MetaData()
_Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_audit = sa.Table(
    "audit", _ENTRIES,
    sa.Column("number", _Whole, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("time_ns", _Whole, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("audit_tenant", "tenant", "number"),
    sqlite_strict=True,
)  # fmt: skip
SCHEMA = Schema(name="audit", tables=_ENTRIES)
_HEAD_SCHEMA = Schema(name="audit head", tables=HEADS)
_Row = tuple[int, str, int, str, str, str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing somebody did."""

    number: int
    """1-based, without gaps, over all tenants."""
    tenant: str
    time_ns: int
    actor: str
    action: str
    subject: str
    detail: Mapping[str, str] = field(default_factory=dict)
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the record is whole."""

    ok: bool
    checked: int
    first_bad: int = 0
    """Number of the first entry that is wrong or missing; 0 where all is well."""
    reason: str = ""


class AuditLog:
    """The record: one chain over all tenants and processes of an installation. Durable when `append` returns.

    Safe to call from several threads. Over a SQLite file one process writes: a second writer's appends are refused,
    because the head would not be its own. On PostgreSQL every process does, one after the other.
    """

    def __init__(self, place: Place, key_file: Path, head_file: Path) -> None:
        """
        Args:
            place: The database; a SQLite file is made when missing.
            key_file: The signing key; made, readable by the owner only, when the record is new.
            head_file: Number and hash of the last entry, signed; on PostgreSQL the last that this process saw.

        Raises:
            ConfigError: the key is missing although there are entries, it is no key, or another process signs with
                another one.
        """
        self._database = Database(place, SCHEMA)
        self._lock = threading.Lock()
        try:
            self._head = self._open(place, key_file, head_file)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @property
    def shared(self) -> bool:
        """Whether an entry may be added in a transaction of another store of the same database (`add`)."""
        return self._database.is_server

    def append(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str], now_ns: int, tenant: str = "default"
    ) -> Entry:
        """Adds an entry; it is on disk, and the head signed, when this returns.

        Raises:
            Rejected: the detail is too large, or the record no longer agrees with its head: adding to it would
                hide what was done to it.
            Unavailable: the database or the disk does not take it now.
        """
        with self._lock:
            try:
                with self._database.transaction(tenant=ALL_TENANTS) as connection:
                    entry = self.add(connection, actor, action, subject, detail, now_ns, tenant)
                self.added(entry)
            except OSError as error:
                raise Unavailable(f"the audit log cannot be written: {error}") from error
        return entry

    def add(
        self, connection: sa.Connection, actor: str, action: str, subject: str, detail: Mapping[str, str], now_ns: int,
        tenant: str,
    ) -> Entry:  # fmt: skip
        """Adds an entry in a transaction over all tenants, which waits for all others that do. Raises as `append`."""
        text = json.dumps(dict(detail), sort_keys=True, ensure_ascii=True)
        if len(text) > _MAX_DETAIL_BYTES:
            raise Rejected(f"the detail has {len(text)} bytes, at most {_MAX_DETAIL_BYTES} are kept")
        head = self._head.read(connection, to_write=True)  # first: the lock decides whose turn it is
        last = _last(connection)
        if head != last:
            raise Rejected("the audit log does not agree with its signed head; verify it before going on")
        row: _Row = (last[0] + 1, tenant, now_ns, actor, action, subject, text, last[1], "")
        row = (*row[:8], _hash(row))
        connection.execute(sa.insert(_audit).values(row))
        self._head.write(connection, (row[0], row[8]))
        return _entry(row)

    def added(self, entry: Entry) -> None:
        """To be called once the transaction of `add` is committed."""
        self._head.committed((entry.number, entry.hash))

    def entries(self, tenant: str, limit: int = 100, cursor: str = "") -> tuple[list[Entry], str]:
        """The newest entries of a tenant first, and the cursor of the next page ("" after the last).

        Raises:
            Rejected: the cursor is not one of ours.
        """
        if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise Rejected(f"{cursor[:40]!r} is not a cursor of this list")
        limit = max(1, min(limit, _MAX_PAGE))
        before = int(cursor) if cursor else 2**62
        query = sa.select(_audit).where(_audit.c.tenant == tenant, _audit.c.number < before)
        with self._database.reading(tenant=tenant) as connection:
            rows = connection.execute(query.order_by(_audit.c.number.desc()).limit(limit + 1)).all()
        page = [_entry(_row(row)) for row in rows[:limit]]
        return page, str(page[-1].number) if len(rows) > limit else ""

    def verify(self) -> Verdict:
        """Walks the whole chain. O(entries), one page in memory at a time."""
        seen, reached = self._head.seen(), False  # before the look at the record, which then holds that entry
        with self._lock, self._database.reading(tenant=ALL_TENANTS) as connection:
            previous, expected = "", 1
            for row in _walk(connection):
                reason = _fault(row, expected, previous)
                if reason:
                    return Verdict(ok=False, checked=expected - 1, first_bad=expected, reason=reason)
                previous, expected = row[8], expected + 1
                reached = reached or seen == (row[0], row[8])
            head = self._head.read(connection)
        checked = expected - 1
        if not isinstance(head, tuple):
            return Verdict(ok=False, checked=checked, first_bad=expected, reason=head or "the signed head is missing")
        if head != (checked, previous):
            reason = f"the signed head names entry {head[0]}, the record ends at {checked}"
            if head[0] == checked:
                reason = "the last entry is not the one that was signed"
            return Verdict(ok=False, checked=checked, first_bad=min(head[0], checked) or 1, reason=reason)
        if isinstance(seen, tuple) and seen[0] and not reached:
            reason = f"entry {seen[0]}, which this process saw signed, is missing or another one"
            return Verdict(ok=False, checked=checked, first_bad=min(seen[0], checked + 1), reason=reason)
        return Verdict(ok=True, checked=checked)

    @property
    def end(self) -> str:
        """Hash of the last entry, which covers all before it; "" for none."""
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            return _last(connection)[1]

    def adopt(self, source: AuditLog) -> int:
        """Takes over the whole record of another log that signed with the same key; how many entries were new.

        Doing it again, also after a crash, goes on where it stopped.

        Raises:
            Rejected: this log has entries of its own, or the other one is not whole.
        """
        verdict = source.verify()
        if not verdict.ok:
            raise Rejected(f"the audit log to be taken over is not whole: {verdict.reason}")
        added = 0
        with self._lock:
            while True:
                with self._database.transaction(tenant=ALL_TENANTS) as connection:
                    self._head.read(connection, to_write=True)  # first: the lock decides whose turn it is
                    last = _last(connection)
                    rows = source._after(last)
                    if not rows:
                        return added
                    connection.execute(
                        sa.insert(_audit), [dict(zip(_audit.c.keys(), row, strict=True)) for row in rows]
                    )
                    end = (rows[-1][0], rows[-1][8])
                    self._head.write(connection, end)
                self._head.committed(end)
                added += len(rows)

    def _after(self, end: End) -> list[_Row]:
        """A page of rows that follow the end of another record.

        Raises:
            Rejected: that record is no beginning of this one.
        """
        number, digest = end
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            mine = connection.execute(sa.select(_audit.c.hash).where(_audit.c.number == number)).scalar()
            if number and mine != digest:
                raise Rejected(f"entry {number} of the record to add to is not of this one; it has entries of its own")
            query = sa.select(_audit).where(_audit.c.number > number).order_by(_audit.c.number).limit(_PAGE)
            return [_row(row) for row in connection.execute(query)]

    def _open(self, place: Place, key_file: Path, head_file: Path) -> Head:
        if not self._database.is_server:
            with self._database.reading(tenant=ALL_TENANTS) as connection:
                last = _last(connection)
            new = last[0] == 0 and not head_file.exists()
            return FileHead(head_file, Signer(_key(key_file, new=new)), last, new=new)
        heads = Database(place, _HEAD_SCHEMA)  # the same pool; only its tables are wanted
        try:
            with heads.transaction(tenant=ALL_TENANTS) as connection:
                heads.lock(connection, "audit head")
                new = _last(connection)[0] == 0
                signer = Signer(_key(key_file, new=new))
                return RowHead(connection, signer, head_file, new=new, key_file=key_file, where=heads.name)
        finally:
            heads.close()


def _walk(connection: sa.Connection) -> Iterator[_Row]:
    after = -(2**63)
    query = sa.select(_audit).where(_audit.c.number > sa.bindparam("after")).order_by(_audit.c.number).limit(_PAGE)
    while rows := connection.execute(query, {"after": after}).all():
        yield from map(_row, rows)
        after = rows[-1][0]


def _last(connection: sa.Connection) -> End:
    query = sa.select(_audit.c.number, _audit.c.hash).order_by(_audit.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    return (int(row.number), str(row.hash)) if row else (0, "")


def _row(row: sa.Row[Any]) -> _Row:
    return cast(_Row, tuple(row))  # the table's columns in order


def _fault(row: _Row, expected: int, previous: str) -> str:
    if row[0] != expected:
        return f"entry {expected} is missing or out of place"
    if row[7] != previous:
        return f"entry {expected} does not follow the one before it"
    if not hmac.compare_digest(row[8], _hash(row)):
        return f"entry {expected} was changed after it was written"
    return ""


def _hash(row: _Row) -> str:
    """sha256 over everything in the row but the hash itself; JSON keeps the fields apart."""
    return hashlib.sha256(json.dumps(row[:8], ensure_ascii=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _entry(row: _Row) -> Entry:
    try:
        detail = json.loads(row[6])
    except ValueError:  # somebody changed it; `verify` says so, the list still shows it
        detail = {"damaged": row[6]}
    if not isinstance(detail, dict):
        detail = {"damaged": row[6]}
    return Entry(
        number=row[0], tenant=row[1], time_ns=row[2], actor=row[3], action=row[4], subject=row[5],
        detail={str(key): str(value) for key, value in detail.items()}, hash=row[8],
    )  # fmt: skip


def _key(path: Path, *, new: bool) -> bytes:
    try:
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = make_or_read(path, secrets.token_bytes(_KEY_BYTES).hex().encode() + b"\n")
        else:
            text = path.read_bytes()
        key = bytes.fromhex(text.decode("ascii").strip())
    except FileNotFoundError as error:
        raise ConfigError(f"the audit log has entries and its key {path} is missing; restore it") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not an audit key: {error}") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path} holds {len(key)} bytes, an audit key has {_KEY_BYTES}")
    return key
