"""Log lines: one index for each stretch of event time (`Schema.partition`), all read through one alias.

Retention hides and drops: a partition whose times are all too old is deleted whole, and of the one that the limit falls
into the alias shows only what is young enough. So nothing is ever deleted line by line, which costs as much as writing
it did; the space comes back partition by partition.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headspring.knowledge.documents.cursors import cursor_of, position_of
from headspring.knowledge.documents.elasticsearch.bulk import Operation, Outcome, write
from headspring.knowledge.documents.elasticsearch.connection import Connection, NoIndex
from headspring.knowledge.documents.elasticsearch.install import create_index
from headspring.knowledge.documents.elasticsearch.rows import source_line
from headspring.knowledge.documents.elasticsearch.schema import LOGS, Partition, Schema
from headspring.knowledge.documents.elasticsearch.searching import (
    MAX_PAGE,
    Filter,
    Hit,
    between,
    has_words,
    is_one_of,
    search,
    total,
)  # fmt: skip
from headspring.knowledge.documents.port import LogHit, Page
from headspring.knowledge.documents.words import log_lines
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import QueryError, Unavailable
from headspring.proto.ids import digest
from headspring.proto.telemetry import LogBatch, LogRecord

_ORDER = ("time_ns", "order", "tie")
"""Newest first; lines of one moment as they came; the last decides between lines of two batches received at once."""
_SOURCE = ("entity", "time_ns", "severity", "severity_text", "body", "trace_id", "span_id", "attributes")
_TIE = 2**63 - 1


class Logs:
    """The log part of the store."""

    def __init__(self, connection: Connection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema
        self._alias = schema.alias(LOGS)
        self._lock = threading.Lock()
        self._made: set[str] = set()
        """Partitions known to be there."""
        self.lifecycle = False
        """Whether the server has index lifecycles."""

    def put(self, batches: Sequence[LogBatch]) -> None:
        """Adds the lines that are not there yet.

        Raises:
            Unavailable, Rejected: as of `bulk.write`.
        """
        waiting = [placed for batch in batches for placed in self._operations(batch)]
        for _ in range(3):
            self._make({index for index, _ in waiting})
            outcomes = write(self._connection, [operation for _, operation in waiting])
            waiting = [one for one, outcome in zip(waiting, outcomes, strict=True) if outcome is Outcome.NO_INDEX]
            if not waiting:
                return
            with self._lock:  # somebody deleted a partition
                self._made.clear()
        raise Unavailable(f"the index {waiting[0][0]} is deleted as often as it is made")

    def search(
        self, tenant: str, text: str, *, entity: str, min_severity: int, start_ns: int, end_ns: int, limit: int,
        cursor: str,
    ) -> Page[LogHit]:  # fmt: skip
        """See the port.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        filters = [*is_one_of(tenant=tenant, entity=entity), between("time_ns", start_ns, end_ns)]
        if min_severity > 0:
            filters.append({"range": {"severity": {"gte": min_severity}}})
        after = _position(cursor)
        if text.strip():
            words = has_words(text, "body", "attributes")
            if words is None:
                return Page(items=())
            filters += words
        limit = max(1, min(limit, MAX_PAGE))
        try:
            hits, _ = search(
                self._connection, self._alias, filters, size=limit + 1, sort=_ORDER, after=after, fields=_SOURCE
            )
        except NoIndex:
            hits = []  # no partition is left
        items = [_hit(hit["_source"]) for hit in hits[:limit]]
        return Page(items=items, next_cursor=_cursor(hits[limit - 1]) if len(hits) > limit else "")

    def drop_before(self, time_ns: int) -> int:
        """See the port."""
        old: Filter = {"range": {"time_ns": {"lt": time_ns}}}
        dropped = total(self._connection, self._alias, [old])
        actions: list[dict[str, Any]] = []
        for partition, shown_from_ns in self._partitions():
            if partition.end_ns is not None and partition.end_ns <= time_ns:
                actions.append({"remove_index": {"index": partition.index}})
            elif partition.start_ns < time_ns and (shown_from_ns is None or shown_from_ns < time_ns):
                young: Filter = {"range": {"time_ns": {"gte": time_ns}}}
                actions.append({"add": {"index": partition.index, "alias": self._alias, "filter": young}})
        if actions:
            with self._connection.writing() as client:
                client.indices.update_aliases(actions=actions)  # all at one moment
            with self._lock:
                self._made.clear()
        return dropped

    def _partitions(self) -> Iterator[tuple[Partition, int | None]]:
        """What there is, and from what time on the alias shows it (None: all)."""
        with self._connection.writing() as client:
            found = client.indices.get_alias(index=self._schema.pattern(LOGS)).body
        for index, about in found.items():
            partition = self._schema.partition_of(index)
            if partition is not None:
                yield partition, _shown_from(about["aliases"].get(self._alias, {}))

    def _make(self, indices: set[str]) -> None:
        """Indices that are missing: not left to the server's own making, which may be switched off."""
        with self._lock:
            missing = sorted(indices - self._made)
        for index in missing:
            with self._connection.writing() as client:
                settings = self._schema.lifecycle_settings(index) if self.lifecycle else {}
                create_index(client, index, settings=settings)
        with self._lock:
            self._made.update(missing)

    def _operations(self, batch: LogBatch) -> Iterator[tuple[str, Operation]]:
        tenant = bytes.fromhex(digest(batch.tenant, size_bytes=8))
        for position, line in enumerate(log_lines(batch)):
            record = line.record
            index = self._schema.partition(record.time_ns, batch.received_ns)
            # Time first: ids of one stretch of time stand together, and an index' older segments need no look.
            seconds = (record.time_ns // NS_PER_S & 0xFFFFFFFF).to_bytes(4, "big")
            key = base64.urlsafe_b64encode(seconds + tenant + line.key).decode().rstrip("=")
            source = {
                "tenant": batch.tenant, "entity": batch.entity, "time_ns": record.time_ns,
                "order": batch.received_ns + position,
                "tie": int.from_bytes(line.key[:8], "big") + int.from_bytes(line.key[16:], "big") & _TIE,
                "severity": record.severity_number, "severity_text": record.severity_text, "body": record.body,
                "trace_id": record.trace_id, "span_id": record.span_id, "attributes": line.attributes,
            }  # fmt: skip
            name = f"log line of {batch.entity[:80]} at {record.time_ns}"
            head = b'{"create":{"_index":"%b","_id":"%b"}}\n' % (index.encode(), key.encode())
            yield index, Operation(head, source_line(source, name), name)


def _hit(source: Mapping[str, Any]) -> LogHit:
    return LogHit(
        entity=source["entity"],
        record=LogRecord(
            time_ns=source["time_ns"], severity_number=source["severity"], severity_text=source["severity_text"],
            body=source["body"], trace_id=source["trace_id"], span_id=source["span_id"],
            attributes=json.loads(source["attributes"]),
        ),
    )  # fmt: skip


def _cursor(hit: Hit) -> str:
    time_ns, order, tie = hit["sort"]
    return cursor_of(time_ns, f"{order}:{tie}")


def _position(cursor: str) -> list[int]:
    """Sort values of the line before the page; empty for the first page."""
    if not cursor:
        return []
    time_ns, key = position_of(cursor)
    try:
        order, tie = map(int, key.split(":"))
        if max(abs(order), abs(tie)) > _TIE:
            raise ValueError("too large")
    except ValueError as error:
        raise QueryError("the cursor is not one that this list gave; start again without it") from error
    return [time_ns, order, tie]


def _shown_from(alias: Mapping[str, Any]) -> int | None:
    """The limit in an alias' filter, which is ours."""
    found = alias.get("filter", {}).get("range", {}).get("time_ns", {})
    value = found.get("gte", found.get("from"))
    return int(value) if value is not None else None
