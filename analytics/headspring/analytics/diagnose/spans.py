"""Spans as a forest: who called whom, and who spent the time. Pure NumPy, one pass over the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.traces.port import SpanTable

_OUT = ("client", "producer")
_IN = ("server", "consumer")


@dataclass(frozen=True)
class Forest:
    """A span table with its links. Arrays have one item per span."""

    table: SpanTable
    parent: NDArray[np.int64]
    """Row of the parent, -1 for none in the table."""
    root: NDArray[np.int64]
    """Row of the topmost span that is reachable through parents."""

    @classmethod
    def of(cls, table: SpanTable) -> Forest:
        rows = {key: row for row, key in enumerate(zip(table.trace_id, table.span_id, strict=True))}
        parent = np.fromiter(
            (
                rows.get((trace, up), -1) if up else -1
                for trace, up in zip(table.trace_id, table.parent_span_id, strict=True)
            ),
            dtype=np.int64,
            count=len(table),
        )
        own = np.arange(len(table))
        parent[parent == own] = -1
        root = np.where(parent >= 0, parent, own)
        # Pointer doubling: depth d needs log2(d) rounds; a broken cycle just stops after 8 (256 levels).
        for _ in range(8):
            following = root[root]
            if (following == root).all():
                break
            root = following
        return cls(table=table, parent=parent, root=root)

    @cached_property
    def entry(self) -> NDArray[np.bool_]:
        """The span serves a request of its entity: kind says so, or its parent belongs to somebody else."""
        entity = self.table.entity
        foreign = np.ones(len(self.table), dtype=np.bool_)
        inner = self.parent >= 0
        foreign[inner] = entity[self.parent[inner]] != entity[inner]
        kind = self.table.kind
        serves = np.isin(kind, _IN)
        result: NDArray[np.bool_] = serves | (
            foreign & ~np.isin(kind, _OUT) & (inner | (self.table.parent_span_id == ""))
        )
        return result

    @cached_property
    def crossing(self) -> NDArray[np.bool_]:
        """The span's parent belongs to another entity."""
        result = np.zeros(len(self.table), dtype=np.bool_)
        inner = np.flatnonzero(self.parent >= 0)
        result[inner] = self.table.entity[self.parent[inner]] != self.table.entity[inner]
        return result

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        """The span has a child that belongs to another entity."""
        result = np.zeros(len(self.table), dtype=np.bool_)
        result[self.parent[self.crossing]] = True
        return result

    @cached_property
    def outward(self) -> NDArray[np.bool_]:
        """The span is a call to somebody else: kind says so, or another entity's span is beneath it."""
        result: NDArray[np.bool_] = np.isin(self.table.kind, _OUT) | (
            self.answered & np.isin(self.table.kind, ("unspecified", ""))
        )
        return result

    @cached_property
    def serving(self) -> NDArray[np.int64]:
        """Row of the request that the span's entity was serving with it: the nearest entry above, itself included."""
        own = np.arange(len(self.table))
        up = np.where(self.entry | self.crossing | (self.parent < 0), own, self.parent)
        for _ in range(8):
            following = up[up]
            if (following == up).all():
                break
            up = following
        return up

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Position of a call among the calls of its parent, by start; 0 for spans that are no calls."""
        result = np.zeros(len(self.table), dtype=np.int64)
        calls = np.flatnonzero(self.outward & (self.parent >= 0))
        order = calls[np.lexsort((self.table.start_ns[calls], self.parent[calls]))]
        if order.size:
            up = self.parent[order]
            fresh = np.r_[True, up[1:] != up[:-1]]
            begin = np.flatnonzero(fresh)
            result[order] = np.arange(order.size) - begin[np.cumsum(fresh) - 1]
        return result

    @cached_property
    def exclusive_ns(self) -> NDArray[np.int64]:
        """Duration less the union of the children's times."""
        table = self.table
        covered = np.zeros(len(table), dtype=np.int64)
        child = np.flatnonzero(self.parent >= 0)
        if child.size:
            up = self.parent[child]
            begin = table.start_ns[up]
            limit = table.duration_ns[up]
            start = np.clip(table.start_ns[child] - begin, 0, limit)
            end = np.clip(table.start_ns[child] + table.duration_ns[child] - begin, 0, limit)
            order = np.lexsort((start, up))
            up, start, end = up[order], start[order], end[order]
            group = np.cumsum(np.r_[0, up[1:] != up[:-1]])
            # Groups are laid end to end on one axis, so a single running maximum serves them all.
            reach = int(limit.max()) + 1
            if group[-1] * reach > 2**62:
                reach = int(2**62 // (group[-1] + 1))
                start, end = np.minimum(start, reach - 1), np.minimum(end, reach - 1)
            base = group * reach
            furthest = np.maximum.accumulate(end + base)
            before = np.r_[0, furthest[:-1]]
            fresh = np.maximum(furthest - np.maximum(before, start + base), 0)
            np.add.at(covered, up, fresh)
        result: NDArray[np.int64] = np.maximum(table.duration_ns - covered, 0)
        return result


EMPTY = SpanTable(
    trace_id=np.empty(0, dtype=np.object_),
    span_id=np.empty(0, dtype=np.object_),
    parent_span_id=np.empty(0, dtype=np.object_),
    entity=np.empty(0, dtype=np.object_),
    instance=np.empty(0, dtype=np.object_),
    operation=np.empty(0, dtype=np.object_),
    kind=np.empty(0, dtype=np.object_),
    peer=np.empty(0, dtype=np.object_),
    start_ns=np.empty(0, dtype=np.int64),
    duration_ns=np.empty(0, dtype=np.int64),
    status=np.empty(0, dtype=np.object_),
    status_message=np.empty(0, dtype=np.object_),
)
"""No spans."""
