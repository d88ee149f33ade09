"""The embedded topology: rows in SQLite, the newest snapshot of each tenant in memory.

A snapshot stays valid until an edge is observed, an edge expires or one comes into its time, so asking
again between two observations costs a dictionary look-up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headspring.knowledge.database import Database
from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology
from headspring.proto.clock import NS_PER_S

CONFIGURED = "config"
"""Source of edges that an operator declared; they do not expire."""
_LEAD_NS = 120 * NS_PER_S
"""Discovery learns an edge up to two minutes after its first call; for that long before its first sighting
it counts as there, so that an incident in the first minutes of an estate still has a graph."""
_FORGET_FACTOR = 96
"""Rows are deleted this many expiries after the last sighting (a day by default); until then `at_ns` can
look back at them."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS edges (
    tenant TEXT NOT NULL, caller TEXT NOT NULL, callee TEXT NOT NULL, type TEXT NOT NULL, configured INTEGER NOT NULL,
    weight REAL NOT NULL, source TEXT NOT NULL, confidence REAL NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant, configured, caller, callee, type)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    tenant TEXT NOT NULL, entity TEXT NOT NULL, kind TEXT NOT NULL, configured INTEGER NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant, configured, entity)
) WITHOUT ROWID;
"""
_UPSERT_EDGE = """
INSERT INTO edges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    weight = CASE WHEN excluded.last_seen_ns >= last_seen_ns THEN excluded.weight ELSE weight END,
    source = CASE WHEN excluded.last_seen_ns >= last_seen_ns THEN excluded.source ELSE source END,
    confidence = CASE WHEN excluded.last_seen_ns >= last_seen_ns THEN excluded.confidence ELSE confidence END,
    first_seen_ns = min(first_seen_ns, excluded.first_seen_ns),
    last_seen_ns = max(last_seen_ns, excluded.last_seen_ns)
"""
_UPSERT_NODE = """
INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    kind = CASE WHEN excluded.last_seen_ns >= last_seen_ns THEN excluded.kind ELSE kind END,
    first_seen_ns = min(first_seen_ns, excluded.first_seen_ns),
    last_seen_ns = max(last_seen_ns, excluded.last_seen_ns)
"""
_ALWAYS = 2**62


@dataclass(frozen=True, slots=True)
class _Cached:
    topology: Topology
    from_ns: int
    until_ns: int
    """The snapshot holds for from_ns <= at_ns < until_ns."""


class EmbeddedTopology:
    """`TopologyGraph` (see the port for the contract) on one SQLite file."""

    def __init__(self, path: Path | None, *, expiry_s: float = 900) -> None:
        """`expiry_s`: an edge not seen for this long leaves the snapshot. `path=None` keeps rows in memory."""
        if expiry_s <= 0:
            raise ValueError(f"expiry_s must be more than 0 s, got {expiry_s}")
        self._db = Database(path, _SCHEMA, synchronous="FULL")
        self._expiry_ns = round(expiry_s * NS_PER_S)
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._cache: dict[str, _Cached] = {}

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        if not edges and not nodes:
            return
        with self._db.write() as db:
            db.executemany(_UPSERT_EDGE, [_edge_row(tenant, edge, configured=False) for edge in edges])
            db.executemany(_UPSERT_NODE, [_node_row(tenant, node, configured=False) for node in nodes])
            newest = max([edge.last_seen_ns for edge in edges] + [node.last_seen_ns for node in nodes])
            forgotten = newest - _FORGET_FACTOR * self._expiry_ns
            # `configured = 0` in the key's order keeps these deletes off the declared rows.
            for table in ("edges", "nodes"):
                db.execute(
                    f"DELETE FROM {table} WHERE tenant = ? AND configured = 0 AND last_seen_ns < ?",  # noqa: S608
                    (tenant, forgotten),
                )
        self._changed(tenant)

    def replace_configured(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM edges WHERE tenant = ? AND configured = 1", (tenant,))
            db.execute("DELETE FROM nodes WHERE tenant = ? AND configured = 1", (tenant,))
            db.executemany(_UPSERT_EDGE, [_edge_row(tenant, edge, configured=True) for edge in edges])
            db.executemany(_UPSERT_NODE, [_node_row(tenant, node, configured=True) for node in nodes])
        self._changed(tenant)

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        with self._lock:
            cached = self._cache.get(tenant)
            if cached is not None and cached.from_ns <= at_ns < cached.until_ns:
                return cached.topology
            version = self._versions.get(tenant, 0)
        fresh = self._build(tenant, at_ns)
        with self._lock:
            # Not kept when an observation came in between: it may be missing from what was read.
            if self._versions.get(tenant, 0) == version:
                self._cache[tenant] = fresh
        return fresh.topology

    def close(self) -> None:
        self._db.close()

    def _changed(self, tenant: str) -> None:
        with self._lock:
            self._versions[tenant] = self._versions.get(tenant, 0) + 1
            self._cache.pop(tenant, None)

    def _build(self, tenant: str, at_ns: int) -> _Cached:
        from_ns, until_ns = -_ALWAYS, _ALWAYS

        def alive(first_ns: int, last_ns: int) -> bool:
            """Whether a sighting counts at `at_ns`; narrows the span over which the answers stay the same."""
            nonlocal from_ns, until_ns
            begins, ends = first_ns - _LEAD_NS, last_ns + self._expiry_ns + 1
            for border in (begins, ends):
                if border <= at_ns:
                    from_ns = max(from_ns, border)
                else:
                    until_ns = min(until_ns, border)
            return begins <= at_ns < ends

        edges: dict[tuple[str, str, str], Edge] = {}
        nodes: dict[str, Node] = {}
        with self._db.read() as db:
            edge_rows = db.execute(
                "SELECT configured, caller, callee, type, weight, source, confidence, first_seen_ns, last_seen_ns "
                "FROM edges WHERE tenant = ? ORDER BY configured, caller, callee, type", (tenant,)
            ).fetchall()  # fmt: skip
            node_rows = db.execute(
                "SELECT configured, entity, kind, first_seen_ns, last_seen_ns FROM nodes "
                "WHERE tenant = ? ORDER BY configured", (tenant,)
            ).fetchall()  # fmt: skip
        for configured, caller, callee, kind, weight, source, confidence, first_ns, last_ns in edge_rows:
            if not configured and not alive(first_ns, last_ns):
                continue
            seen = edges.get((caller, callee, kind))
            edges[caller, callee, kind] = Edge(
                caller=caller, callee=callee, type=EdgeType(kind),
                # A declared edge that is also observed keeps the observed traffic.
                weight=seen.weight if seen is not None else weight, source=source, confidence=confidence,
                last_seen_ns=max(last_ns, seen.last_seen_ns if seen is not None else 0),
            )  # fmt: skip
        for configured, entity, kind, first_ns, last_ns in node_rows:
            if configured or alive(first_ns, last_ns):
                nodes[entity] = Node(entity=entity, kind=kind, last_seen_ns=last_ns)
        return _Cached(Topology.of([edges[key] for key in sorted(edges)], nodes.values()), from_ns, until_ns)


def _edge_row(tenant: str, edge: Edge, *, configured: bool) -> tuple[object, ...]:
    return (
        tenant, edge.caller, edge.callee, edge.type.value, int(configured), edge.weight,
        CONFIGURED if configured else edge.source, edge.confidence, edge.last_seen_ns, edge.last_seen_ns,
    )  # fmt: skip


def _node_row(tenant: str, node: Node, *, configured: bool) -> tuple[object, ...]:
    return tenant, node.entity, node.kind, int(configured), node.last_seen_ns, node.last_seen_ns
