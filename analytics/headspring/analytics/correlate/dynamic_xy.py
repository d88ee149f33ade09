"""Dynamic-X-Y: alerts in time order to incidents, by session gap (X) × topology radius (Y).

A *family* is what time and topology hold together: an alert joins when it is like enough to the family's
nearest representatives (one an entity, bounded; mean of the best few, so a chain of single links does
not grow it). Within a family, candidate causes (`regions`) decide which *group* an alert is in; a group
is an incident. For a minute of event time after its start an alert may still change its group; then it
is pinned, and what follows can only add. No clock and no I/O here: the same input gives the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headspring.analytics.correlate.family import Family, Group, Pending, pick
from headspring.analytics.correlate.habits import INFORMATIONAL, HabitRules, Habits, Verdict
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Signal, Weights, components, score
from headspring.knowledge.topology.graph import Topology
from headspring.proto import ids
from headspring.proto.clock import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Settings of the kernel; seconds are event time."""

    min_gap_s: float = 120.0
    """Session gap of a new or busy family: silence after which it takes no more alerts."""
    max_gap_s: float = 300.0
    """Most that a slow rhythm of alerts stretches the gap to."""
    gap_lags: float = 30.0
    """The gap is so many median lags between the family's alerts, within the two bounds."""
    max_life_s: float = 1800.0
    """A family older than this takes no more alerts; the next one is its linked successor."""
    radius: int = 3
    """Hops, either direction."""
    threshold: float = 0.45
    """Least similarity to join. .40 and .45 scored alike on public alert sets; the stricter one was kept."""
    nearest: int = 3
    """Representatives that the similarity is averaged over."""
    representatives: int = 24
    """Per family."""
    settle_s: float = 60.0
    """After this an alert keeps its incident."""
    hold_s: float = 10.0
    """A second cause must have shown for this long before it becomes an incident of its own."""
    max_causes: int = 3
    """More lowest callees than this speak for one unseen cause."""
    storm: int = 5
    """So many alerted entities make a family one that also takes alerts of entities the topology joins to nothing:
    where nothing is known, being near cannot be asked for."""
    spread: int = 2
    """So many other entities alerting in the same minute lift the mark of a flapping or habitual alert."""
    corroborators: int = 3
    """Other definitions around an alert that make its episode one that led somewhere."""
    max_pending: int = 20_000
    """Alerts that may still move; the oldest is pinned early beyond."""
    weights: Weights = field(default_factory=Weights)
    habits: HabitRules = field(default_factory=HabitRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An alert changed its group."""

    alert_id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where an alert went, and why."""

    group: str
    components: Mapping[str, float]
    """`time`, `topology`, `labels`, `severity`, each 0..1; all 1 for the alert that opens a family."""
    verdict: Verdict | None
    surprise: float
    """How telling the alert's definition was when it came: rarity in past incidents, nats."""
    successor_of: str = ""
    """The group that was too old to take this alert."""
    moves: tuple[Move, ...] = ()
    """Other alerts that changed their group through this one."""


_BEYOND = 0.5
"""What the similarity to a representative beyond the radius counts: near to one and far from the rest is a chain."""
_NOTHING = {"time": 0.0, "topology": 0.0, "labels": 0.0, "severity": 0.0}
_OPENING = {"time": 1.0, "topology": 1.0, "labels": 1.0, "severity": 1.0}


class DynamicXY:
    """The kernel's state for one tenant."""

    def __init__(self, rules: Rules | None = None, *, tenant: str = ids.DEFAULT_TENANT) -> None:
        self.rules = rules or Rules()
        self._tenant = tenant
        self._habits = Habits(self.rules.habits)
        self._families: dict[int, Family] = {}
        self._next = 0
        self._now_ns = 0
        self._shape = Shape(Topology(), radius=self.rules.radius)

    @property
    def now_ns(self) -> int:
        """Newest event time seen."""
        return self._now_ns

    def shape(self, topology: Topology) -> Shape:
        """The walkable form of a snapshot; the same object while the snapshot is the same."""
        if self._shape.topology is not topology:
            self._shape = Shape(topology, radius=self.rules.radius)
        return self._shape

    def add(self, signal: Signal, topology: Topology, *, lasting: bool = False) -> Placement:
        """Takes the next alert.

        Args:
            signal: Not seen before; one from before the newest event time counts as of now.
            topology: As known now.
            lasting: Its end will be told through `ended`; until then its family stays open.
        """
        shape = self.shape(topology)
        moves = list(self.advance(max(signal.time_ns, self._now_ns), topology))
        verdict = self._habits.judge(signal)
        family, parts, old = self._choose(signal, shape)
        successor = ""
        if family is None:
            if old is not None:
                successor = max(old.groups, key=lambda group: (old.groups[group].opened_ns, group))
            family = Family(opened_ns=self._now_ns, active_ns=self._now_ns)
            self._families[self._next] = family
            self._next += 1
        if verdict is None or verdict.rule != INFORMATIONAL:
            others = family.corroborated(signal, self._now_ns, round(self.rules.settle_s * NS_PER_S))
            if others >= self.rules.spread:
                verdict = None  # a lone repeater waits, one symptom of many does not
        pending = Pending(signal=signal, marked=verdict is not None)
        family.pending.append(pending)
        family.note(
            signal, self._now_ns, shape, marked=pending.marked, lasting=lasting, bound=self.rules.representatives
        )
        moves += self._regroup(family, shape)
        return Placement(
            group=pending.group,
            components=parts,
            verdict=verdict,
            surprise=self._habits.surprise(signal.fingerprint),
            successor_of=successor,
            moves=tuple(move for move in moves if move.alert_id != signal.alert_id),
        )

    def ended(self, alert_id: str) -> None:
        """A lasting alert is over."""
        for family in self._families.values():
            if family.firing.pop(alert_id, None) is not None:
                return

    def acquit(self, fingerprint: str) -> None:
        """A person brought an alert of this definition back; its history is forgotten."""
        self._habits.acquit(fingerprint)

    def advance(self, now_ns: int, topology: Topology) -> Sequence[Move]:
        """Event time passed: pins what has settled and closes what has gone silent."""
        self._now_ns = max(self._now_ns, now_ns)
        shape = self.shape(topology)
        moves: list[Move] = []
        settled_ns = self._now_ns - round(self.rules.settle_s * NS_PER_S)
        waiting = sum(len(family.pending) for family in self._families.values())
        for key, family in list(self._families.items()):
            if family.pending:
                moves += self._regroup(family, shape)
                early = max(0, waiting - self.rules.max_pending)
                kept: list[Pending] = []
                for index, item in enumerate(family.pending):
                    if item.signal.time_ns > settled_ns and index >= early:
                        kept.append(item)
                        continue
                    self._pin(family, item)
                waiting -= len(family.pending) - len(kept)
                family.pending = kept
            over = self._now_ns - family.opened_ns > round((self.rules.max_life_s + self.rules.max_gap_s) * NS_PER_S)
            if not family.pending and (over or (not family.firing and self._silent(family))):
                del self._families[key]
        return moves

    def _pin(self, family: Family, item: Pending) -> None:
        pinned = family.groups[item.group].pinned
        pinned[item.signal.entity] = pinned.get(item.signal.entity, 0) + 1
        self._habits.took_part(item.signal.fingerprint, item.group)
        others = family.others(item.signal, round(self.rules.settle_s * NS_PER_S))
        self._habits.outcome(item.signal.fingerprint, alone=others < self.rules.corroborators)

    def _gap_ns(self, family: Family) -> int:
        rules = self.rules
        return round(min(max(rules.gap_lags * family.median_lag_s(), rules.min_gap_s), rules.max_gap_s) * NS_PER_S)

    def _silent(self, family: Family) -> bool:
        return self._now_ns - family.active_ns > self._gap_ns(family)

    def _choose(self, signal: Signal, shape: Shape) -> tuple[Family | None, Mapping[str, float], Family | None]:
        """The family to join with the similarity, or None; and the best one that is too old."""
        best: tuple[float, Family, Mapping[str, float]] | None = None
        old: tuple[float, Family] | None = None
        placed = shape.placed(signal.entity)
        for family in self._families.values():
            within = signal.entity in family.area_of(shape)
            storm = not placed and len(family.evidence) >= self.rules.storm
            if not (within or storm) or (self._silent(family) and not family.firing):
                continue
            parts, value = self._similarity(signal, family, shape)
            if value < self.rules.threshold:
                continue
            if self._now_ns - family.opened_ns > round(self.rules.max_life_s * NS_PER_S):
                if old is None or value > old[0]:
                    old = (value, family)
            elif best is None or value > best[0]:
                best = (value, family, parts)
        if best is not None:
            return best[1], best[2], None
        return None, _OPENING, old[1] if old else None

    def _similarity(self, signal: Signal, family: Family, shape: Shape) -> tuple[Mapping[str, float], float]:
        gap_ns = self._gap_ns(family)
        placed = shape.placed(signal.entity) or len(family.evidence) < self.rules.storm
        scored: list[tuple[float, Mapping[str, float]]] = []
        for other in family.representatives.values():
            seen = replace(other, time_ns=self._now_ns) if other.alert_id in family.firing else other
            hops = shape.hops(signal.entity, other.entity, alerting=family.evidence) if placed else self.rules.radius
            if not placed and signal.entity == other.entity:
                hops = 0
            parts = components(signal, seen, hops=hops, gap_ns=gap_ns)
            value = score(parts, self.rules.weights)
            scored.append((value if hops is not None else _BEYOND * value, parts))
        scored.sort(key=lambda pair: pair[0], reverse=True)
        top = scored[: self.rules.nearest]
        if all(not parts["topology"] for _, parts in top):
            return _NOTHING, 0.0
        mean = {name: sum(parts[name] for _, parts in top) / len(top) for name in _OPENING}
        return mean, sum(value for value, _ in top) / len(top)

    def _regroup(self, family: Family, shape: Shape) -> list[Move]:
        """Gives every alert that may still move the group of its region."""
        fresh = [item for item in family.pending if not item.group]
        if family.due(self._now_ns):
            family.find_regions(self._now_ns, shape, self.rules)
            movable = family.pending
        else:
            movable = fresh
        if not movable:
            return []
        wanted: dict[int, list[Pending]] = {}
        for item in movable:
            wanted.setdefault(pick(item.signal, family.regions), []).append(item)
        moves: list[Move] = []
        taken: set[str] = set()
        for index in sorted(wanted):
            group = family.group_of(index, taken) or self._open(family, wanted[index][0].signal, index)
            taken.add(group)
            for item in wanted[index]:
                target = family.own_group(item.signal.entity, group) if len(family.regions) == 1 else group
                if item.group != target:
                    if item.group:
                        moves.append(Move(alert_id=item.signal.alert_id, before=item.group, after=target))
                    item.group = target
        return moves

    def _open(self, family: Family, first: Signal, index: int) -> str:
        serial = 0
        while (group := self._group_id(first, serial)) in family.groups:
            serial += 1
        roots = family.regions[index].roots if family.regions else frozenset({first.entity})
        self._habits.opened()
        family.groups[group] = Group(opened_ns=first.time_ns, roots=roots)
        return group

    def _group_id(self, first: Signal, serial: int) -> str:
        extra = (str(serial),) if serial else ()
        return ids.derived_id("inc", first.time_ns, self._tenant, first.alert_id, *extra)

    def dump(self) -> Mapping[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "now_ns": self._now_ns,
            "next": self._next,
            "habits": self._habits.dump(),
            "families": [[key, family.dump()] for key, family in self._families.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._now_ns = state["now_ns"]
        self._next = state["next"]
        self._habits.load(state["habits"])
        self._families = {key: Family.load(item) for key, item in state["families"]}
