"""Bulk writes: many operations a request, an outcome for each; what the server has no room for now is sent again."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from elasticsearch import ApiError

from headspring.knowledge.documents.elasticsearch.connection import Connection, reason_of
from headspring.proto.errors import BackendError, Rejected, Unavailable

_MAX_OPERATIONS = 2_000
_LEAST_BYTES = 64 * 1024
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0
_NAMED = 3
"""Documents that one error names."""
_WANTED = "items.*.status,items.*.error"
"""Of the answer: the rest is as long again as short documents."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Two lines of the bulk protocol, what to do and the document (empty for a delete); a name for people."""

    head: bytes
    body: bytes
    name: str


class Outcome(Enum):
    """What became of an operation."""

    DONE = "done"
    CONFLICT = "conflict"
    """Somebody else was first; for a create: it is there already."""
    NO_INDEX = "no index"
    GONE = "gone"
    """A delete of what is not there."""


def write(connection: Connection, operations: Sequence[Operation]) -> list[Outcome]:
    """Sends all and tells what became of each, in order.

    Raises:
        Unavailable: some could not be written now, after trying for `busy_s`; others may have been.
        Rejected: some will never be taken, names them; of the others every one has an outcome of its own.
    """
    return _Write(connection, operations).run()


class _Write:
    """One call of `write`; operations go by their number."""

    def __init__(self, connection: Connection, operations: Sequence[Operation]) -> None:
        self._connection = connection
        self._operations = operations
        self._outcomes: list[Outcome | None] = [None] * len(operations)
        self._refused: list[str] = []

    def run(self) -> list[Outcome]:
        chunks = deque(_chunks(self._operations, self._connection.bulk_bytes))
        while chunks:
            chunk = chunks.popleft()
            if not self._write(chunk):
                middle = len(chunk) // 2
                chunks.extendleft((chunk[middle:], chunk[:middle]))
        if self._refused:
            more = f" and {len(self._refused) - _NAMED} more" if len(self._refused) > _NAMED else ""
            raise Rejected(
                f"Elasticsearch refuses {len(self._refused)} of {len(self._operations)} documents: "
                f"{'; '.join(self._refused[:_NAMED])}{more}"
            )
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _write(self, chunk: list[int]) -> bool:
        """Until each has an outcome; False: the request is too large for the server, halve it."""
        busy_s, wait_s = self._connection.settings.busy_s, _FIRST_WAIT_S
        deadline_s = time.monotonic() + busy_s
        while True:
            try:
                chunk, why = self._send(chunk)
            except (Rejected, Unavailable) as failure:
                status = _status(failure)
                if status == 413:
                    return self._too_large(chunk, str(failure))
                if status != 429:
                    raise
                why = str(failure)
            if not chunk:
                return True
            if time.monotonic() + wait_s > deadline_s:
                more = f" and {len(chunk) - 1} more" if len(chunk) > 1 else ""
                raise Unavailable(
                    f"Elasticsearch at {self._connection.settings.where} had no room within {busy_s:g} s for "
                    f"{self._operations[chunk[0]].name}{more}: {why}",
                    retry_after_s=_LONGEST_WAIT_S,
                )
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 — spreads writers, guards nothing
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)

    def _send(self, chunk: list[int]) -> tuple[list[int], str]:
        """One request; what to send again, and why."""
        operations = self._operations
        with self._connection.writing() as client:
            answer = client.perform_request(
                "POST", "/_bulk", params={"filter_path": _WANTED}, endpoint_id="bulk",
                body=b"".join([operations[number].head + operations[number].body for number in chunk]),
                headers={"accept": "application/json", "content-type": "application/x-ndjson"},
            )  # fmt: skip
        again: list[int] = []
        why = forbidden = ""
        items: list[dict[str, dict[str, Any]]] = answer.body["items"]
        for number, item in zip(chunk, items, strict=True):
            (result,) = item.values()
            status, error = result["status"], result.get("error")
            if status < 300:
                self._outcomes[number] = Outcome.DONE
            elif status == 409:
                self._outcomes[number] = Outcome.CONFLICT
            elif status == 404:
                self._outcomes[number] = Outcome.NO_INDEX if error else Outcome.GONE
            elif status == 429 or status >= 500:
                again.append(number)
                why = reason_of(error)
            elif status in (401, 403):
                forbidden = reason_of(error)
            else:
                self._refused.append(f"{operations[number].name}: {reason_of(error)}")
        if forbidden:
            # A right, or a block of the index: nothing about the document, which waits for the operator.
            raise Unavailable(
                f"Elasticsearch at {self._connection.settings.where} does not allow writing: {forbidden}",
                retry_after_s=5.0,
            )
        return again, why

    def _too_large(self, chunk: list[int], why: str) -> bool:
        if len(chunk) > 1:
            size = sum(len(self._operations[number].body) for number in chunk)
            self._connection.bulk_bytes = min(self._connection.bulk_bytes, max(_LEAST_BYTES, size // 2))
            return False
        self._refused.append(f"{self._operations[chunk[0]].name}: {why}")
        return True


def _status(failure: BackendError) -> int:
    return failure.__cause__.meta.status if isinstance(failure.__cause__, ApiError) else 0


def _chunks(operations: Sequence[Operation], max_bytes: int) -> Iterator[list[int]]:
    """Numbers of operations that go in one request."""
    chunk: list[int] = []
    size = 0
    for number, operation in enumerate(operations):
        own = len(operation.head) + len(operation.body)
        if chunk and (size + own > max_bytes or len(chunk) == _MAX_OPERATIONS):
            yield chunk
            chunk, size = [], 0
        chunk.append(number)
        size += own
    if chunk:
        yield chunk
