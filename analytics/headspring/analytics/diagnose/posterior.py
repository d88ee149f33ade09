"""From clues to probabilities: noisy-OR over at most two causes, on a pruned graph.

For every set of up to two causes (the empty one is "none") the log-posterior is the sum of priors, of the
causes' own clues (capped by kind), and of how well the set explains each entity that shows symptoms or stays
calm: an entity is affected with 1 − (1 − leak) · Π (1 − reach(cause → entity)). Enumeration is exact for two
causes and takes milliseconds; see `reference` for the comparison with exact inference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from headspring.analytics.diagnose.case import Clue
from headspring.knowledge.topology.graph import EdgeType, Topology

MAX_NODES = 40
"""Candidates kept; the rest cannot matter, having neither clues nor symptoms."""
CAPS = {"trace": 7.0, "metric": 5.0, "path": 3.0, "onset": 1.5, "change": 1.5, "log": 3.5, "rule": 5.0}
"""Largest log-likelihood ratio of all clues of a kind together: no single kind of telemetry decides alone."""
HOP = 0.85
"""Chance that trouble of a callee shows at its caller; errors and latency travel callee → caller."""
STARVED = 0.4
"""Chance that trouble of a caller shows at its callee, as missing or changed traffic."""
LEAK = 0.03
"""Chance of symptoms without any cause that we know."""
UNKNOWN_REACH = 0.4
"""Chance of spreading where no topology is known."""
PRIOR = 0.02
"""Chance that a given entity is at fault in a given incident, before any evidence."""
KIND_PRIOR = {"external": -2.0, "host": -0.5, "unknown": -0.3, "database": -0.1}
"""Log-odds by kind; `external` nodes are views of something unobserved."""
TEMPERATURE = 1.6
"""Divides log-posteriors, because clues are not independent. That softens them and does not calibrate them: on the
public cases first causes are right more often than their probability says where there are metrics only (1.00 against
.37, .92 against .70) and less often where there are spans (.67 against .92, .54 against .75). Probabilities order
causes; they are no frequencies. Figures: `tests/benchmarks/results/rca.md`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    probability: Mapping[str, float]
    """Entity → P(it is a cause); pairs count for both."""
    none: float
    """P(no entity here is a cause)."""
    own: Mapping[str, float]
    """Entity → capped sum of its clues."""


def own_evidence(clues: Iterable[Clue]) -> dict[str, float]:
    """Entity → sum of its clues' log-likelihood ratios, capped by kind."""
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for clue in clues:
        sums[(clue.entity, clue.kind)] += clue.llr
    own: dict[str, float] = defaultdict(float)
    for (entity, kind), total in sorted(sums.items()):
        cap = CAPS.get(kind, 2.0)
        own[entity] += float(np.clip(total, -cap, cap))
    return dict(own)


def reach(topology: Topology, cause: str) -> dict[str, float]:
    """Entity → chance that trouble in `cause` shows there."""
    found = {cause: 0.95}
    for down, hop in ((False, HOP), (True, STARVED)):
        for entity, hops in topology.reach(cause, down=down, limit=500).items():
            if hops:
                found[entity] = max(found.get(entity, 0.0), hop**hops)
    for edge in topology.in_edges.get(cause, ()):
        if edge.type is EdgeType.RUNS_ON:
            found[edge.caller] = max(found.get(edge.caller, 0.0), HOP)
    return found


def infer(clues: Iterable[Clue], symptoms: Mapping[str, float], topology: Topology) -> Posterior:
    """Probabilities of causes.

    Args:
        symptoms: Entity → log-likelihood ratio of "affected", negative for entities that stay calm.
    """
    own = own_evidence(clues)
    affected = sorted((e for e in symptoms if symptoms[e] > 0), key=lambda e: (-symptoms[e], e))
    ranked = sorted({*own, *affected}, key=lambda e: (-own.get(e, 0.0), -symptoms.get(e, 0.0), e))
    nodes = ranked[:MAX_NODES]
    if not nodes:
        return Posterior(probability={}, none=1.0, own=own)
    calm = sorted((e for e in symptoms if symptoms[e] <= 0), key=lambda e: (symptoms[e], e))
    watched = (affected + calm)[:MAX_NODES]
    evidence = np.array([symptoms[e] for e in watched])
    bare = not topology.edges
    reaches = [reach(topology, node) for node in nodes]
    spread = np.array(
        [[r.get(e, UNKNOWN_REACH if bare else 0.0) for e in watched] for r in reaches], dtype=np.float64
    ).reshape(len(nodes), len(watched))
    kinds = [topology.by_entity[e].kind if e in topology.by_entity else "service" for e in nodes]
    alone = np.log(PRIOR / (1 - PRIOR)) + np.array(
        [own.get(e, 0.0) + KIND_PRIOR.get(kind, 0.0) for e, kind in zip(nodes, kinds, strict=True)]
    )
    miss = np.log1p(-np.minimum(spread, 0.999))

    def explained(
        log_miss: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        active = 1.0 - (1.0 - LEAK) * np.exp(log_miss)
        result: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.log1p(active * np.expm1(evidence)).sum(axis=-1)
        return result

    none = float(explained(np.zeros(len(watched))))
    single = alone + explained(miss)
    first, second = np.triu_indices(len(nodes), k=1)
    pair = alone[first] + alone[second] + explained(miss[first] + miss[second])
    scores = np.concatenate([[none], single, pair]) / TEMPERATURE
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    chance = weights[1 : 1 + len(nodes)].copy()
    np.add.at(chance, first, weights[1 + len(nodes) :])
    np.add.at(chance, second, weights[1 + len(nodes) :])
    return Posterior(
        probability={node: float(min(chance[i], 1.0)) for i, node in enumerate(nodes)}, none=float(weights[0]), own=own
    )
