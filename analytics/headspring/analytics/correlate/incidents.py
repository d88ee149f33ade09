"""The incidents of one tenant: what the kernel groups, with lifecycle, changes, actions and people's words."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headspring.analytics.correlate.causes import of_second, sure_causes
from headspring.analytics.correlate.dynamic_xy import DynamicXY, Move
from headspring.analytics.correlate.lifecycle import Happening
from headspring.analytics.correlate.record import Held, Record
from headspring.analytics.correlate.signals import signal_of
from headspring.knowledge.topology.graph import Topology
from headspring.knowledge.topology.port import Snapshots
from headspring.proto import codec, ids
from headspring.proto.action import ActionEvent, Feedback, RunState
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Alert, AlertStatus
from headspring.proto.incident import Diagnosis, Incident, IncidentState
from headspring.proto.telemetry import Change

if TYPE_CHECKING:
    from headspring.analytics.correlate.stage import CorrelateConfig

_CHANGES = 500
"""Recent changes kept for incidents that open after them."""
_BEFORE_NS = 30 * 60 * NS_PER_S
"""A change this long before an incident may have to do with it."""
_CHANGE_HOPS = 2
_AHEAD_NS = 60 * NS_PER_S
"""A source's clock may be this far ahead; later starts count as now."""
_WORKING = frozenset({RunState.EXECUTING, RunState.VALIDATING, RunState.ROLLING_BACK})
_OVER = frozenset({IncidentState.RESOLVED, IncidentState.MERGED})


class Incidents:
    """State of one tenant. `versions` hands out what has changed."""

    def __init__(self, tenant: str, *, topology: Snapshots, config: CorrelateConfig) -> None:
        self._tenant = tenant
        self._topology = topology
        self._config = config
        self._kernel = DynamicXY(config.rules, tenant=tenant)
        self._records: dict[str, Record] = {}
        self._where: dict[str, str] = {}
        """Alert id → incident id."""
        self._alias: dict[str, str] = {}
        """Group of the kernel, or merged incident → incident."""
        self._changes: deque[Change] = deque(maxlen=_CHANGES)
        self._dirty: dict[str, None] = {}
        self._heard_ns = 0
        """Wall clock of the newest event time."""
        self._causes: dict[str, str] = {}
        """Incident id → entity that its diagnosis is sure to blame; built anew after a restart."""

    def alert(self, alert: Alert, now_ns: int) -> None:
        known = self._records.get(self._where.get(alert.alert_id, ""))
        if known is not None:
            self._news(known, alert, now_ns)
            return
        snapshot = self._topology.snapshot(self._tenant, at_ns=now_ns)
        starts_ns = min(alert.starts_ns or now_ns, now_ns + _AHEAD_NS)
        place = _place(alert, snapshot)
        firing = alert.status is not AlertStatus.RESOLVED
        placed = self._kernel.add(replace(signal_of(alert, entity=place), time_ns=starts_ns), snapshot, lasting=firing)
        self._heard_ns = now_ns
        self._moved(placed.moves, now_ns)
        record = self._record(placed.group, starts_ns)
        held = Held(
            alert=alert,
            place=place,
            components=placed.components,
            surprise=placed.surprise,
            verdict=placed.verdict,
        )
        first = not record.members
        record.take(held, now_ns)
        record.opened_ns = min(record.opened_ns, starts_ns)
        self._where[alert.alert_id] = record.incident_id
        record.note(
            starts_ns,
            "alert",
            f"{alert.name} on {ids.entity_name(alert.entity)}",
            actor=alert.source,
            ref=alert.alert_id,
        )
        if placed.successor_of:
            old = self._target(placed.successor_of)
            record.note(now_ns, "state", f"Goes on from {old}, which had grown too old", ref=old)
        if first:
            for change in self._changes:
                self._relate(record, change)
        self._touch(record)

    def change(self, change: Change, now_ns: int) -> None:
        self._changes.append(change)
        for record in self._records.values():
            if record.state not in _OVER:
                self._relate(record, change)

    def action(self, event: ActionEvent, now_ns: int) -> None:
        record = self._records.get(self._target(event.incident_id))
        if record is None:
            return
        text = event.text or f"{event.runbook}: {event.state.value}"
        record.note(event.time_ns, "action", text, actor=event.actor, ref=event.run_id)
        if event.state in _WORKING:
            record.happened(Happening.ACTION_STARTED, now_ns, f"{event.runbook} is under way", actor=event.actor)
        elif event.state.final:
            record.happened(
                Happening.ACTION_ENDED, now_ns, f"{event.runbook} ended: {event.state.value}", actor=event.actor
            )
        self._touch(record)

    def feedback(self, said: Feedback, now_ns: int) -> None:
        """What a person said: `acknowledge`, `resolve`, `split`, `merge`; of an alert `resurface`; the rest is noted.

        `split` takes `detail["alerts"]` (ids, comma-separated) or `entity`; `merge` takes `detail["into"]`.
        """
        if said.subject_kind == "alert":
            self._resurface(said, now_ns)
            return
        record = self._records.get(self._target(said.subject))
        if said.subject_kind != "incident" or record is None:
            return
        if said.verdict == "acknowledge":
            record.happened(Happening.ACKNOWLEDGED, now_ns, f"Acknowledged by {said.actor}", actor=said.actor)
        elif said.verdict == "resolve":
            record.happened(Happening.CLOSED, now_ns, f"Closed by {said.actor}", actor=said.actor)
        elif said.verdict == "split":
            named = [one.strip() for one in said.detail.get("alerts", "").split(",") if one.strip()]
            if not named and said.entity:
                named = [key for key, held in record.members.items() if held.alert.entity == said.entity]
            self.split(record.incident_id, named, now_ns, actor=said.actor)
        elif said.verdict == "merge":
            self.merge(record.incident_id, said.detail.get("into", ""), now_ns, actor=said.actor)
        if said.comment or said.verdict not in ("acknowledge", "resolve", "split", "merge"):
            record.note(said.time_ns, "comment", said.comment or said.verdict, actor=said.actor, ref=said.feedback_id)
        self._touch(record)

    def split(self, incident_id: str, alert_ids: Sequence[str], now_ns: int, *, actor: str) -> str:
        """Moves alerts into a new incident; its id, or "" when that would leave one of the two empty."""
        record = self._records.get(self._target(incident_id))
        chosen = [one for one in dict.fromkeys(alert_ids) if record is not None and one in record.members]
        if record is None or record.state is IncidentState.MERGED or not 0 < len(chosen) < len(record.members):
            return ""
        first = min((record.members[one].alert for one in chosen), key=lambda one: (one.starts_ns, one.alert_id))
        serial = 0
        while (name := self._split_id(first, serial)) in self._records:
            serial += 1
        fresh = Record(incident_id=name, tenant=self._tenant, opened_ns=first.starts_ns, since_ns=now_ns)
        self._records[name] = fresh
        fresh.note(now_ns, "state", f"Split from {record.incident_id}", actor=actor, ref=record.incident_id)
        record.note(now_ns, "state", f"{len(chosen)} alerts split off into {name}", actor=actor, ref=name)
        for one in chosen:
            self._carry(one, record, fresh, now_ns)
        record.ended(now_ns)
        self._touch(record)
        self._touch(fresh)
        return name

    def merge(self, incident_id: str, into: str, now_ns: int, *, actor: str) -> bool:
        source, target = self._records.get(self._target(incident_id)), self._records.get(self._target(into))
        if source is None or target is None or source is target:
            return False
        for one in list(source.members):
            self._carry(one, source, target, now_ns)
        target.firing |= source.firing
        source.firing.clear()
        target.note(now_ns, "state", f"{source.incident_id} merged into this", actor=actor, ref=source.incident_id)
        self._absorbed(source, target, now_ns, actor=actor)
        target.opened_ns = min(target.opened_ns, source.opened_ns)
        self._touch(target)
        return True

    def diagnosed(self, diagnosis: Diagnosis, now_ns: int) -> None:
        """Parts an incident in which two independent causes are confirmed; each goes on with its own."""
        record = self._records.get(self._target(diagnosis.incident_id))
        if record is None or record.state in _OVER:
            return
        snapshot = self._topology.snapshot(self._tenant, at_ns=now_ns)
        causes = sure_causes(diagnosis, snapshot)
        if not causes:
            return
        own = self._causes.get(record.incident_id, "")
        # An incident keeps the cause it was known by, whichever ranks first now.
        first = next((one for one in causes if one.entity == own), causes[0])
        self._causes[record.incident_id] = first.entity
        for second in causes:
            if second is first:
                continue
            alerts = [held.alert for held in record.members.values()]
            chosen = of_second(alerts, first, second, snapshot)
            if not 0 < len(chosen) < len(record.members):
                continue
            other = self._open_with(second.entity)
            if other is None:
                name = self.split(record.incident_id, chosen, now_ns, actor="diagnosis")
                if name:
                    self._causes[name] = second.entity
                continue
            for one in chosen:
                self._carry(one, record, other, now_ns)
            record.ended(now_ns)
            self._touch(record)
            self._touch(other)

    def _open_with(self, cause: str) -> Record | None:
        """The open incident that is known by a cause."""
        for incident_id, entity in self._causes.items():
            record = self._records.get(self._target(incident_id))
            if entity == cause and record is not None and record.state not in _OVER:
                return record
        return None

    def passed(self, now_ns: int) -> None:
        """Time went by: settles what is due, lets go of what is over."""
        if self._heard_ns:
            snapshot = self._topology.snapshot(self._tenant, at_ns=now_ns)
            moves = self._kernel.advance(self._kernel.now_ns + max(0, now_ns - self._heard_ns), snapshot)
            self._heard_ns = max(self._heard_ns, now_ns)
            self._moved(moves, now_ns)
        for record in list(self._records.values()):
            idle_ns = now_ns - max(record.since_ns, record.updated_ns)
            if record.state is IncidentState.SETTLING:
                due = now_ns - record.since_ns >= round(self._config.settle_s * NS_PER_S)
                if due and record.happened(Happening.SETTLED, now_ns, "Resolved"):
                    self._touch(record)
            elif record.state not in _OVER and idle_ns > round(self._config.stale_s * NS_PER_S):
                hours = self._config.stale_s / 3600
                if record.happened(Happening.CLOSED, now_ns, f"Closed: nothing heard for {hours:g} hours"):
                    self._touch(record)
            elif record.state in _OVER and idle_ns > round(self._config.keep_s * NS_PER_S):
                self._forget(record)

    def versions(self, now_ns: int) -> Sequence[Incident]:
        """Each incident that changed since the last call, as its next version."""
        if not self._dirty:
            return ()
        shape = self._kernel.shape(self._topology.snapshot(self._tenant, at_ns=now_ns))
        changed = [self._records[name] for name in self._dirty if name in self._records]
        self._dirty.clear()
        result = [record.render(shape, now_ns) for record in changed if not record.quiet]
        excess = len(self._records) - self._config.max_incidents
        if excess > 0:
            by_age = sorted(self._records.values(), key=lambda one: (one.state not in _OVER, one.updated_ns))
            for record in by_age[:excess]:
                self._forget(record)
        return result

    def dump(self) -> Mapping[str, Any]:
        """As plain JSON values; `versions` has been called before."""
        return {
            "kernel": self._kernel.dump(),
            "records": [record.dump() for record in self._records.values()],
            "where": self._where,
            "alias": self._alias,
            "changes": [base64.b64encode(codec.encode(change)).decode() for change in self._changes],
            "dirty": list(self._dirty),
            "heard_ns": self._heard_ns,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._kernel.load(state["kernel"])
        self._records = {item["incident_id"]: Record.load(item) for item in state["records"]}
        self._where = dict(state["where"])
        self._alias = dict(state["alias"])
        self._changes.extend(codec.decode(Change, base64.b64decode(item)) for item in state["changes"])
        self._dirty = dict.fromkeys(state["dirty"])
        self._heard_ns = state["heard_ns"]

    def _news(self, record: Record, alert: Alert, now_ns: int) -> None:
        held = record.members.get(alert.alert_id)
        if alert.status is AlertStatus.RESOLVED:
            self._kernel.ended(alert.alert_id)
        before = (record.state, held.alert if held else None)
        if held is None:  # one of those beyond the limit of listed members
            held = Held(alert=alert, place=alert.entity, components={}, surprise=1.0, verdict=None)
        record.take(replace(held, alert=alert), now_ns)
        now = record.members.get(alert.alert_id)
        if before != (record.state, now.alert if now else None):
            self._touch(record)

    def _record(self, group: str, opened_ns: int) -> Record:
        name = self._target(group)
        record = self._records.get(name)
        if record is None:
            record = self._records[name] = Record(incident_id=name, tenant=self._tenant, opened_ns=opened_ns)
        return record

    def _target(self, name: str) -> str:
        for _ in range(32):  # merges of merges; a longer chain would be a circle
            if name not in self._alias:
                break
            name = self._alias[name]
        return name

    def _moved(self, moves: Sequence[Move], now_ns: int) -> None:
        for move in moves:
            source = self._records.get(self._target(move.before))
            if source is None or self._where.get(move.alert_id) != source.incident_id:
                continue  # a person has put it elsewhere
            target = self._record(move.after, source.opened_ns)
            if target is source:
                continue
            if not target.members:
                target.opened_ns = (
                    source.members[move.alert_id].alert.starts_ns if move.alert_id in source.members else now_ns
                )
            self._carry(move.alert_id, source, target, now_ns)
            if source.members:
                source.ended(now_ns)
                self._touch(source)
            else:
                self._absorbed(source, target, now_ns, actor="")
            self._touch(target)

    def _carry(self, alert_id: str, source: Record, target: Record, now_ns: int) -> None:
        held = source.members.pop(alert_id, None)
        self._where[alert_id] = target.incident_id
        source.firing.discard(alert_id)
        if held is not None:
            target.take(held, now_ns)

    def _absorbed(self, source: Record, target: Record, now_ns: int, *, actor: str) -> None:
        source.merged_into = target.incident_id
        source.happened(Happening.MERGED, now_ns, f"Merged into {target.incident_id}", actor=actor)
        self._alias[source.incident_id] = target.incident_id
        target.aliases += [one for one in (source.incident_id, *source.aliases) if one not in target.aliases]
        for one, name in self._where.items():
            if name == source.incident_id:
                self._where[one] = target.incident_id
        if source.version:
            self._touch(source)
        else:
            del self._records[source.incident_id]  # nobody has seen it

    def _relate(self, record: Record, change: Change) -> None:
        latest_ns = record.resolved_ns or 2**62
        if not change.entity or not record.opened_ns - _BEFORE_NS <= change.time_ns <= latest_ns:
            return
        shape = self._kernel.shape(self._topology.snapshot(self._tenant, at_ns=max(change.time_ns, record.updated_ns)))
        hops = [shape.hops(held.place, change.entity, alerting=()) for held in record.members.values()]
        if any(one is not None and one <= _CHANGE_HOPS for one in hops):
            text = change.summary or f"{change.kind.value} of {ids.entity_name(change.entity)}"
            record.note(change.time_ns, "change", text, actor=change.source, ref=change.change_id)
            self._touch(record)

    def _resurface(self, said: Feedback, now_ns: int) -> None:
        record = self._records.get(self._where.get(said.subject, ""))
        held = record.members.get(said.subject) if record is not None else None
        if record is None or held is None or said.verdict != "resurface":
            return
        self._kernel.acquit(held.alert.fingerprint)
        record.members[said.subject] = replace(held, verdict=None)
        record.note(now_ns, "comment", f"{held.alert.name} brought back", actor=said.actor, ref=said.subject)
        self._touch(record)

    def _forget(self, record: Record) -> None:
        del self._records[record.incident_id]
        self._causes.pop(record.incident_id, None)
        self._dirty.pop(record.incident_id, None)
        gone = {record.incident_id}
        self._where = {one: name for one, name in self._where.items() if name not in gone}
        self._alias = {one: name for one, name in self._alias.items() if name not in gone}

    def _split_id(self, first: Alert, serial: int) -> str:
        return ids.derived_id("inc", first.starts_ns, self._tenant, first.alert_id, "split", str(serial))

    def _touch(self, record: Record) -> None:
        self._dirty[record.incident_id] = None


def _place(alert: Alert, topology: Topology) -> str:
    """Where in the topology an alert is: its entity, or the service that its labels name."""
    if alert.entity in topology.by_entity or not alert.labels.get("service"):
        return alert.entity
    for kind in ("service", "database", "gateway"):
        known = ids.entity_id(kind, alert.labels["service"], alert.labels.get("namespace", ids.DEFAULT_NAMESPACE))
        if known in topology.by_entity:
            return known
    return alert.entity
