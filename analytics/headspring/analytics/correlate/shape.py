"""The topology as correlation walks it: who depends on whom, and how near two entities are.

What things run on (hosts) relays closeness only while it raises alerts itself: otherwise a host with
thirty services would join thirty unrelated troubles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from headspring.knowledge.topology.graph import EdgeType, Topology

_CACHE = 20_000
"""Entities whose surroundings are remembered; then the memory starts afresh."""


class Shape:
    """Questions about one topology snapshot; answers are remembered."""

    def __init__(self, topology: Topology, *, radius: int) -> None:
        self.topology = topology
        self._radius = radius
        down: dict[str, set[str]] = {}
        up: dict[str, set[str]] = {}
        grounds: dict[str, set[str]] = {}
        for edge in topology.edges:
            if edge.caller == edge.callee:
                continue
            if edge.type is EdgeType.RUNS_ON:
                grounds.setdefault(edge.caller, set()).add(edge.callee)
            else:
                down.setdefault(edge.caller, set()).add(edge.callee)
                up.setdefault(edge.callee, set()).add(edge.caller)
        self._down = {entity: tuple(sorted(group)) for entity, group in down.items()}
        self._up = {entity: tuple(sorted(group)) for entity, group in up.items()}
        self._grounds = {entity: tuple(sorted(group)) for entity, group in grounds.items()}
        residents: dict[str, set[str]] = {}
        for entity, group in grounds.items():
            for ground in group:
                residents.setdefault(ground, set()).add(entity)
        self._residents = {entity: tuple(sorted(group)) for entity, group in residents.items()}
        self._near: dict[str, dict[str, int]] = {}

    def callees(self, entity: str) -> tuple[str, ...]:
        """What it calls; without what it runs on."""
        return self._down.get(entity, ())

    def callers(self, entity: str) -> tuple[str, ...]:
        return self._up.get(entity, ())

    def grounds(self, entity: str) -> tuple[str, ...]:
        """What it runs on."""
        return self._grounds.get(entity, ())

    def residents(self, entity: str) -> tuple[str, ...]:
        """What runs on it."""
        return self._residents.get(entity, ())

    def placed(self, entity: str) -> bool:
        """Whether the topology joins it to anything."""
        return bool(self.callees(entity) or self.callers(entity) or self.grounds(entity) or self.residents(entity))

    def hops(self, left: str, right: str, *, alerting: Container[str]) -> int | None:
        """Distance either way within the radius; None when further.

        Args:
            left, right: Entities.
            alerting: Entities with alerts; of those that others run on, only these relay.
        """
        if left == right:
            return 0
        best = self._around(left).get(right)
        if best is not None and best <= 2:
            return best
        if self._radius >= 2 and any(one in alerting for one in set(self.grounds(left)) & set(self.grounds(right))):
            return 2
        return best

    def area(self, entity: str) -> frozenset[str]:
        """Everything that can be within the radius of it, host relays included."""
        near = set(self._around(entity))
        for ground in self.grounds(entity):
            near.update(self._residents.get(ground, ()))
        return frozenset(near)

    def below(self, entity: str, depth: int) -> frozenset[str]:
        """Everything it calls, directly or over others, within `depth` calls."""
        seen: set[str] = set()
        edge = {entity}
        for _ in range(depth):
            edge = {callee for one in edge for callee in self.callees(one)} - seen
            seen |= edge
        return frozenset(seen - {entity})

    def _around(self, entity: str) -> dict[str, int]:
        if (known := self._near.get(entity)) is not None:
            return known
        distance = {entity: 0}
        queue = deque([entity])
        while queue:
            here = queue.popleft()
            if distance[here] == self._radius:
                continue
            steps = self.callees(here) + self.callers(here) + self.grounds(here)
            if here == entity:  # a host that is asked about alerts itself; on the way to others it does not relay
                steps += self._residents.get(here, ())
            elif here in self._residents:
                steps = ()
            for there in steps:
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        if len(self._near) >= _CACHE:
            self._near.clear()
        self._near[entity] = distance
        return distance
