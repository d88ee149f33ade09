"""An append-only record of actions: each entry holds the hash of the one before, the last is signed.

Changing, dropping, adding or reordering an entry breaks the chain. Cutting the end off, or cutting and adding
anew, disagrees with the signed head, which lives in a file of its own: keep a copy of it elsewhere and even
somebody with the whole disk and the key cannot shorten the record unseen.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headspring.proto.errors import ConfigError, Rejected, Unavailable
from headspring.proto.secret_file import make

_KEY_BYTES = 32
_MAX_DETAIL_BYTES = 64 * 1024
"""Bytes of one entry's detail."""
_MAX_PAGE = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, tenant TEXT NOT NULL, time_ns INTEGER NOT NULL, actor TEXT NOT NULL,
    action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS audit_tenant ON audit (tenant, number);
"""
_COLUMNS = "number, tenant, time_ns, actor, action, subject, detail, previous, hash"
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
    """The record. Safe to call from several threads; durable when `append` returns (synchronous=FULL, fsync).

    One process writes: a second writer's appends are refused, because the head would not be its own.
    """

    def __init__(self, path: Path, key_file: Path, head_file: Path) -> None:
        """
        Args:
            path: The database; made when missing.
            key_file: The signing key; made, readable by the owner only, when the database is new.
            head_file: Number and hash of the last entry, signed.

        Raises:
            ConfigError: the key is missing although there are entries, or it is no key.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10.0)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
        self._head_file = head_file
        self._draft = head_file.with_name(head_file.name + ".new")
        last = self._last()
        self._key = _key(key_file, new=last[0] == 0 and not head_file.exists())
        if last[0] == 0 and not head_file.exists():
            self._draft_head(0, "")
            self._draft.replace(head_file)
        elif self._head() != last and self._head(self._draft) == last:
            # A crash between commit and rename: the draft was signed by us before the entry was committed.
            self._draft.replace(head_file)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def append(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str], now_ns: int, tenant: str = "default"
    ) -> Entry:
        """Adds an entry; it is on disk, and the head signed, when this returns.

        Raises:
            Rejected: the detail is too large, or the record no longer agrees with its head: adding to it would
                hide what was done to it.
            Unavailable: the disk does not take it now.
        """
        text = json.dumps(dict(detail), sort_keys=True, ensure_ascii=True)
        if len(text) > _MAX_DETAIL_BYTES:
            raise Rejected(f"the detail has {len(text)} bytes, at most {_MAX_DETAIL_BYTES} are kept")
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    last = self._last()
                    if self._head() != last:
                        raise Rejected("the audit log does not agree with its signed head; verify it before going on")
                    number, previous = last[0] + 1, last[1]
                    row: _Row = (number, tenant, now_ns, actor, action, subject, text, previous, "")
                    row = (*row[:8], _hash(row))
                    self._db.execute(f"INSERT INTO audit ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", row)  # noqa: S608
                    self._draft_head(number, row[8])
                    self._db.execute("COMMIT")
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._draft.replace(self._head_file)
            except (sqlite3.Error, OSError) as error:
                raise Unavailable(f"the audit log cannot be written: {error}") from error
        return _entry(row)

    def entries(self, tenant: str, limit: int = 100, cursor: str = "") -> tuple[list[Entry], str]:
        """The newest entries of a tenant first, and the cursor of the next page ("" after the last).

        Raises:
            Rejected: the cursor is not one of ours.
        """
        if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise Rejected(f"{cursor[:40]!r} is not a cursor of this list")
        limit = max(1, min(limit, _MAX_PAGE))
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE tenant = ? AND number < ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                (tenant, int(cursor) if cursor else 2**62, limit + 1),
            ).fetchall()
        page = [_entry(row) for row in rows[:limit]]
        return page, str(page[-1].number) if len(rows) > limit else ""

    def verify(self) -> Verdict:
        """Walks the whole chain. O(entries), one page in memory at a time."""
        with self._lock:
            previous, expected = "", 1
            for row in self._walk():
                reason = _fault(row, expected, previous)
                if reason:
                    return Verdict(ok=False, checked=expected - 1, first_bad=expected, reason=reason)
                previous, expected = row[8], expected + 1
            head = self._head()
        checked = expected - 1
        if not isinstance(head, tuple):
            return Verdict(ok=False, checked=checked, first_bad=expected, reason=head or "the signed head is missing")
        if head != (checked, previous):
            reason = f"the signed head names entry {head[0]}, the record ends at {checked}"
            if head[0] == checked:
                reason = "the last entry is not the one that was signed"
            return Verdict(ok=False, checked=checked, first_bad=min(head[0], checked) or 1, reason=reason)
        return Verdict(ok=True, checked=checked)

    def _walk(self) -> Iterator[_Row]:
        after = -(2**63)
        while rows := self._db.execute(
            f"SELECT {_COLUMNS} FROM audit WHERE number > ? ORDER BY number LIMIT 1000",  # noqa: S608
            (after,),
        ).fetchall():
            yield from rows
            after = rows[-1][0]

    def _last(self) -> tuple[int, str]:
        row = self._db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
        return (int(row[0]), str(row[1])) if row else (0, "")

    def _head(self, path: Path | None = None) -> tuple[int, str] | str | None:
        """Number and hash of the signed head; None where there is no file; else what is wrong with it."""
        try:
            parts = (path or self._head_file).read_text("ascii").split("\n")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            return f"the signed head cannot be read: {error}"
        if len(parts) != 4 or not parts[0].isdigit() or len(parts[0]) > 19:
            return "the signed head is damaged"
        if not hmac.compare_digest(parts[2], self._sign(parts[0], parts[1])):
            return "the signature of the head is wrong"
        return int(parts[0]), parts[1]

    def _draft_head(self, number: int, digest: str) -> None:
        """Writes the next head beside the present one; a rename makes it count once the entry is committed."""
        self._head_file.parent.mkdir(parents=True, exist_ok=True)
        with self._draft.open("w", encoding="ascii") as file:
            file.write(f"{number}\n{digest}\n{self._sign(str(number), digest)}\n")
            file.flush()
            os.fsync(file.fileno())

    def _sign(self, number: str, digest: str) -> str:
        return hmac.new(self._key, f"headspring-audit-head:{number}:{digest}".encode(), hashlib.sha256).hexdigest()


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
        key = bytes.fromhex(path.read_text("ascii").strip())
    except FileNotFoundError as error:
        if not new:
            raise ConfigError(f"the audit log has entries and its key {path} is missing; restore it") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_bytes(_KEY_BYTES)
        make(path, key.hex().encode() + b"\n")
    except ValueError as error:
        raise ConfigError(f"{path} is not an audit key: {error}") from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path} holds {len(key)} bytes, an audit key has {_KEY_BYTES}")
    return key
