"""A hash-chained audit trail.

Each entry's hash covers its content and the hash before it, so an edit, an insertion or a deletion breaks
the chain at a place that can be named. A cut tail leaves a valid chain; so the newest hash and count are
signed (HMAC-SHA-256, a key in a file of its own) into a second file with every entry.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headspring.proto.errors import ContractError

_GENESIS = "0" * 64
_COLUMNS = "number, time_ns, tenant, actor, action, subject, detail, previous, hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    number: int
    """1, 2, 3 … without gaps over all tenants."""
    time_ns: int
    tenant: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, str] = field(default_factory=dict)
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    ok: bool
    checked: int
    first_bad: int = 0
    """Number of the first entry that is wrong or missing; 0 when all is well."""
    reason: str = ""


class AuditLog:
    """See the module. Calls block and may come from several threads."""

    def __init__(self, path: Path, key_file: Path, head_file: Path) -> None:
        self._key = _key(key_file)
        self._head_file = head_file
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, tenant TEXT NOT"
            " NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL,"
            " previous TEXT NOT NULL, hash TEXT NOT NULL)"
        )

    def append(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str], now_ns: int, tenant: str
    ) -> Entry:
        """Durable on return."""
        text = json.dumps(dict(detail), sort_keys=True, ensure_ascii=False)
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                row = self._db.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
                number, previous = (row[0] + 1, row[1]) if row else (1, _GENESIS)
                values = (number, now_ns, tenant, actor, action, subject, text, previous)
                value = _hash(values)
                self._db.execute(f"INSERT INTO audit ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", (*values, value))  # noqa: S608  # constant names
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._db.execute("ROLLBACK")
                raise
            self._sign(number, value)
        return Entry(
            number=number, time_ns=now_ns, tenant=tenant, actor=actor, action=action, subject=subject,
            detail=dict(detail), hash=value,
        )  # fmt: skip

    def entries(self, tenant: str, limit: int, cursor: str = "") -> tuple[Sequence[Entry], str]:
        """A tenant's entries, newest first, and the cursor of the next page ("" on the last).

        Raises:
            ContractError: not a cursor of this list.
        """
        if cursor and not cursor.isdigit():
            raise ContractError(f"{cursor[:40]!r} is not a cursor of the audit trail")
        below = int(cursor) if cursor else 2**62
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM audit WHERE tenant = ? AND number < ? ORDER BY number DESC LIMIT ?",  # noqa: S608  # constant names
                (tenant, below, limit + 1),
            ).fetchall()
        found = [
            Entry(
                number=row[0], time_ns=row[1], tenant=row[2], actor=row[3], action=row[4], subject=row[5],
                detail=json.loads(row[6]), hash=row[8],
            )
            for row in rows[:limit]
        ]  # fmt: skip
        return found, str(found[-1].number) if len(rows) > limit else ""

    def verify(self) -> Verdict:
        """Walks the whole chain and compares its end with the signed head."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM audit ORDER BY number").fetchall()  # noqa: S608  # constant names
            head = self._read_head()
        previous = _GENESIS
        for place, row in enumerate(rows, start=1):
            if row[0] != place:
                return Verdict(ok=False, checked=place - 1, first_bad=place, reason="an entry is missing")
            if row[7] != previous:
                return Verdict(
                    ok=False, checked=place - 1, first_bad=place, reason="does not follow from the entry before it"
                )
            if not hmac.compare_digest(_hash(row[:8]), row[8]):
                return Verdict(ok=False, checked=place - 1, first_bad=place, reason="its content was changed")
            previous = row[8]
        if head is None:
            if not rows:
                return Verdict(ok=True, checked=0)
            return Verdict(ok=False, checked=len(rows), first_bad=len(rows), reason="the signed head is gone or forged")
        count, value = head
        # The process may have died between an entry and its head: the head may then be one entry behind.
        if count > len(rows):
            return Verdict(ok=False, checked=len(rows), first_bad=len(rows) + 1, reason="entries were cut from the end")
        if count and rows[count - 1][8] != value:
            return Verdict(
                ok=False, checked=len(rows), first_bad=count, reason="the end is not the one that was signed"
            )
        if len(rows) > count + 1:
            return Verdict(ok=False, checked=len(rows), first_bad=count + 1, reason="entries follow the signed head")
        return Verdict(ok=True, checked=len(rows))

    def close(self) -> None:
        self._db.close()

    def _sign(self, number: int, value: str) -> None:
        body = f"{number} {value}"
        fresh = self._head_file.with_name(self._head_file.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{body} {self._mac(body)}\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self._head_file)

    def _read_head(self) -> tuple[int, str] | None:
        try:
            number, value, mac = self._head_file.read_text().split()
        except (OSError, ValueError):
            return None
        if not number.isdigit() or not hmac.compare_digest(mac, self._mac(f"{number} {value}")):
            return None
        return int(number), value

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


def _hash(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(values), ensure_ascii=False).encode()).hexdigest()


def _key(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key)
            stream.flush()
            os.fsync(stream.fileno())
        return key
