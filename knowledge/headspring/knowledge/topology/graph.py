"""A topology as a value: nodes, typed edges from caller to callee, and questions about them.

Edges point **caller → callee**. Errors and latency travel callee → caller; missing traffic travels
caller → callee. Code that walks the graph says which of the two it means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

MAX_HOPS = 16
"""The longest way that questions about neighbours and paths go; call chains of real estates are shorter."""


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

    def hops(
        self, entity: str, radius: int, *, through: Sequence[EdgeType] | None = None, down: bool | None = None
    ) -> Mapping[str, int]:
        """Hop distance to everything within `radius`, itself included as 0.

        `down`: True caller → callee, False the other way, None either.
        """
        distance = {entity: 0}
        queue = deque([entity])
        while queue:
            here = queue.popleft()
            if distance[here] == radius:
                continue
            ahead = self.out_edges.get(here, ()) if down is not False else ()
            behind = self.in_edges.get(here, ()) if down is not True else ()
            for edge in (*ahead, *behind):
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

    def paths(self, source: str, target: str, max_hops: int, *, limit: int = 100) -> tuple[tuple[str, ...], ...]:
        """Ways caller → callee that pass no entity twice, shortest first, then by name; at most `limit` of them.

        Only steps from which the target can still be reached within `max_hops` are taken, so what leads elsewhere
        costs nothing.
        """
        left = self.hops(target, max_hops, down=False)
        if source not in left or source == target:
            return ()
        found: list[tuple[str, ...]] = []
        for length in range(left[source], max_hops + 1):
            for path in self._ways([source], target, length, left):
                found.append(path)
                if len(found) == limit:
                    return tuple(found)
        return tuple(found)

    def _ways(self, path: list[str], target: str, hops: int, left: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
        """Paths that go on from `path` and reach the target after exactly `hops` more."""
        if hops == 0:
            if path[-1] == target:
                yield tuple(path)
            return
        for there in dict.fromkeys(self.callees(path[-1])):
            # The target ends a path, so nothing passes through it on the way.
            near = there == target if hops == 1 else there != target and left.get(there, hops) < hops
            if near and there not in path:
                yield from self._ways([*path, there], target, hops - 1, left)


def checked_hops(hops: int) -> int:
    """
    Raises:
        ValueError: not in 0..MAX_HOPS.
    """
    if not 0 <= hops <= MAX_HOPS:
        raise ValueError(f"hops must be from 0 to {MAX_HOPS}, got {hops}")
    return hops


def _grouped(
    edges: Sequence[Edge],
    by: Callable[[Edge], str],
    order: Callable[[Edge], str],
) -> dict[str, tuple[Edge, ...]]:
    groups: dict[str, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(by(edge), []).append(edge)
    return {key: tuple(sorted(group, key=order)) for key, group in groups.items()}
