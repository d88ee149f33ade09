"""One timeline of an incident: alerts, changes, states, actions and comments in the order they happened."""

from __future__ import annotations

from collections.abc import Sequence

from headspring.gateway.ui.runs import View
from headspring.proto.ids import entity_name
from headspring.proto.incident import Diagnosis, Incident, TimelineEntry


def timeline(incident: Incident, diagnosis: Diagnosis | None, runs: Sequence[View]) -> list[TimelineEntry]:
    """The incident's own entries, with the changes its diagnosis looked at and what its runs did, each once."""
    # What runs did is told from the runs themselves, which say more and are never behind.
    entries = [entry for entry in incident.timeline if entry.kind != "action" or not runs]
    told = {entry.ref for entry in entries if entry.ref}
    for change in diagnosis.changes if diagnosis else ():
        if change.change_id in told:
            continue
        text = change.summary or f"{change.kind.value} {change.version}".strip()
        entries.append(
            TimelineEntry(
                time_ns=change.time_ns, kind="change", ref=change.change_id, actor=change.source,
                text=f"{entity_name(change.entity)}: {text}" if change.entity else text,
            )
        )  # fmt: skip
    entries += [
        TimelineEntry(
            time_ns=event.time_ns, kind="action", actor=event.actor, ref=event.event_id,
            text=f"{event.runbook}: {event.text or event.state.value.replace('_', ' ')}",
        )
        for run in runs
        for event in run.events
    ]  # fmt: skip
    unique = {(entry.time_ns, entry.kind, entry.text): entry for entry in entries}
    return sorted(unique.values(), key=lambda entry: entry.time_ns)
