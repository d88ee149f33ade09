"""Backtests: folders of recorded cases in, one JSON file of answers out.

A set is a folder of case folders with `incident.json` and, as far as known, `metrics.parquet`, `spans.parquet`,
`logs.parquet`, `topology.json`, `changes.json`; normal data common to several cases lies in `shared/`. Parquet is
read with DuckDB into NumPy. Run: `python -m headspring.analytics.diagnose.backtest SET OUT`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.diagnose.case import Case, LogTable, Series
from headspring.analytics.diagnose.engine import diagnose
from headspring.analytics.diagnose.roles import is_outbound, role_of
from headspring.analytics.diagnose.spans import EMPTY
from headspring.analytics.diagnose.traces import joined
from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology
from headspring.knowledge.traces.port import SpanTable
from headspring.proto.detection import Alert, Severity
from headspring.proto.incident import Diagnosis
from headspring.proto.telemetry import Change, ChangeKind

_MAX_FILE_BYTES = 2 * 1024**3
_SEVERITY = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "WARNING": 13, "ERROR": 17, "FATAL": 21, "CRITICAL": 21}
_EDGE_TYPES = {kind.value for kind in EdgeType}
_CHANGE_KINDS = {kind.value for kind in ChangeKind}

# Columns come out of DuckDB as NumPy arrays of whatever type the file has.
_Columns = dict[str, Any]


def run(set_dir: Path, out: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Diagnoses every case of a set and writes the answers by case id.

    Args:
        progress: Called with each case id when it is done.
    """
    answers: dict[str, Any] = {}
    shared: dict[tuple[str, str], _Columns] = {}
    for path in sorted(p.parent for p in set_dir.glob("*/incident.json")):
        case = load_case(path, shared)
        begin = time.perf_counter()
        found = diagnose(case)
        answers[path.name] = _as_answer(case, found, time.perf_counter() - begin)
        if progress is not None:
            progress(path.name)
    out.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")


def load_case(path: Path, shared: dict[tuple[str, str], _Columns] | None = None) -> Case:
    """One case folder; `shared` caches files that several cases use."""
    shared = {} if shared is None else shared
    incident = json.loads((path / "incident.json").read_text())
    window = (_ns(incident["window"]["start"]), _ns(incident["window"]["end"]))
    normal = (_ns(incident["normal"]["start"]), _ns(incident["normal"]["end"]))
    detected_ns = _ns(incident["detected_at"])
    parts: dict[str, list[_Columns]] = {"metrics": [], "spans": [], "logs": []}
    for kind in parts:
        if (path / f"{kind}.parquet").exists():
            parts[kind].append(_read(path / f"{kind}.parquet", _ORDER[kind]))
    for name in incident.get("shared", []):
        file = path.parent / "shared" / name
        key = (str(file), "")
        if key not in shared:
            shared[key] = _read(file, "1")
        columns = shared[key]
        kind = "metrics" if "metric" in columns else "spans" if "span_id" in columns else "logs"
        if kind == "logs" and "body" not in columns:
            continue
        kind = "logs" if "body" in columns else kind
        times = _times(columns)
        parts[kind].append(_rows(columns, (times >= normal[0]) & (times < window[1])))
    spans = None
    for columns in parts["spans"]:
        table = _spans(columns)
        spans = table if spans is None else joined(spans, table)
    target = incident.get("target")
    return Case(
        incident_id=incident["id"],
        now_ns=window[1],
        window=window,
        normal=normal,
        detected_ns=detected_ns,
        alerts=tuple(_alert(item, detected_ns) for item in incident["alerts"]),
        target=(target["service"], target["metric"]) if target and target.get("metric") else None,
        series=tuple(_series(parts["metrics"])),
        spans=spans,
        normal_spans=EMPTY if spans is not None else None,
        logs=_logs(parts["logs"]),
        changes=_changes(path / "changes.json"),
        topology=_topology(path / "topology.json"),
    )


_ORDER = {"metrics": "service, metric, timestamp", "spans": "start_ns", "logs": "timestamp"}


def _read(path: Path, order: str) -> _Columns:
    import duckdb

    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES} bytes")
    relation = duckdb.sql("SET TimeZone='UTC'") or duckdb.read_parquet(str(path))
    chosen = [
        f"epoch_ns({name}) AS {name}" if "TIMESTAMP" in str(kind) else name
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ]
    columns: _Columns = relation.project(", ".join(chosen)).order(order).fetchnumpy()
    return {name: np.ma.filled(column, _absent(column)) for name, column in columns.items()}


def _absent(column: NDArray[Any]) -> Any:
    return "" if column.dtype.kind == "O" else np.nan if column.dtype.kind == "f" else 0


def _rows(columns: _Columns, keep: NDArray[np.bool_]) -> _Columns:
    return {name: column[keep] for name, column in columns.items()}


def _times(columns: _Columns) -> NDArray[np.int64]:
    return np.asarray(columns["timestamp" if "timestamp" in columns else "start_ns"], dtype=np.int64)


def _ns(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000) * 1_000_000


def _text(columns: _Columns, name: str, n: int) -> NDArray[np.object_]:
    if name not in columns:
        return np.full(n, "", dtype=np.object_)
    return np.array([value if isinstance(value, str) else "" for value in columns[name]], dtype=np.object_)


def _series(parts: Sequence[_Columns]) -> list[Series]:
    """Long rows into one series per (service, metric, instance, peer), parts joined and sorted by time."""
    grouped: dict[tuple[str, str, str, str], list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for columns in parts:
        n = len(columns["value"])
        keys = [_text(columns, name, n) for name in ("service", "metric", "instance", "peer")]
        codes: dict[tuple[str, str, str, str], int] = {}
        code = np.fromiter((codes.setdefault(key, len(codes)) for key in zip(*keys, strict=True)), np.int64, count=n)
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(codes) + 1))
        times, values = _times(columns), np.asarray(columns["value"], dtype=np.float64)
        for key, number in codes.items():
            rows = order[bounds[number] : bounds[number + 1]]
            grouped.setdefault(key, []).append((times[rows], values[rows]))
    found = []
    for (service, metric, instance, peer), pieces in sorted(grouped.items()):
        times = np.concatenate([piece[0] for piece in pieces])
        values = np.concatenate([piece[1] for piece in pieces])
        order = np.argsort(times, kind="stable")
        found.append(
            Series(
                entity=service,
                metric=metric,
                role=role_of(metric),
                outbound=is_outbound(metric),
                peer=peer,
                instance=instance,
                query=f'{metric}{{service="{service}"}}',
                time_ns=times[order],
                value=values[order],
            )
        )
    return found


def _spans(columns: _Columns) -> SpanTable:
    n = len(columns["start_ns"])
    status = _text(columns, "status", n)
    return SpanTable(
        trace_id=_text(columns, "trace_id", n),
        span_id=_text(columns, "span_id", n),
        parent_span_id=_text(columns, "parent_span_id", n),
        entity=_text(columns, "service", n),
        instance=_text(columns, "instance", n),
        operation=_text(columns, "operation", n),
        kind=np.full(n, "unspecified", dtype=np.object_),
        peer=np.full(n, "", dtype=np.object_),
        start_ns=np.asarray(columns["start_ns"], dtype=np.int64),
        duration_ns=np.asarray(columns["duration_ns"], dtype=np.int64),
        status=status,
        status_message=_text(columns, "status_message", n),
    )


def _logs(parts: Sequence[_Columns]) -> LogTable | None:
    if not parts:
        return None
    times = np.concatenate([_times(columns) for columns in parts])
    order = np.argsort(times, kind="stable")

    def text(name: str) -> NDArray[np.object_]:
        return np.concatenate([_text(columns, name, len(columns["timestamp"])) for columns in parts])[order]

    severity = [_SEVERITY.get(str(value).upper(), 0) for value in text("severity")]
    return LogTable(
        time_ns=times[order],
        entity=text("service"),
        severity=np.array(severity, dtype=np.int64),
        body=text("body"),
        trace_id=text("trace_id"),
        span_id=text("span_id"),
    )


def _alert(item: Mapping[str, Any], detected_ns: int) -> Alert:
    known = {severity.value for severity in Severity}
    severity = str(item.get("severity", "")).lower()
    return Alert(
        alert_id=f"{item['service']}/{item['name']}",
        tenant="default",
        fingerprint=f"{item['service']}/{item['name']}",
        entity=item["service"],
        name=item["name"],
        severity=Severity(severity) if severity in known else Severity.ERROR,
        starts_ns=_ns(item["starts_at"]) if item.get("starts_at") else detected_ns,
        summary=item.get("summary", ""),
        metric=item.get("metric", ""),
    )


def _topology(path: Path) -> Topology:
    if not path.exists():
        return Topology()
    read = json.loads(path.read_text())
    return Topology.of(
        [
            Edge(
                caller=edge["from"],
                callee=edge["to"],
                type=EdgeType(edge["type"]) if edge.get("type") in _EDGE_TYPES else EdgeType.SYNC,
            )
            for edge in sorted(read["edges"], key=lambda e: (e["from"], e["to"]))
        ],
        [Node(entity=node["id"], kind=node["kind"]) for node in read["nodes"]],
    )


def _changes(path: Path) -> tuple[Change, ...]:
    if not path.exists():
        return ()
    return tuple(
        Change(
            change_id=str(item["id"]),
            tenant="default",
            entity=item.get("service") or "",
            kind=ChangeKind(item["kind"]) if item["kind"] in _CHANGE_KINDS else ChangeKind.UNSPECIFIED,
            time_ns=_ns(item["at"]),
            summary=item.get("summary", ""),
            version=item.get("commit") or "",
            attributes={
                "commit": item.get("commit") or "",
                "diff": item.get("diff") or "",
                "files": "\n".join(item.get("files") or ()),
            },
        )
        for item in json.loads(path.read_text())
    )


def _as_answer(case: Case, found: Diagnosis, seconds: float) -> dict[str, Any]:
    best = found.hypotheses[0] if found.hypotheses else None
    change = next((c for c in case.changes if best is not None and c.change_id == best.change_id), None)
    return {
        "causes": [
            {
                "service": one.entity,
                **({"metric": one.metric} if one.metric else {}),
                "probability": round(one.probability, 4),
                "status": one.status.value.upper(),
                "path": list(one.path),
            }
            for one in found.hypotheses
        ],
        "change": (change.attributes.get("commit") or change.change_id) if change is not None else None,
        "none": found.none,
        "seconds": seconds,
    }


def main(arguments: Sequence[str]) -> int:
    """`SET OUT` from the command line."""
    if len(arguments) != 2:
        print("wanted: SET OUT", file=sys.stderr)
        return 2
    run(Path(arguments[0]), Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
