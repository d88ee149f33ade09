"""What a plan could touch: who calls its target, what the target calls, how much traffic passes it."""

from __future__ import annotations

from collections.abc import Mapping

from headspring.knowledge.topology.graph import EdgeType, Topology
from headspring.proto.action import BlastRadius

MAX_LISTED = 200
"""Entities listed on each side; the level is computed over all."""

_MEDIUM_SHARE, _HIGH_SHARE = 0.1, 0.5
"""Shares of observed requests from which people should look twice. A choice: a tenth, and half of everything."""
_MEDIUM_CALLERS, _HIGH_CALLERS = 3, 10
"""Entities that may notice, direct and indirect. A choice, see above."""


def blast_radius(topology: Topology, target: str) -> BlastRadius:
    """The blast radius of acting on `target`; O(nodes + edges).

    Traffic share is the weight of edges into the target against all request edges, or 0 where nothing is known.
    A target that the topology does not know is `medium`: ignorance is no reason to feel safe.
    """
    callers = topology.reach(target, down=False)
    callees = topology.reach(target, down=True)
    requests = [edge for edge in topology.edges if edge.type is not EdgeType.RUNS_ON]
    total = sum(max(edge.weight, 0.0) for edge in requests)
    passing = sum(max(edge.weight, 0.0) for edge in requests if target in (edge.callee, edge.caller))
    into = sum(max(edge.weight, 0.0) for edge in requests if edge.callee == target)
    # An entrance has no callers in the graph; what it sends out stands for what it serves.
    share = (into or passing) / total if total > 0 else 0.0
    upstream = len(callers) - 1
    level = "low"
    if target not in topology.by_entity or share >= _MEDIUM_SHARE or upstream >= _MEDIUM_CALLERS:
        level = "medium"
    if share >= _HIGH_SHARE or upstream >= _HIGH_CALLERS:
        level = "high"
    return BlastRadius(
        targets=(target,),
        upstream=_nearest(callers, target),
        downstream=_nearest(callees, target),
        traffic_share=min(share, 1.0),
        level=level,
    )


def _nearest(hops: Mapping[str, int], target: str) -> tuple[str, ...]:
    return tuple(sorted((entity for entity in hops if entity != target), key=lambda one: (hops[one], one))[:MAX_LISTED])
