"""What is known of one tenant's graph over time: each edge and node with the lives over which it was seen.

A *life* is a span from a first to a last sighting in which no two neighbours are further apart than the expiry; a
longer silence ends it and the next sighting begins another. So the same sightings give the same lives in whatever
order they come, and coming again changes nothing. Backends keep these rows; every one builds its snapshots here.

Work on rows has two steps: a question (`observed`, `declared`, …) gives `Changes` without touching anything, and
`apply` takes them once the backend has them on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology
from headspring.proto.clock import NS_PER_S

CONFIGURED = "config"
"""Source of edges that an operator declared; they do not expire."""
LEAD_NS = 120 * NS_PER_S
"""Discovery learns an edge up to two minutes after its first call; for that long before its first sighting
it counts as there, so that an incident in the first minutes of an estate still has a graph."""
FORGET_FACTOR = 96
"""Lives are dropped this many expiries after their last sighting (a day by default); until then `at_ns` can
look back at them."""
_EVER = 2**62
_CACHED = 4
"""Snapshots kept: the present, and the few moments that diagnoses under way look back at."""

Life = tuple[int, int]
"""First and last sighting, unix ns."""
EdgeKey = tuple[str, str, EdgeType]
"""Caller, callee, type."""
Thing = TypeVar("Thing", Edge, Node)


@dataclass(frozen=True, slots=True)
class Row(Generic[Thing]):
    """All that is known of an edge or a node."""

    seen: Thing | None = None
    """Newest observation; its `last_seen_ns` ends the last life. None: never observed."""
    lives: tuple[Life, ...] = ()
    """Oldest first."""
    declared: Thing | None = None
    """As an operator declared it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows by key."""

    edges: Mapping[EdgeKey, Row[Edge]] = field(default_factory=dict)
    nodes: Mapping[str, Row[Node]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.edges) + len(self.nodes)


@dataclass(frozen=True, slots=True)
class Changes:
    """New rows by key; None where the row goes away."""

    edges: Mapping[EdgeKey, Row[Edge] | None] = field(default_factory=dict)
    nodes: Mapping[str, Row[Node] | None] = field(default_factory=dict)
    undeclared: bool = False
    """Rows here may have lost what was declared."""

    def __len__(self) -> int:
        return len(self.edges) + len(self.nodes)


def union(lives: Iterable[Life], more: Iterable[Life], expiry_ns: int) -> tuple[Life, ...]:
    """Lives of both, joined where the silence between them is no longer than the expiry.

    >>> union([(0, 10)], [(15, 15), (40, 50)], expiry_ns=5)
    ((0, 15), (40, 50))
    """
    out: list[Life] = []
    for first, last in sorted((*lives, *more)):
        if out and first - out[-1][1] <= expiry_ns:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return tuple(out)


def sighted(row: Row[Thing] | None, thing: Thing, expiry_ns: int) -> Row[Thing]:
    """The row after one more sighting; the newest one's words count."""
    time_ns = thing.last_seen_ns
    if row is None:
        return Row(seen=thing, lives=((time_ns, time_ns),))
    seen, declared = row.seen, row.declared
    lives: tuple[Life, ...] = row.lives
    if seen is None:
        return Row(seen=thing, lives=((time_ns, time_ns),), declared=declared)
    first, last = lives[-1]
    if last <= time_ns <= last + expiry_ns:  # nearly always: still there
        return Row(seen=thing, lives=(*lives[:-1], (first, time_ns)), declared=declared)
    joined = union(lives, ((time_ns, time_ns),), expiry_ns)
    return Row(seen=thing if time_ns > last else seen, lives=joined, declared=declared)


def merged(row: Row[Thing] | None, other: Row[Thing], expiry_ns: int) -> Row[Thing]:
    """What both know together; where both were declared, `other` counts."""
    if row is None:
        return other
    newest = row.seen
    if other.seen is not None and (newest is None or other.seen.last_seen_ns >= newest.last_seen_ns):
        newest = other.seen
    return Row(
        seen=newest, lives=union(row.lives, other.lives, expiry_ns),
        declared=other.declared if other.declared is not None else row.declared,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cached:
    topology: Topology
    from_ns: int
    until_ns: int
    """The snapshot holds for from_ns <= at_ns < until_ns."""


class TenantRows:
    """One tenant's rows in memory. One writer at a time; snapshots from any thread meanwhile."""

    def __init__(self, expiry_ns: int) -> None:
        self._expiry_ns = expiry_ns
        self._edges: dict[EdgeKey, Row[Edge]] = {}
        self._nodes: dict[str, Row[Node]] = {}
        self._lock = threading.Lock()
        self._cached: list[_Cached] = []

    def __contains__(self, key: EdgeKey) -> bool:
        return key in self._edges

    def rows(self) -> Rows:
        """A copy of all rows."""
        with self._lock:
            return Rows(dict(self._edges), dict(self._nodes))

    def observed(self, edges: Sequence[Edge], nodes: Sequence[Node]) -> Changes:
        """What these sightings change."""
        return Changes(
            _sightings(self._edges, ((key_of(edge), edge) for edge in edges), self._expiry_ns),
            _sightings(self._nodes, ((node.entity, node) for node in nodes), self._expiry_ns),
        )

    def declared(self, edges: Sequence[Edge], nodes: Sequence[Node]) -> Changes:
        """What changes when these are all that is declared."""
        return Changes(
            _declaration(self._edges, {key_of(edge): replace(edge, source=CONFIGURED) for edge in edges}),
            _declaration(self._nodes, {node.entity: node for node in nodes}),
            undeclared=True,
        )

    def merged(self, rows: Rows) -> Changes:
        """What rows of elsewhere add."""
        return Changes(
            _merges(self._edges, rows.edges, self._expiry_ns), _merges(self._nodes, rows.nodes, self._expiry_ns)
        )

    def forgotten(self, before_ns: int) -> Changes:
        """What goes when lives that ended before `before_ns` are dropped."""
        return Changes(_silence(self._edges, before_ns), _silence(self._nodes, before_ns))

    def apply(self, changes: Changes) -> None:
        """Takes the changes."""
        if not len(changes):
            return
        with self._lock:
            _take(self._edges, changes.edges)
            _take(self._nodes, changes.nodes)
            self._cached = []

    def replace(self, rows: Rows) -> None:
        """Takes these rows instead of all others."""
        with self._lock:
            self._edges, self._nodes, self._cached = dict(rows.edges), dict(rows.nodes), []

    def snapshot(self, at_ns: int) -> Topology:
        """The graph at a moment; a look-up while nothing that it depends on changes."""
        with self._lock:
            for cached in self._cached:
                if cached.from_ns <= at_ns < cached.until_ns:
                    return cached.topology
            fresh = self._build(at_ns)
            self._cached = [fresh, *self._cached[: _CACHED - 1]]
            return fresh.topology

    def _build(self, at_ns: int) -> _Cached:
        from_ns, until_ns = -_EVER, _EVER

        def life(lives: Sequence[Life]) -> Life | None:
            """The life of this moment; narrows the span over which the answers stay the same."""
            nonlocal from_ns, until_ns
            found = None
            for first, last in lives:
                begins, ends = first - LEAD_NS, last + self._expiry_ns + 1
                for border in (begins, ends):
                    if border <= at_ns:
                        from_ns = max(from_ns, border)
                    else:
                        until_ns = min(until_ns, border)
                if begins <= at_ns < ends:
                    found = (first, last)
            return found

        edges = []
        for key in sorted(self._edges):
            row = self._edges[key]
            now = _at(row, life(row.lives))
            if row.declared is not None:
                # A declared edge that is also observed keeps the observed traffic.
                now = row.declared if now is None else replace(
                    row.declared, weight=now.weight, last_seen_ns=max(now.last_seen_ns, row.declared.last_seen_ns)
                )  # fmt: skip
            if now is not None:
                edges.append(now)
        nodes = []
        for node in self._nodes.values():
            seen = node.declared if node.declared is not None else _at(node, life(node.lives))
            if seen is not None:
                nodes.append(seen)
        return _Cached(Topology.of(edges, nodes), from_ns, until_ns)


def key_of(edge: Edge) -> EdgeKey:
    """Under what an edge is kept."""
    return edge.caller, edge.callee, edge.type


def newest_ns(edges: Iterable[Edge], nodes: Iterable[Node]) -> int:
    """The latest sighting among these, 0 for none."""
    return max([0, *(edge.last_seen_ns for edge in edges), *(node.last_seen_ns for node in nodes)])


def _at(row: Row[Thing], life: Life | None) -> Thing | None:
    """What was observed in that life: the newest words, the life's own end."""
    if life is None or row.seen is None:
        return None
    return row.seen if life[1] == row.seen.last_seen_ns else replace(row.seen, last_seen_ns=life[1])


Key = TypeVar("Key", EdgeKey, str)


def _sightings(
    rows: Mapping[Key, Row[Thing]], things: Iterable[tuple[Key, Thing]], expiry_ns: int
) -> dict[Key, Row[Thing] | None]:
    changed: dict[Key, Row[Thing] | None] = {}
    for key, thing in things:
        before = changed.get(key) or rows.get(key)
        after = sighted(before, thing, expiry_ns)
        if after != before:
            changed[key] = after
    return changed


def _declaration(rows: Mapping[Key, Row[Thing]], declared: Mapping[Key, Thing]) -> dict[Key, Row[Thing] | None]:
    changed: dict[Key, Row[Thing] | None] = {}
    for key, row in rows.items():
        if row.declared is not None and key not in declared:
            changed[key] = replace(row, declared=None) if row.seen is not None else None
    for key, thing in declared.items():
        before = rows.get(key)
        if before is None or before.declared != thing:
            changed[key] = Row(declared=thing) if before is None else replace(before, declared=thing)
    return changed


def _merges(
    rows: Mapping[Key, Row[Thing]], others: Mapping[Key, Row[Thing]], expiry_ns: int
) -> dict[Key, Row[Thing] | None]:
    changed: dict[Key, Row[Thing] | None] = {}
    for key, other in others.items():
        before = rows.get(key)
        after = merged(before, other, expiry_ns)
        if after != before:
            changed[key] = after
    return changed


def _silence(rows: Mapping[Key, Row[Thing]], before_ns: int) -> dict[Key, Row[Thing] | None]:
    changed: dict[Key, Row[Thing] | None] = {}
    for key, row in rows.items():
        kept = tuple(life for life in row.lives if life[1] >= before_ns)
        if kept == row.lives:
            continue
        if kept:
            changed[key] = replace(row, lives=kept)
        else:
            changed[key] = Row(declared=row.declared) if row.declared is not None else None
    return changed


def _take(rows: dict[Key, Row[Thing]], changes: Mapping[Key, Row[Thing] | None]) -> None:
    for key, row in changes.items():
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
