"""A family of alerts: what session gap and radius hold together, and the groups within it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headspring.analytics.correlate.regions import Evidence, Region, regions
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Kind, Signal
from headspring.proto.clock import NS_PER_S

if TYPE_CHECKING:
    from headspring.analytics.correlate.dynamic_xy import Rules

_LAGS = 32
"""Lags between alerts that the rhythm is taken from."""
_SLACK_NS = 5 * NS_PER_S
"""Detection jitter when a shared caller's alert is matched to a cause by time."""
_NEAR_NS = 15 * NS_PER_S
"""A caller's alert within this after a later cause's onset is taken for that cause's symptom …"""
_LATE_NS = 30 * NS_PER_S
"""… when the earlier cause began at least this long before it."""
_NEVER = 2**62


@dataclass(slots=True)
class Pending:
    """An alert that may still change its group."""

    signal: Signal
    marked: bool
    group: str = ""


@dataclass(slots=True)
class Group:
    opened_ns: int
    roots: frozenset[str]
    pinned: dict[str, int] = field(default_factory=dict)
    """Settled alerts by entity."""


@dataclass(slots=True)
class Family:
    opened_ns: int
    active_ns: int
    """Last alert that was not marked."""
    lags_s: list[float] = field(default_factory=list)
    representatives: dict[str, Signal] = field(default_factory=dict)
    """The newest alert of each entity, oldest first."""
    evidence: dict[str, Evidence] = field(default_factory=dict)
    """Of alerts that are not marked."""
    pending: list[Pending] = field(default_factory=list)
    groups: dict[str, Group] = field(default_factory=dict)
    firing: dict[str, str] = field(default_factory=dict)
    """Alerts that go on, with their entity."""
    recent: list[tuple[int, str]] = field(default_factory=list)
    """Time and definition of unmarked alerts of the last minutes."""
    heard: list[tuple[int, str]] = field(default_factory=list)
    """Time and entity of all alerts of the last minute but informational ones, marked or not."""
    regions: Sequence[Region] = ()
    check_ns: int = 0
    """When the regions have to be looked at again."""
    _area: set[str] = field(default_factory=set)
    _area_shape: Shape | None = None

    def note(self, signal: Signal, now_ns: int, shape: Shape, *, marked: bool, lasting: bool, bound: int) -> None:
        """Takes an alert into what the family knows."""
        if lasting and not marked:
            self.firing[signal.alert_id] = signal.entity
        if self.representatives and (marked or self._repeats(signal)):
            return  # what repeats keeps nothing open and speaks for no cause
        self.representatives.pop(signal.entity, None)
        self.representatives[signal.entity] = signal
        if len(self.representatives) > bound:
            del self.representatives[next(iter(self.representatives))]
        self.area_of(shape).update(shape.area(signal.entity))
        if marked:
            return
        self.lags_s = [*self.lags_s, (now_ns - self.active_ns) / NS_PER_S][-_LAGS:]
        self.active_ns = now_ns
        self.recent.append((now_ns, signal.fingerprint))
        if self.recent[0][0] < now_ns - 300 * NS_PER_S:
            self.recent = [item for item in self.recent if item[0] >= now_ns - 150 * NS_PER_S]
        self._learn(signal, now_ns)

    def _repeats(self, signal: Signal) -> bool:
        return any(name == signal.fingerprint for _, name in self.recent)

    def _learn(self, signal: Signal, now_ns: int) -> None:
        known = self.evidence.get(signal.entity)
        causal, pressed = signal.kind is not Kind.STARVATION, signal.kind is Kind.PRESSURE
        if known is None or (causal and not known.causal) or (signal.kind is Kind.SYMPTOM and not known.symptom):
            self.check_ns = min(self.check_ns, now_ns)
        self.evidence[signal.entity] = Evidence(
            onset_ns=min(known.onset_ns, signal.time_ns) if known else signal.time_ns,
            last_ns=now_ns,
            alerts=known.alerts + 1 if known else 1,
            rank=max(known.rank, signal.rank) if known else signal.rank,
            causal=causal or (known is not None and known.causal),
            pressed=pressed or (known is not None and known.pressed),
            symptom=signal.kind is Kind.SYMPTOM or (known is not None and known.symptom),
        )

    def median_lag_s(self) -> float:
        """0 while there are too few alerts for a rhythm."""
        return statistics.median(self.lags_s) if len(self.lags_s) >= 5 else 0.0

    def area_of(self, shape: Shape) -> set[str]:
        """Entities within the radius of a representative."""
        if self._area_shape is not shape:
            self._area_shape = shape
            self._area = set().union(*(shape.area(entity) for entity in self.representatives))
        return self._area

    def others(self, signal: Signal, around_ns: int) -> int:
        """Other definitions that fired, unmarked, within `around_ns` before or after."""
        return len(
            {
                name
                for time, name in self.recent
                if name != signal.fingerprint and abs(time - signal.time_ns) <= around_ns
            }
        )

    def corroborated(self, signal: Signal, now_ns: int, within_ns: int) -> int:
        """Other entities that alerted within `within_ns` before; notes this one."""
        self.heard = [item for item in self.heard if item[0] >= now_ns - within_ns]
        count = len({entity for _, entity in self.heard if entity != signal.entity})
        self.heard.append((now_ns, signal.entity))
        return count

    def due(self, now_ns: int) -> bool:
        return now_ns >= self.check_ns

    def find_regions(self, now_ns: int, shape: Shape, rules: Rules) -> None:
        """Looks for candidate causes in what is fresh or still firing."""
        since = now_ns - round(rules.max_gap_s * NS_PER_S)
        alive = set(self.firing.values())
        fresh = {one: item for one, item in self.evidence.items() if item.last_ns >= since or one in alive}
        found = regions(fresh, shape, max_causes=rules.max_causes)
        hold_ns = round(rules.hold_s * NS_PER_S)
        held = [region for region in found if region.onset_ns <= now_ns - hold_ns]
        self.check_ns = _NEVER
        if len(found) > 1 and len(held) < len(found):
            self.check_ns = max(region.onset_ns for region in found) + hold_ns
            if len(held) < 2:
                held = [
                    Region(
                        roots=found[0].roots,
                        entities=frozenset().union(*(region.entities for region in found)),
                        onset_ns=found[0].onset_ns,
                    )
                ]
        self.regions = held or found

    def group_of(self, index: int, taken: set[str]) -> str:
        """The group that a region goes on with; "" when it needs a new one."""
        region = self.regions[index] if self.regions else None
        best, best_vote = "", 0
        for name, group in self.groups.items():
            if name in taken:
                continue
            if region is None:
                return name
            vote = 1000 * len(group.roots & region.roots)
            vote += 10 * sum(count for entity, count in group.pinned.items() if entity in region.entities)
            vote += sum(item.group == name and item.signal.entity in region.entities for item in self.pending)
            if vote > best_vote:
                best, best_vote = name, vote
        return best

    def own_group(self, entity: str, default: str) -> str:
        """With one region left and several groups settled, an entity stays with the group that has it."""
        best = max(self.groups, key=lambda name: self.groups[name].pinned.get(entity, 0))
        ahead = self.groups[best].pinned.get(entity, 0) > self.groups[default].pinned.get(entity, 0)
        return best if ahead else default

    def dump(self) -> Mapping[str, Any]:
        return {
            "opened_ns": self.opened_ns,
            "active_ns": self.active_ns,
            "lags_s": self.lags_s,
            "representatives": [_signal_row(signal) for signal in self.representatives.values()],
            "evidence": {entity: item.row() for entity, item in self.evidence.items()},
            "pending": [[_signal_row(item.signal), item.marked, item.group] for item in self.pending],
            "groups": [[name, item.opened_ns, sorted(item.roots), item.pinned] for name, item in self.groups.items()],
            "firing": self.firing,
            "recent": self.recent,
            "heard": self.heard,
            "regions": [[sorted(item.roots), sorted(item.entities), item.onset_ns] for item in self.regions],
            "check_ns": self.check_ns,
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Family:
        signals = [_signal(row) for row in state["representatives"]]
        return cls(
            opened_ns=state["opened_ns"],
            active_ns=state["active_ns"],
            lags_s=list(state["lags_s"]),
            representatives={signal.entity: signal for signal in signals},
            evidence={entity: Evidence.of(row) for entity, row in state["evidence"].items()},
            pending=[
                Pending(signal=_signal(row), marked=marked, group=group) for row, marked, group in state["pending"]
            ],
            groups={
                name: Group(opened_ns=opened, roots=frozenset(roots), pinned=dict(pinned))
                for name, opened, roots, pinned in state["groups"]
            },
            firing=dict(state["firing"]),
            heard=[(time, name) for time, name in state["heard"]],
            recent=[(time, name) for time, name in state["recent"]],
            regions=[
                Region(roots=frozenset(roots), entities=frozenset(entities), onset_ns=onset)
                for roots, entities, onset in state["regions"]
            ],
            check_ns=state["check_ns"],
        )


def pick(signal: Signal, found: Sequence[Region]) -> int:
    """Index of the region that an alert belongs to."""
    if len(found) < 2:
        return 0
    for index, region in enumerate(found):
        if signal.entity in region.roots:
            return index
    inside = [index for index, region in enumerate(found) if signal.entity in region.entities]
    if len(inside) < 2:
        return inside[0] if inside else 0
    blamed = [index for index in inside if signal.points_at in found[index].entities]
    if signal.points_at and len(blamed) == 1:
        return blamed[0]
    for index in reversed(inside):
        lag_ns = signal.time_ns - found[index].onset_ns
        if -_SLACK_NS <= lag_ns <= _NEAR_NS and signal.time_ns - found[inside[0]].onset_ns >= _LATE_NS:
            return index
    return inside[0]


def _signal_row(signal: Signal) -> list[Any]:
    return [
        signal.alert_id,
        signal.time_ns,
        signal.entity,
        signal.fingerprint,
        signal.rank,
        sorted(signal.words),
        signal.kind.value,
        signal.points_at,
    ]


def _signal(row: Sequence[Any]) -> Signal:
    alert_id, time_ns, entity, fingerprint, rank, words, kind, points_at = row
    return Signal(
        alert_id=alert_id,
        time_ns=time_ns,
        entity=entity,
        fingerprint=fingerprint,
        rank=rank,
        words=frozenset(words),
        kind=Kind(kind),
        points_at=points_at,
    )
