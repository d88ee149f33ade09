"""One incident while correlation works on it: members, state and timeline; each change makes a version."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headspring.analytics.correlate.explain import most_explanatory
from headspring.analytics.correlate.habits import Verdict
from headspring.analytics.correlate.lifecycle import Happening, after
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Kind, kind_of, signal_of
from headspring.proto import codec, semantics
from headspring.proto.detection import Alert, AlertStatus, Direction, Mark, Severity
from headspring.proto.ids import entity_name
from headspring.proto.incident import Incident, IncidentState, Member, TimelineEntry

STAGE = "analytics.correlate"
_MEMBERS = 500
"""Alerts listed in one incident; of later ones only whether they still fire is kept."""
_TIMELINE = 300
"""Entries of one incident; the oldest but the first goes beyond."""
_ENTRY = ("time_ns", "kind", "text", "actor", "ref")
"""Fields of a timeline entry in snapshots."""
_NAMED = 3
"""Affected entities that a title names."""
_PHRASES = {
    semantics.SERVICE_ERROR_RATIO: "Errors",
    semantics.EDGE_ERROR_RATIO: "Failing calls",
    semantics.SERVICE_LATENCY_P95: "High latency",
    semantics.SERVICE_LATENCY_MEAN: "High latency",
    semantics.SERVICE_SELF_TIME_MEAN: "Slow processing",
    semantics.EDGE_LATENCY_MEAN: "Slow calls",
}


@dataclass(slots=True)
class Held:
    """A member and what correlation knows of it; never changed, `replace` makes another."""

    alert: Alert
    place: str
    """Where it is in the topology."""
    components: Mapping[str, float]
    surprise: float
    verdict: Verdict | None
    _text: str = field(default="", init=False, repr=False, compare=False)

    def text(self) -> str:
        """As JSON, alert as protobuf in base64: made once, for a snapshot follows every batch of a storm."""
        if not self._text:
            verdict = dataclasses.asdict(self.verdict) if self.verdict else None
            alert = base64.b64encode(codec.encode(self.alert)).decode()
            self._text = json.dumps([alert, self.place, dict(self.components), self.surprise, verdict])
        return self._text

    @classmethod
    def of(cls, text: str | Sequence[Any]) -> Held:
        """What `text` gave; snapshots of format 1 have the same as a list."""
        row: Sequence[Any] = json.loads(text) if isinstance(text, str) else text
        alert, place, components, surprise, verdict = row
        return cls(
            alert=codec.decode(Alert, base64.b64decode(alert)), place=place, components=components, surprise=surprise,
            verdict=Verdict(**verdict) if verdict else None,
        )  # fmt: skip


@dataclass(slots=True)
class Record:
    incident_id: str
    tenant: str
    opened_ns: int
    version: int = 0
    state: IncidentState = IncidentState.OPEN
    members: dict[str, Held] = field(default_factory=dict)
    firing: set[str] = field(default_factory=set)
    timeline: list[TimelineEntry] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    merged_into: str = ""
    since_ns: int = 0
    """When the state was entered, wall clock."""
    updated_ns: int = 0
    resolved_ns: int = 0
    shown: str = ""
    """Alert that is shown for the incident."""

    @property
    def quiet(self) -> bool:
        """Nothing in it is worth a call, so nobody has been told of it."""
        return self.version == 0 and all(held.verdict is not None for held in self.members.values())

    def happened(self, what: Happening, now_ns: int, text: str, *, actor: str = "") -> bool:
        """Moves on in the table; True when the state changed."""
        state = after(self.state, what)
        if state is self.state:
            return False
        self.resolved_ns = now_ns if state is IncidentState.RESOLVED else 0
        self.state, self.since_ns = state, now_ns
        self.note(now_ns, "state", text, actor=actor)
        return True

    def note(self, time_ns: int, kind: str, text: str, *, actor: str = "", ref: str = "") -> None:
        self.timeline.append(TimelineEntry(time_ns=time_ns, kind=kind, text=text, actor=actor, ref=ref))
        if len(self.timeline) > _TIMELINE:
            del self.timeline[1]

    def take(self, held: Held, now_ns: int) -> None:
        """A new member, or news of one."""
        alert = held.alert
        fires = alert.status is not AlertStatus.RESOLVED
        again = fires and alert.alert_id not in self.firing
        if alert.alert_id in self.members or len(self.members) < _MEMBERS:
            self.members[alert.alert_id] = held
        if fires:
            self.firing.add(alert.alert_id)
            if again:
                self.happened(Happening.FIRED, now_ns, f"{alert.name} on {entity_name(alert.entity)} fires again")
        else:
            self.firing.discard(alert.alert_id)
        self.ended(now_ns)

    def ended(self, now_ns: int) -> None:
        """Settles when nothing fires any more."""
        if not self.firing and self.members:
            self.happened(Happening.ALL_ENDED, now_ns, "All alerts ended; watching for a relapse")

    def entities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(held.alert.entity for held in self.members.values()))

    def render(self, shape: Shape, now_ns: int) -> Incident:
        """The next version."""
        self.version += 1
        self.updated_ns = now_ns
        heard = [held for held in self.members.values() if held.verdict is None] or list(self.members.values())
        if heard:
            signals = [signal_of(held.alert, entity=held.place) for held in heard]
            rarity = {held.alert.alert_id: held.surprise for held in heard}
            self.shown = most_explanatory(signals, shape, rarity).alert_id
        return Incident(
            incident_id=self.incident_id,
            tenant=self.tenant,
            version=self.version,
            state=self.state,
            title=self._title(heard) if heard else f"Merged into {self.merged_into}",
            severity=max((held.alert.severity for held in heard), key=lambda one: one.rank, default=Severity.WARNING),
            opened_ns=self.opened_ns,
            updated_ns=now_ns,
            resolved_ns=self.resolved_ns,
            entities=self.entities(),
            members=tuple(self._member(held) for held in self.members.values()),
            aliases=tuple(self.aliases),
            merged_into=self.merged_into,
            timeline=tuple(self.timeline),
        )

    def _member(self, held: Held) -> Member:
        shown = held.alert.alert_id == self.shown
        mark: tuple[Mark, ...] = ()
        if held.verdict is not None:
            mark = (
                Mark(
                    stage=STAGE,
                    reason=held.verdict.reason,
                    rule=held.verdict.rule,
                    time_ns=held.alert.starts_ns,
                    components=held.verdict.components,
                ),
            )
        elif not shown:
            text = f"told through incident {self.incident_id}"
            mark = (Mark(stage=STAGE, reason=text, rule="child", time_ns=held.alert.starts_ns),)
        alert = dataclasses.replace(held.alert, marks=(*held.alert.marks, *mark)) if mark else held.alert
        return Member(alert=alert, representative=shown, suppressed=not shown, components=held.components)

    def _title(self, heard: Sequence[Held]) -> str:
        shown = self.members[self.shown].alert
        # Not as they came in: alerts of one moment come in any order.
        since = sorted((held.alert.starts_ns, entity_name(held.alert.entity)) for held in heard)
        others = [name for name in dict.fromkeys(name for _, name in since) if name != entity_name(shown.entity)]
        text = f"{_phrase(shown)} at {entity_name(shown.entity)}"
        if len(others) > _NAMED:
            return f"{text}, felt at {', '.join(others[:_NAMED])} and {len(others) - _NAMED} more"
        return f"{text}, felt at {', '.join(others)}" if others else text

    def dump(self) -> Mapping[str, Any]:
        """As plain JSON values."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            **plain,
            "state": self.state.value,
            "firing": sorted(self.firing),
            "timeline": [[getattr(one, name) for name in _ENTRY] for one in self.timeline],
            "members": [held.text() for held in self.members.values()],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Record:
        members = [Held.of(text) for text in state["members"]]
        return cls(
            **{
                **state,
                "state": IncidentState(state["state"]),
                "firing": set(state["firing"]),
                "timeline": [_entry(row) for row in state["timeline"]],
                "members": {held.alert.alert_id: held for held in members},
            }
        )


def _entry(row: Sequence[Any] | Mapping[str, Any]) -> TimelineEntry:
    """Of a snapshot; those of format 1 name the fields."""
    return TimelineEntry(**row if isinstance(row, Mapping) else dict(zip(_ENTRY, row, strict=True)))


def _phrase(alert: Alert) -> str:
    """What an alert says, in a few words."""
    if alert.metric in _PHRASES:
        return _PHRASES[alert.metric]
    if kind_of(alert) is Kind.STARVATION:
        return "Missing traffic"
    if alert.metric == semantics.SERVICE_REQUEST_RATE and alert.direction is Direction.UP:
        return "Traffic surge"
    words = (alert.metric or alert.name).replace("_", " ").strip()
    return words[:1].upper() + words[1:80] if words else "Alert"
