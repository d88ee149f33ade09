"""Clues from the topology: walking from the alerted entities towards the trouble.

Errors and latency travel callee → caller, so the walk goes caller → callee over nodes that deviate; the
last deviating one is the best guess. Missing traffic travels the other way: who stopped calling is
above. Nodes seen only from outside (`external`) are observations of a connection, rarely owners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headspring.analytics.diagnose.case import Clue
from headspring.knowledge.topology.graph import EdgeType, Topology
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind

DEVIATES = 3.0
_MAX_HOPS = 7
_MAX_STEPS = 20_000
"""Bound on dense graphs: the walk then ends with what it has."""
_PASSED_THROUGH = 0.5
"""Share left to a node whose own callees deviate too."""
KIND_SHARE = {"external": 0.2, "host": 0.5}
"""Share left to nodes of a kind. `external` is what callers see of something that is not observed itself."""


def walk(
    topology: Topology, value: Mapping[str, float], starts: Sequence[str]
) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Entity → (score, path from it to a start); only nodes reached over deviating ones.

    The score is the sum of deviations on the path over the square root of its length, times the shares above.
    """
    best: dict[str, tuple[float, tuple[str, ...]]] = {}
    steps = 0
    for start in starts:
        stack: list[tuple[str, tuple[str, ...], float]] = [(start, (start,), value.get(start, 0.0))]
        while stack and steps < _MAX_STEPS:
            steps += 1
            node, path, total = stack.pop()
            onward = [
                edge.callee
                for edge in topology.out_edges.get(node, ())
                if edge.type is not EdgeType.RUNS_ON
                and edge.callee not in path
                and value.get(edge.callee, 0.0) >= DEVIATES
            ]
            kind = topology.by_entity[node].kind if node in topology.by_entity else "unknown"
            score = total / len(path) ** 0.5 * (_PASSED_THROUGH if onward else 1.0) * KIND_SHARE.get(kind, 1.0)
            if score > best.get(node, (-1.0, ()))[0]:
                best[node] = (score, path[::-1])
            if len(path) < _MAX_HOPS:
                stack += [(there, (*path, there), total + value[there]) for there in reversed(onward)]
    return best


def path_clues(
    topology: Topology, value: Mapping[str, float], starts: Sequence[str]
) -> tuple[list[Clue], dict[str, tuple[str, ...]]]:
    """Clues for the nodes the walk reached, and the path of each to its start."""
    found = walk(topology, value, starts)
    top = max((score for score, _ in found.values()), default=0.0)
    if top < DEVIATES:
        return [], {entity: path for entity, (_, path) in found.items()}
    clues = [
        Clue(
            entity=entity,
            kind="path",
            llr=4.0 * score / top - 1.0,
            summary="deviating all the way to " + entity_name(path[-1]) if len(path) > 1 else "is where the alert is",
            cause=CauseKind.UNSPECIFIED,
            deviation=min(value.get(entity, 0.0), 50.0),
        )
        for entity, (score, path) in sorted(found.items())
        if value.get(entity, 0.0) >= DEVIATES
    ]
    return clues, {entity: path for entity, (_, path) in found.items()}
