"""Regular expressions as Prometheus has them, in linear time whatever the pattern."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import duckdb

from headspring.proto.errors import QueryError

MAX_PATTERN_CHARS = 2_000


class Re2:
    """RE2 through DuckDB: the dialect Prometheus uses, and patterns come from queries. Thread-safe."""

    def __init__(self) -> None:
        # Apart from any history: what happens to a file is nothing to a regular expression.
        self._db = duckdb.connect(":memory:", config={"threads": 1})
        self._lock = threading.Lock()

    def match(self, pattern: str, texts: Sequence[str]) -> Sequence[bool]:
        """For each text whether the whole of it matches.

        Raises:
            QueryError: the pattern is not valid, or too long.
        """
        check_length(pattern)
        try:
            with self._lock:
                rows = self._db.execute(
                    "SELECT list_transform($1::VARCHAR[], lambda text: regexp_full_match(text, $2))",
                    [list(texts), pattern],
                ).fetchone()
        except duckdb.Error as error:
            raise QueryError(f"not a valid regular expression {pattern!r}: {error}") from error
        return [bool(one) for one in rows[0]] if rows else []

    def close(self) -> None:
        self._db.close()


def check_length(pattern: str) -> None:
    """
    Raises:
        QueryError: the pattern is longer than any that people write.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise QueryError(f"regular expression has {len(pattern)} characters, at most {MAX_PATTERN_CHARS} are taken")
