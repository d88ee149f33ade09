"""Recorded alerts through the correlation kernel: which incident each alert would have been in.

A set is a folder with `alerts.jsonl` (time ordered: id, starts_at, source, service, name, severity, labels)
and `topology.json` (nodes with id and kind; edges with from, to and type call, data, runs_on or registers).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headspring.analytics.correlate.dynamic_xy import DynamicXY, Rules
from headspring.analytics.correlate.explain import most_explanatory
from headspring.analytics.correlate.signals import Signal, signal_of
from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology
from headspring.proto import ids
from headspring.proto.detection import Alert, Direction, Severity
from headspring.proto.errors import ContractError

_EDGES = {
    "call": EdgeType.SYNC,
    "data": EdgeType.DATABASE,
    "runs_on": EdgeType.RUNS_ON,
    # A registry is like a host here: everything hangs on it, so it relays only when it alerts itself.
    "registers": EdgeType.RUNS_ON,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PROGRESS_EVERY = 1000
"""Alerts between two progress reports."""


def run(set_dir: Path, out: Path, *, progress: Callable[[int], None] | None = None, rules: Rules | None = None) -> None:
    """Writes a line per alert: `{"id", "incident", "suppressed", "representative"}`.

    Args:
        set_dir: Folder of the set.
        out: File to write.
        progress: Told the number of alerts done, every thousand and at the end.
        rules: Of the kernel; None for the defaults.

    Raises:
        ContractError: a line is not an alert, or an edge has an unknown type.
    """
    topology = read_topology(json.loads((set_dir / "topology.json").read_text()))
    kernel = DynamicXY(rules)
    groups: dict[str, str] = {}
    marked: set[str] = set()
    signals: dict[str, Signal] = {}
    surprise: dict[str, float] = {}
    with (set_dir / "alerts.jsonl").open() as lines:
        for number, line in enumerate(lines, 1):
            signal = signal_of(read_alert(line))
            placed = kernel.add(signal, topology)
            signals[signal.alert_id] = signal
            surprise[signal.alert_id] = placed.surprise
            groups[signal.alert_id] = placed.group
            if placed.verdict is not None:
                marked.add(signal.alert_id)
            for move in placed.moves:
                groups[move.alert_id] = move.after
            if progress is not None and number % _PROGRESS_EVERY == 0:
                progress(number)
    members: dict[str, list[Signal]] = {}
    for alert_id, group in groups.items():
        if alert_id not in marked:
            members.setdefault(group, []).append(signals[alert_id])
    shape = kernel.shape(topology)
    shown = {most_explanatory(group, shape, surprise).alert_id for group in members.values()}
    with out.open("w") as file:
        for alert_id, group in groups.items():
            row = {
                "id": alert_id,
                "incident": group,
                "suppressed": alert_id not in shown,
                "representative": alert_id in shown,
            }
            file.write(json.dumps(row) + "\n")
    if progress is not None:
        progress(len(groups))


def read_topology(data: Mapping[str, Any]) -> Topology:
    """Raises `ContractError` for an edge of unknown type."""
    try:
        edges = [Edge(caller=edge["from"], callee=edge["to"], type=_EDGES[edge["type"]]) for edge in data["edges"]]
        return Topology.of(edges, [Node(entity=node["id"], kind=node["kind"]) for node in data["nodes"]])
    except KeyError as error:
        raise ContractError(f"topology has no or an unknown {error}; edge types are {', '.join(_EDGES)}") from error


def read_alert(line: str) -> Alert:
    """One line of `alerts.jsonl`."""
    try:
        row = json.loads(line)
        moment = datetime.fromisoformat(row["starts_at"])
        labels = {str(key): str(value) for key, value in row["labels"].items()}
        identity = {**labels, "__name": row["name"], "__service": row["service"], "__source": row["source"]}
        direction = labels.get("direction", "")
        return Alert(
            alert_id=row["id"],
            tenant=ids.DEFAULT_TENANT,
            fingerprint=ids.fingerprint(identity),
            entity=row["service"],
            name=row["name"],
            severity=Severity(row["severity"]) if row["severity"] in set(Severity) else Severity.WARNING,
            starts_ns=(moment - _EPOCH) // _MICROSECOND * 1000,
            source=row["source"],
            labels=labels,
            direction=Direction(direction) if direction in set(Direction) else Direction.UNSPECIFIED,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ContractError(f"{line[:200]!r} is not an alert: {error}") from error
