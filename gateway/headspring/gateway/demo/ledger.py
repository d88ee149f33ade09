"""Idempotency keys of the operations API: one effect a key, and the same answer ever after.

Follows draft-ietf-httpapi-idempotency-key-header: same key and same request → the first answer again;
same key and another request → refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headspring.proto.errors import Rejected

MAX_KEY_CHARS = 200
_KEPT = 10_000
"""Answers kept; a runbook repeats a call within minutes, not after ten thousand others."""


class Ledger:
    """Answers by key, in a SQLite file. Calls may come from several threads; effects run one at a time."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL)"
        )

    def once(self, key: str, request: Any, effect: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """(answer, whether it is a replay). Without a key the effect simply runs.

        An effect that raises leaves no answer, so the call may be repeated.

        Raises:
            Rejected: the key is too long or belongs to another request.
        """
        if len(key) > MAX_KEY_CHARS:
            raise Rejected(f"Idempotency-Key has {len(key)} characters, at most {MAX_KEY_CHARS} are taken")
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        with self._lock:
            if key:
                row = self._connection.execute("SELECT request, answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row and row[0] != digest:
                    raise Rejected("this Idempotency-Key was used for another request; wanted a new key")
                if row:
                    return json.loads(row[1]), True
            answer = effect()
            if key:
                self._connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (key, digest, json.dumps(answer)))
                self._connection.execute(
                    "DELETE FROM answers WHERE rowid <= (SELECT max(rowid) FROM answers) - ?", (_KEPT,)
                )
            return answer, False

    def close(self) -> None:
        self._connection.close()
