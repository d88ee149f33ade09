"""What a service's spans of one bucket add up to, until the bucket closes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headspring.proto.clock import NS_PER_S
from headspring.streaming.features.span_join import SpanJoin

LEAST_DELAY_NS = NS_PER_S // 2
"""Shortest wait for spans of a bucket after its end."""
SILENT_NS = 600 * NS_PER_S
"""How long a service that sends nothing keeps reporting no requests."""
_MAX_BUCKET_SPANS = 100_000
"""Durations kept of one service and bucket; more only add to the rate and the error count."""


@dataclass(slots=True)
class Row:
    """What is kept of a span until its bucket closes."""

    trace_id: str
    span_id: str
    start_ns: int
    end_ns: int
    error: bool
    peer: str = ""
    parent_id: str = ""


@dataclass(slots=True)
class Tally:
    """A bucket of one service or edge."""

    count: int = 0
    errors: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.count += 1
        self.errors += row.error
        if len(self.rows) < _MAX_BUCKET_SPANS:
            self.rows.append(row)


@dataclass(slots=True)
class Service:
    next_bucket: int
    """The oldest bucket that is open."""
    delay_ns: float = LEAST_DELAY_NS
    last_span_ns: int = 0
    last_server_ns: int = 0
    requests: dict[int, Tally] = field(default_factory=dict)
    """By bucket: spans of requests it served."""
    inner: dict[int, Tally] = field(default_factory=dict)
    """By bucket: other spans; the topmost of them stand in where a service serves nobody."""
    calls: dict[int, Tally] = field(default_factory=dict)
    """By bucket: its calls to others."""
    next_call_bucket: int = 0

    def serves(self, now_ns: int) -> bool:
        """It had a server or consumer span not long ago."""
        return self.last_server_ns > 0 and now_ns - self.last_server_ns <= SILENT_NS


def topmost(join: SpanJoin, entity: str, tally: Tally | None) -> Tally | None:
    """The spans whose parent is none of the same entity. Asked when the bucket closes: a parent ends, and comes,
    after its children."""
    if tally is None:
        return None
    top = Tally()
    for row in tally.rows:
        if join.is_local_root(entity, row.trace_id, row.parent_id):
            top.add(row)
    return top if top.count else None


def tallies(buckets: dict[str, dict[str, Any]]) -> dict[int, Tally]:
    """Buckets out of a snapshot, where JSON made their numbers text."""
    return {
        int(number): Tally(**{**tally, "rows": [Row(**row) for row in tally["rows"]]})
        for number, tally in buckets.items()
    }
