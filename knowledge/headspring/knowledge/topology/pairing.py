"""Which service called which: spans of both sides paired by parent and child, in whatever order they come.

A child span whose parent belongs to another service is a call. A client or producer span that names its
peer and gets no such child within the grace is a call to something that sends no spans itself: a
database, a cache, a queue, an outside service.

Memory is bounded by generations: what was seen is kept in a few dictionaries by age, and the oldest is
dropped whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headspring.knowledge.topology.graph import EdgeType
from headspring.proto.telemetry import Span, SpanKind

GENERATIONS = 5
"""Kept ages; with a rotation every 30 s both sides of a call may arrive 2 to 2.5 minutes apart."""
_MAX_PER_GENERATION = 100_000
"""Spans in one generation, about 30 MB; a busier stream rotates early, so pairs then meet within less time."""
_MAX_NAMES = 50_000
"""Names under which services are called; senders choose them, so they need a bound."""
_BY_PEER_KIND = {"database": EdgeType.DATABASE, "cache": EdgeType.CACHE, "queue": EdgeType.ASYNC}

_Key = tuple[str, str, str]
"""Tenant, trace id, span id."""


class Call(NamedTuple):
    """One observed call."""

    tenant: str
    caller: str
    callee: str
    type: EdgeType
    time_ns: int


class _Seen(NamedTuple):
    entity: str
    kind: SpanKind
    peer: str
    """"" once the remote side was seen, or where the span names none."""
    time_ns: int


class SpanPairing:
    """Finds calls in a stream of spans. One user at a time."""

    def __init__(self) -> None:
        self._seen: list[dict[_Key, _Seen]] = [{} for _ in range(GENERATIONS)]
        self._orphans: list[dict[_Key, list[_Seen]]] = [{} for _ in range(GENERATIONS)]
        """By the parent's key: spans whose parent has not come yet."""
        self._early: list[Call] = []
        self._answers: dict[tuple[str, str], str] = {}
        """Tenant and peer as callers name it → entity that answered under that name."""

    def __len__(self) -> int:
        return sum(map(len, self._seen)) + sum(map(len, self._orphans))

    def add(self, tenant: str, entity: str, span: Span) -> Iterator[Call]:
        """Takes one span; yields the calls that it completes."""
        key = (tenant, span.trace_id, span.span_id)
        if any(key in generation for generation in self._seen):
            return  # delivered again
        remote = span.kind in (SpanKind.CLIENT, SpanKind.PRODUCER)
        time_ns = span.start_ns + span.duration_ns
        peer = span.peer if remote and span.peer != entity else ""
        if span.peer.startswith("queue:") and span.kind in (SpanKind.PRODUCER, SpanKind.CONSUMER):
            # A broker sends no spans, yet it is where a backlog shows: it stays a node between both sides.
            peer = ""
            ends = (entity, span.peer) if span.kind is SpanKind.PRODUCER else (span.peer, entity)
            yield Call(tenant, *ends, EdgeType.ASYNC, time_ns)
        me = _Seen(entity, span.kind, peer, time_ns)
        for generation in self._orphans:
            for child in generation.pop(key, ()):
                if child.entity != entity:
                    self._learn(tenant, me.peer, child.entity)
                    me = me._replace(peer="")
                    yield _call(tenant, me, child)
        self._seen[0][key] = me
        if span.parent_span_id:
            yield from self._find_parent((tenant, span.trace_id, span.parent_span_id), me)
        if len(self._seen[0]) >= _MAX_PER_GENERATION:
            self._early.extend(self.rotate())

    def _find_parent(self, parent_key: _Key, me: _Seen) -> Iterator[Call]:
        for generation in self._seen:
            parent = generation.get(parent_key)
            if parent is not None:
                if parent.entity != me.entity:
                    self._learn(parent_key[0], parent.peer, me.entity)
                    generation[parent_key] = parent._replace(peer="")
                    yield _call(parent_key[0], parent, me)
                return
        self._orphans[0].setdefault(parent_key, []).append(me)

    def _learn(self, tenant: str, peer: str, answered: str) -> None:
        """So that a call without an answer is one to who answered under that name before."""
        if peer and ((tenant, peer) in self._answers or len(self._answers) < _MAX_NAMES):
            self._answers[tenant, peer] = answered

    def rotate(self) -> list[Call]:
        """Ages everything by one generation; returns calls to peers that stayed silent for the grace.

        The grace is over with the second rotation after a span came: one to two rotations.
        """
        calls, self._early = self._early, []
        for (tenant, _, _), span in self._seen[1].items():
            callee = self._answers.get((tenant, span.peer), span.peer)
            if callee and callee != span.entity:
                calls.append(Call(tenant, span.entity, callee, _peer_type(span), span.time_ns))
        self._seen = [{}, *self._seen[:-1]]
        self._orphans = [{}, *self._orphans[:-1]]
        return calls


def _call(tenant: str, parent: _Seen, child: _Seen) -> Call:
    decoupled = parent.kind is SpanKind.PRODUCER or child.kind is SpanKind.CONSUMER
    kind = EdgeType.ASYNC if decoupled else EdgeType.SYNC
    return Call(tenant, parent.entity, child.entity, kind, child.time_ns)


def _peer_type(span: _Seen) -> EdgeType:
    by_kind = _BY_PEER_KIND.get(span.peer.partition(":")[0])
    if by_kind is not None:
        return by_kind
    return EdgeType.ASYNC if span.kind is SpanKind.PRODUCER else EdgeType.SYNC
