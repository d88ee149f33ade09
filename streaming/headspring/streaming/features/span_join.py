"""What spans say about each other: time spent in calls to others, and who was called.

Spans that belong together end at different times and arrive in different batches, so each is remembered
for a while under its parent. Memory is two generations: the older one is dropped whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headspring.proto.telemetry import Span, SpanKind

GENERATION_NS = 20 * 1_000_000_000
"""A span is remembered for one to two of these: longer than the longest export delay that is waited for."""
_MAX_REMEMBERED = 200_000
"""Spans of one generation; a fuller one is turned over early."""
_MAX_NAMES = 10_000
"""Names under which services are called; senders choose them, so they need a bound."""
_MAX_DEPTH = 32
_OUT = (SpanKind.CLIENT, SpanKind.PRODUCER)
_IN = (SpanKind.SERVER, SpanKind.CONSUMER)


@dataclass(slots=True)
class _Generation:
    children: dict[str, list[tuple[str, bool, int, int]]] = field(default_factory=dict)
    """Entity, trace and parent → (span id, goes out, start, end) of its children in the same entity."""
    callee: dict[str, str] = field(default_factory=dict)
    """Trace and parent → entity whose server span it called."""
    local: set[str] = field(default_factory=set)
    """Entity, trace and span id of every span."""


class SpanJoin:
    """Remembers spans of one tenant. Keys are ids that senders made: a clash only blurs one number."""

    def __init__(self) -> None:
        self._new = _Generation()
        self._old = _Generation()
        self._turned_ns = 0
        self._answers: dict[str, str] = {}
        """Peer as callers name it → service that answered."""

    def remember(self, entity: str, span: Span, now_ns: int) -> None:
        if now_ns - self._turned_ns > GENERATION_NS or len(self._new.local) > _MAX_REMEMBERED:
            self._old, self._new, self._turned_ns = self._new, _Generation(), now_ns
        new = self._new
        new.local.add(f"{entity}|{span.trace_id}|{span.span_id}")
        if not span.parent_span_id:
            return
        if span.kind in _IN:
            new.callee[f"{span.trace_id}|{span.parent_span_id}"] = entity
        else:
            new.children.setdefault(f"{entity}|{span.trace_id}|{span.parent_span_id}", []).append(
                (span.span_id, span.kind in _OUT, span.start_ns, span.start_ns + span.duration_ns)
            )

    def callee(self, trace_id: str, span_id: str, peer: str) -> str:
        """Who was called: the entity whose server span has this client span as parent, else who answered under
        the same name before, else that name (`peer`); "" unknown."""
        key = f"{trace_id}|{span_id}"
        answered = self._new.callee.get(key) or self._old.callee.get(key, "")
        if not answered:
            return self._answers.get(peer, peer)
        if peer and (peer in self._answers or len(self._answers) < _MAX_NAMES):
            self._answers[peer] = answered
        return answered

    def is_local_root(self, entity: str, trace_id: str, parent_span_id: str) -> bool:
        """True if the parent is no span of the same entity."""
        key = f"{entity}|{trace_id}|{parent_span_id}"
        return not parent_span_id or (key not in self._new.local and key not in self._old.local)

    def self_time_ns(self, entity: str, trace_id: str, span_id: str, start_ns: int, end_ns: int) -> int:
        """Duration less the union of calls to others beneath the span, through internal spans too."""
        calls: list[tuple[int, int]] = []
        todo = [(span_id, 0)]
        while todo:
            parent, depth = todo.pop()
            key = f"{entity}|{trace_id}|{parent}"
            for generation in (self._new, self._old):
                for child, out, start, end in generation.children.get(key, ()):
                    if out:
                        calls.append((max(start, start_ns), min(end, end_ns)))
                    elif depth < _MAX_DEPTH:
                        todo.append((child, depth + 1))
        return end_ns - start_ns - covered_ns(calls)


def covered_ns(intervals: Sequence[tuple[int, int]]) -> int:
    """Length of the union of intervals; those that end before they start count nothing.

    >>> covered_ns([(0, 10), (5, 12), (20, 30), (9, 3)])
    22
    """
    total = 0
    reached: int | None = None
    for start, end in sorted(intervals):
        begin = start if reached is None else max(start, reached)
        if end > begin:
            total += end - begin
            reached = end
    return total
