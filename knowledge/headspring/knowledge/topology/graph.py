"""A topology as a value: nodes, typed edges from caller to callee, and questions about them.

Edges point **caller → callee**. Errors and latency travel callee → caller; missing traffic travels
caller → callee. Code that walks the graph says which of the two it means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class EdgeType(StrEnum):
    SYNC = "sync"
    ASYNC = "async"
    DATABASE = "database"
    CACHE = "cache"
    RUNS_ON = "runs_on"
    """From what runs to where it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    entity: str
    kind: str
    """`service`, `database`, `queue`, `cache`, `gateway`, `host`, `external` or `unknown`."""
    last_seen_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    caller: str
    callee: str
    type: EdgeType = EdgeType.SYNC
    weight: float = 1.0
    """Calls observed per second; 1 where unknown."""
    source: str = ""
    """Where it was learnt: `spans`, `config`, …"""
    confidence: float = 1.0
    last_seen_ns: int = 0


@dataclass(frozen=True)
class Topology:
    """An immutable snapshot. Building one is O(nodes + edges); the questions below are O(what they visit)."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()

    @classmethod
    def of(cls, edges: Iterable[Edge], nodes: Iterable[Node] = ()) -> Topology:
        """A topology from edges; nodes that only edges name are added with the kind of their id."""
        edges = tuple(edges)
        known = {node.entity: node for node in nodes}
        for edge in edges:
            for entity in (edge.caller, edge.callee):
                if entity not in known:
                    kind = entity.partition(":")[0] if ":" in entity else "unknown"
                    known[entity] = Node(entity=entity, kind=kind, last_seen_ns=edge.last_seen_ns)
        return cls(nodes=tuple(known[entity] for entity in sorted(known)), edges=edges)

    @cached_property
    def by_entity(self) -> Mapping[str, Node]:
        return {node.entity: node for node in self.nodes}

    @cached_property
    def out_edges(self) -> Mapping[str, tuple[Edge, ...]]:
        """Edges by caller, sorted by callee."""
        return _grouped(self.edges, lambda edge: edge.caller, lambda edge: edge.callee)

    @cached_property
    def in_edges(self) -> Mapping[str, tuple[Edge, ...]]:
        """Edges by callee, sorted by caller."""
        return _grouped(self.edges, lambda edge: edge.callee, lambda edge: edge.caller)

    def callees(self, entity: str) -> tuple[str, ...]:
        return tuple(edge.callee for edge in self.out_edges.get(entity, ()))

    def callers(self, entity: str) -> tuple[str, ...]:
        return tuple(edge.caller for edge in self.in_edges.get(entity, ()))

    def hops(self, entity: str, radius: int, *, through: Sequence[EdgeType] | None = None) -> Mapping[str, int]:
        """Undirected hop distance to everything within `radius`, itself included as 0."""
        distance = {entity: 0}
        queue = deque([entity])
        while queue:
            here = queue.popleft()
            if distance[here] == radius:
                continue
            for edge in (*self.out_edges.get(here, ()), *self.in_edges.get(here, ())):
                if through is not None and edge.type not in through:
                    continue
                there = edge.callee if edge.caller == here else edge.caller
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        return distance

    def reach(self, entity: str, *, down: bool, limit: int = 10_000) -> Mapping[str, int]:
        """Hop distance to everything reachable caller → callee (`down`) or callee → caller, itself as 0."""
        step = self.callees if down else self.callers
        distance = {entity: 0}
        queue = deque([entity])
        while queue and len(distance) < limit:
            here = queue.popleft()
            for there in step(here):
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        return distance

    def path(self, start: str, end: str, *, down: bool | None = None) -> tuple[str, ...]:
        """A shortest path; () when there is none. `down`: True caller → callee, False the other way, None either."""
        previous: dict[str, str] = {start: ""}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            if here == end:
                path = [here]
                while previous[path[-1]]:
                    path.append(previous[path[-1]])
                return tuple(reversed(path))
            steps: tuple[str, ...] = ()
            if down is not False:
                steps += self.callees(here)
            if down is not True:
                steps += self.callers(here)
            for there in steps:
                if there not in previous:
                    previous[there] = here
                    queue.append(there)
        return ()


def _grouped(
    edges: Sequence[Edge],
    by: Callable[[Edge], str],
    order: Callable[[Edge], str],
) -> dict[str, tuple[Edge, ...]]:
    groups: dict[str, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(by(edge), []).append(edge)
    return {key: tuple(sorted(group, key=order)) for key, group in groups.items()}
