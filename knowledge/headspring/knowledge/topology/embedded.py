"""The embedded topology: rows in SQLite, and all of a tenant's rows in memory from its first use on.

One process owns the file, so memory is never behind. A snapshot stays valid until an edge is observed, an edge
expires or one comes into its time; asking again in between costs a look-up.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from headspring.knowledge.database import Database
from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology, checked_hops
from headspring.knowledge.topology.rows import (
    FORGET_FACTOR,
    Changes,
    EdgeKey,
    Life,
    Row,
    Rows,
    TenantRows,
    Thing,
    newest_ns,
)
from headspring.proto.clock import NS_PER_S

_SCHEMA = """
CREATE TABLE IF NOT EXISTS edges (
    tenant TEXT NOT NULL, caller TEXT NOT NULL, callee TEXT NOT NULL, type TEXT NOT NULL, configured INTEGER NOT NULL,
    weight REAL NOT NULL, source TEXT NOT NULL, confidence REAL NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL, past TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, configured, caller, callee, type)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    tenant TEXT NOT NULL, entity TEXT NOT NULL, kind TEXT NOT NULL, configured INTEGER NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL, past TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, configured, entity)
) WITHOUT ROWID;
"""
_EDGES = "SELECT configured, caller, callee, type, weight, source, confidence, first_seen_ns, last_seen_ns, past FROM edges WHERE tenant = ?"  # noqa: E501
_NODES = "SELECT configured, entity, kind, first_seen_ns, last_seen_ns, past FROM nodes WHERE tenant = ?"
_DELETE_EDGE = (
    "DELETE FROM edges WHERE tenant = ? AND configured = ? AND caller = ? AND callee = ? AND type = ?"
)  # fmt: skip
_DELETE_NODE = "DELETE FROM nodes WHERE tenant = ? AND configured = ? AND entity = ?"


class EmbeddedTopology:
    """`TopologyGraph` (see the port for the contract) on one SQLite file."""

    def __init__(self, path: Path | None, *, expiry_s: float = 900) -> None:
        """`expiry_s`: an edge not seen for this long leaves the snapshot. `path=None` keeps rows in memory."""
        if expiry_s <= 0:
            raise ValueError(f"expiry_s must be more than 0 s, got {expiry_s}")
        self._db = Database(path, _SCHEMA, synchronous="FULL")
        self._expiry_ns = round(expiry_s * NS_PER_S)
        self._lock = threading.RLock()
        """Held by who writes, or reads a tenant's rows for the first time."""
        self._tenants: dict[str, TenantRows] = {}
        self._forgotten_ns: dict[str, int] = {}
        """By tenant, the newest sighting when old lives were last dropped."""
        with self._db.write() as db:
            _upgrade(db)

    @property
    def degraded_since_ns(self) -> int | None:
        return None

    def observe(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        if not edges and not nodes:
            return
        newest = newest_ns(edges, nodes)
        with self._lock:
            self._change(tenant, lambda rows: rows.observed(edges, nodes))
            last = self._forgotten_ns.setdefault(tenant, newest)
            if newest - last >= self._expiry_ns:
                self._forgotten_ns[tenant] = newest
                self.forget(tenant, before_ns=newest - FORGET_FACTOR * self._expiry_ns)

    def replace_configured(self, tenant: str, edges: Sequence[Edge], nodes: Sequence[Node] = ()) -> None:
        self._change(tenant, lambda rows: rows.declared(edges, nodes))

    def snapshot(self, tenant: str, *, at_ns: int) -> Topology:
        return self._rows(tenant).snapshot(at_ns)

    def neighbours(
        self, tenant: str, entity: str, *, hops: int, at_ns: int, down: bool | None = None
    ) -> Mapping[str, int]:
        return self.snapshot(tenant, at_ns=at_ns).hops(entity, checked_hops(hops), down=down)

    def paths(
        self, tenant: str, source: str, target: str, *, max_hops: int, at_ns: int, limit: int = 100
    ) -> Sequence[tuple[str, ...]]:
        return self.snapshot(tenant, at_ns=at_ns).paths(source, target, checked_hops(max_hops), limit=limit)

    def forget(self, tenant: str, *, before_ns: int) -> int:
        return len(self._change(tenant, lambda rows: rows.forgotten(before_ns)))

    def tenants(self) -> Sequence[str]:
        with self._db.read() as db:
            return [row[0] for row in db.execute("SELECT tenant FROM edges UNION SELECT tenant FROM nodes ORDER BY 1")]

    def export(self, tenant: str) -> Rows:
        return self._rows(tenant).rows()

    def load(self, tenant: str, rows: Rows) -> None:
        self._change(tenant, lambda known: known.merged(rows))

    def delete_tenant(self, tenant: str) -> None:
        with self._lock:
            with self._db.write() as db:
                db.execute("DELETE FROM edges WHERE tenant = ?", (tenant,))
                db.execute("DELETE FROM nodes WHERE tenant = ?", (tenant,))
            self._tenants.pop(tenant, None)
            self._forgotten_ns.pop(tenant, None)

    def close(self) -> None:
        self._db.close()

    def _rows(self, tenant: str) -> TenantRows:
        found = self._tenants.get(tenant)
        if found is None:
            with self._lock:
                found = self._tenants.get(tenant)
                if found is None:
                    found = TenantRows(self._expiry_ns)
                    found.replace(self._read(tenant))
                    self._tenants[tenant] = found
        return found

    def _change(self, tenant: str, ask: Callable[[TenantRows], Changes]) -> Changes:
        """Disk first, memory when the disk has it."""
        with self._lock:
            rows = self._rows(tenant)
            changes = ask(rows)
            if len(changes):
                with self._db.write() as db:
                    _store(db, tenant, changes)
                rows.apply(changes)
        return changes

    def _read(self, tenant: str) -> Rows:
        edges: dict[EdgeKey, Row[Edge]] = {}
        nodes: dict[str, Row[Node]] = {}
        with self._db.read() as db:
            edge_rows = db.execute(_EDGES, (tenant,)).fetchall()
            node_rows = db.execute(_NODES, (tenant,)).fetchall()
        for configured, caller, callee, kind, weight, source, confidence, first_ns, last_ns, past in edge_rows:
            edge = Edge(
                caller=caller, callee=callee, type=EdgeType(kind), weight=weight, source=source,
                confidence=confidence, last_seen_ns=last_ns,
            )  # fmt: skip
            edges[caller, callee, edge.type] = _joined(
                edges.get((caller, callee, edge.type)), edge, configured, (*_lives(past), (first_ns, last_ns))
            )
        for configured, entity, kind, first_ns, last_ns, past in node_rows:
            node = Node(entity=entity, kind=kind, last_seen_ns=last_ns)
            nodes[entity] = _joined(nodes.get(entity), node, configured, (*_lives(past), (first_ns, last_ns)))
        return Rows(edges, nodes)


def _joined(row: Row[Thing] | None, thing: Thing, configured: int, lives: tuple[Life, ...]) -> Row[Thing]:
    """A row of its observed and its declared part, which lie in two rows on disk."""
    if configured:
        return Row(seen=row.seen, lives=row.lives, declared=thing) if row is not None else Row(declared=thing)
    return Row(seen=thing, lives=lives, declared=row.declared if row is not None else None)


def _store(db: sqlite3.Connection, tenant: str, changes: Changes) -> None:
    db.executemany(
        _DELETE_EDGE, [(tenant, one, *key) for key, row in changes.edges.items() for one in _absent(row, changes)]
    )
    db.executemany(
        _DELETE_NODE, [(tenant, one, key) for key, row in changes.nodes.items() for one in _absent(row, changes)]
    )
    db.executemany("INSERT OR REPLACE INTO edges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [
        (tenant, edge.caller, edge.callee, edge.type.value, configured, edge.weight, edge.source, edge.confidence, *at)
        for edge, configured, at in _parts(changes.edges.values())
    ])  # fmt: skip
    db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)", [
        (tenant, node.entity, node.kind, configured, *at) for node, configured, at in _parts(changes.nodes.values())
    ])  # fmt: skip


def _absent(row: Row[Thing] | None, changes: Changes) -> tuple[int, ...]:
    """Which parts of a changed row may still lie on disk and should not."""
    if row is None:
        return (0, 1)
    if row.seen is None:
        return (0,)
    return (1,) if changes.undeclared and row.declared is None else ()


def _parts(rows: Iterable[Row[Thing] | None]) -> Iterator[tuple[Thing, int, tuple[int, int, str]]]:
    """The observed and declared parts of rows, each with first and last sighting and the lives before."""
    for row in rows:
        if row is not None and row.seen is not None:
            past, (first_ns, last_ns) = row.lives[:-1], row.lives[-1]
            yield row.seen, 0, (first_ns, last_ns, json.dumps(past, separators=(",", ":")) if past else "")
        if row is not None and row.declared is not None:
            yield row.declared, 1, (row.declared.last_seen_ns, row.declared.last_seen_ns, "")


def _lives(past: str) -> tuple[Life, ...]:
    return tuple((first, last) for first, last in json.loads(past)) if past else ()


def _upgrade(db: sqlite3.Connection) -> None:
    """A file of the first version holds one life an edge."""
    for table in ("edges", "nodes"):
        if not any(column[1] == "past" for column in db.execute(f"PRAGMA table_info({table})")):
            db.execute(f"ALTER TABLE {table} ADD COLUMN past TEXT NOT NULL DEFAULT ''")
