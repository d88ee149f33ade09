"""Candidate causes among alerted entities, and what each would explain.

Errors and latency travel callee → caller, so the lowest anomalous callee explains the callers above it,
and two of them that nothing joins are two causes. Kept together: what a silent callee (a crashed
service, a shared database without telemetry) would explain, what a surge from above explains, and
widespread trouble with many lowest callees, where one unseen cause is likelier than many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from headspring.analytics.correlate.shape import Shape
from headspring.proto.clock import NS_PER_S

_SILENT_HOPS = 2
"""Calls down to a silent common callee that may explain two alerted services."""
_SILENT_SHARE = 0.5
"""Of a silent callee's callers, this share must alert before it counts as an explanation."""
_GROUND_SHARE = 0.75
"""Of what runs on a silent common host, this share must alert before the host counts as an explanation."""
_WIDESPREAD = 8
"""With more alerted entities than this the lowest callees tell little: most of the graph is in trouble."""
_SURGE_LEAD_NS = 10 * NS_PER_S
"""Pressure at a common caller that began this much earlier explains its callees; less is detection jitter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one entity has shown."""

    onset_ns: int
    """Its first alert."""
    last_ns: int
    alerts: int
    rank: int
    """Highest severity."""
    causal: bool
    """Has an alert that is not just missing traffic."""
    pressed: bool
    """Has an alert about load or a resource."""
    symptom: bool = True
    """Has an alert about errors or latency, which its callers would feel."""

    def row(self) -> list[Any]:
        """For snapshots: fields in order, without the deep copy of `asdict`."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def of(cls, row: Sequence[Any] | Mapping[str, Any]) -> Evidence:
        """What `row` gave; snapshots of format 1 name the fields."""
        return cls(**row if isinstance(row, Mapping) else dict(zip(cls.__slots__, row, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A candidate cause and the entities it explains; a shared caller is in several regions."""

    roots: frozenset[str]
    entities: frozenset[str]
    onset_ns: int
    """First alert on a root."""


def regions(evidence: Mapping[str, Evidence], shape: Shape, *, max_causes: int) -> Sequence[Region]:
    """Candidate causes by onset; one region when there is no case for a split; () without evidence.

    Args:
        evidence: Alerted entities, at most some thousand.
        shape: Their topology.
        max_causes: With more lowest callees than this, everything is one region.
    """
    if not evidence:
        return ()
    causal = {entity for entity, item in evidence.items() if item.causal} or set(evidence)
    reach = reach_of(causal, shape)
    groups = _joined(_sinks(causal, reach), evidence, shape, reach, causal)
    everything = frozenset(evidence)
    if len(groups) > max_causes or len(evidence) > _WIDESPREAD:
        groups = [set().union(*groups)]
    groups = _felt(groups, evidence)
    if len(groups) == 1:
        roots = frozenset().union(*groups)
        return (Region(roots=roots, entities=everything, onset_ns=min(evidence[one].onset_ns for one in roots)),)
    explained = [group | {one for one in causal if reach[one] & group} for group in groups]
    _adopt(everything.difference(*explained), explained, shape)
    found = [
        Region(
            roots=frozenset(group),
            entities=frozenset(members),
            onset_ns=min(evidence[one].onset_ns for one in group),
        )
        for group, members in zip(groups, explained, strict=True)
    ]
    return sorted(found, key=lambda region: (region.onset_ns, sorted(region.roots)))


def explained_by(entities: Mapping[str, Evidence], shape: Shape) -> Mapping[str, int]:
    """For each alerted entity, how many others sit above it, over callers and what runs on it."""
    reach = reach_of(set(entities), shape)
    count = dict.fromkeys(entities, 0)
    for one, lower in reach.items():
        for entity in lower:
            if entity != one:
                count[entity] += 1
    return count


def reach_of(alerted: Set[str], shape: Shape) -> dict[str, frozenset[str]]:
    """Alerted entities below each one; a way may pass one silent component between two alerted ones."""
    step: dict[str, set[str]] = {}
    for entity in alerted:
        nearest: set[str] = {ground for ground in shape.grounds(entity) if ground in alerted}
        for callee in shape.callees(entity):
            if callee in alerted:
                nearest.add(callee)
            else:
                nearest.update(one for one in (*shape.callees(callee), *shape.grounds(callee)) if one in alerted)
        step[entity] = nearest - {entity}
    reach: dict[str, frozenset[str]] = {}
    for entity in alerted:
        seen: set[str] = set()
        edge = step[entity]
        while edge:
            seen |= edge
            edge = set().union(*(step[one] for one in edge)) - seen
        reach[entity] = frozenset(seen)
    return reach


def _sinks(causal: set[str], reach: Mapping[str, frozenset[str]]) -> list[set[str]]:
    """Lowest anomalous callees; services that call one another in a circle are one."""
    found: list[set[str]] = []
    done: set[str] = set()
    for entity in sorted(causal):
        if entity in done or any(entity not in reach[lower] for lower in reach[entity] if lower != entity):
            continue
        group = {entity} | reach[entity]
        done |= group
        found.append(set(group))
    return found


def _joined(
    sinks: list[set[str]],
    evidence: Mapping[str, Evidence],
    shape: Shape,
    reach: Mapping[str, frozenset[str]],
    causal: set[str],
) -> list[set[str]]:
    """Sinks that one silent callee below, or a surge from above, would explain become one."""
    below = [frozenset().union(*(shape.below(entity, _SILENT_HOPS) for entity in sink)) for sink in sinks]
    owner = list(range(len(sinks)))

    def find(index: int) -> int:
        while owner[index] != index:
            index = owner[index]
        return index

    for left in range(len(sinks)):
        for right in range(left):
            if find(left) == find(right):
                continue
            silent = [one for one in sorted(below[left] & below[right]) if one not in evidence]
            if (
                any(_would_show(one, evidence, shape) for one in silent)
                or _shared_ground(sinks[left], sinks[right], evidence, shape)
                or _surge(sinks[left], sinks[right], evidence, reach, causal)
            ):
                owner[max(find(left), find(right))] = min(find(left), find(right))
    groups: dict[int, set[str]] = {}
    for index, sink in enumerate(sinks):
        groups.setdefault(find(index), set()).update(sink)
    return list(groups.values())


def _felt(groups: list[set[str]], evidence: Mapping[str, Evidence]) -> list[set[str]]:
    """A lowest callee with one alert about a resource is no case for a second cause: it joins the first."""
    strong = [group for group in groups if any(_strong(evidence[one]) for one in group)]
    weak = set().union(*(group for group in groups if group not in strong))
    if not strong or not weak:
        return strong or [weak]
    strong[0] |= weak
    return strong


def _strong(item: Evidence) -> bool:
    return item.symptom


def _shared_ground(left: set[str], right: set[str], evidence: Mapping[str, Evidence], shape: Shape) -> bool:
    common = {one for entity in left for one in shape.grounds(entity)} & {
        one for entity in right for one in shape.grounds(entity)
    }
    for ground in common:
        residents = shape.residents(ground)
        if sum(one in evidence for one in residents) >= _GROUND_SHARE * len(residents):
            return True
    return False


def _would_show(callee: str, evidence: Mapping[str, Evidence], shape: Shape) -> bool:
    callers = shape.callers(callee)
    shows = sum(caller in evidence or any(one in evidence for one in shape.callers(caller)) for caller in callers)
    return shows >= _SILENT_SHARE * len(callers)


def _surge(
    left: set[str],
    right: set[str],
    evidence: Mapping[str, Evidence],
    reach: Mapping[str, frozenset[str]],
    causal: set[str],
) -> bool:
    first = min(evidence[one].onset_ns for one in left | right)
    return any(
        evidence[one].pressed and evidence[one].onset_ns <= first - _SURGE_LEAD_NS
        for one in causal
        if reach[one] & left and reach[one] & right
    )


def _adopt(left_over: frozenset[str], explained: list[set[str]], shape: Shape) -> None:
    """Starved callees and the like go to the nearest region; ties to the first."""
    for entity in sorted(left_over):
        distance = [
            min((hops for one in members if (hops := shape.hops(entity, one, alerting=())) is not None), default=99)
            for members in explained
        ]
        explained[distance.index(min(distance))].add(entity)
