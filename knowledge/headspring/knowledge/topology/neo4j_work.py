"""What the topology does inside a transaction of Neo4j: read what changed, write changes, ask about ways."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neo4j import AsyncManagedTransaction

from headspring.knowledge.topology import neo4j_cypher as cypher
from headspring.knowledge.topology.graph import Edge, EdgeType, Topology
from headspring.knowledge.topology.rows import Changes, Rows, TenantRows

ABSENT = (0, "")
"""Version and epoch of a tenant that Neo4j does not know."""
_TYPES = tuple(cypher.RELATIONSHIPS)


@dataclass(slots=True)
class Copy:
    """What this process knows of a tenant. Only the client's loop changes it."""

    rows: TenantRows
    version: int = -1
    """Of the rows; -1: never read."""
    epoch: str = ""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who writes or refreshes."""
    asked_s: float = 0.0
    """When it was last used, on the clock's monotonic time."""
    forgotten_ns: int = 0
    """The newest sighting when this process last dropped old lives."""


async def states(tx: AsyncManagedTransaction, tenants: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Version and epoch by tenant."""
    result = await tx.run(cypher.STATES, tenants=tenants)
    return {record["tenant"]: (record["version"], record["epoch"]) async for record in result}


async def catch_up(tx: AsyncManagedTransaction, tenant: str, copy: Copy, version: int, epoch: str) -> None:
    if copy.epoch == epoch and copy.version == version:
        return
    if copy.epoch == epoch and 0 <= copy.version < version:
        newer = await changed(tx, tenant, copy.version)
        copy.rows.apply(Changes(newer.edges, newer.nodes))
    else:
        copy.rows.replace(await changed(tx, tenant, -1))
    copy.version, copy.epoch = version, epoch


async def changed(tx: AsyncManagedTransaction, tenant: str, known: int) -> Rows:
    result = await tx.run(cypher.CHANGED, tenant=tenant, known=known)
    return cypher.rows_of([row async for record in result for row in record["rows"]])


async def put(tx: AsyncManagedTransaction, tenant: str, version: int, changes: Changes, *, known: TenantRows) -> bool:
    """Writes the changes; whether something went away."""
    put: dict[EdgeType, list[Any]] = {kind: [] for kind in _TYPES}
    gone: dict[EdgeType, list[Any]] = {kind: [] for kind in _TYPES}
    new: set[str] = set()
    left: set[str] = set()
    for key, row in changes.edges.items():
        if row is None:
            gone[key[2]].append(key[:2])
            left.update(key[:2])
            continue
        put[key[2]].append(cypher.edge_row(key, row))
        if key not in known:
            new.update(key[:2])
    await _each(tx, cypher.ENTITIES, sorted(new), tenant=tenant)
    for kind in _TYPES:
        await _put_edges(tx, tenant, version, kind, put[kind])
        await _each(tx, cypher.DELETE_EDGES[kind], gone[kind], tenant=tenant)
    nodes = [cypher.node_row(entity, node) for entity, node in changes.nodes.items() if node is not None]
    await _each(tx, cypher.PUT_NODES, nodes, tenant=tenant, version=version)
    cleared = [entity for entity, node in changes.nodes.items() if node is None]
    await _each(tx, cypher.CLEAR_NODES, cleared, tenant=tenant)
    await _each(tx, cypher.DELETE_ALONE, sorted(left.union(cleared)), tenant=tenant)
    return bool(left or cleared)


async def _put_edges(tx: AsyncManagedTransaction, tenant: str, version: int, kind: EdgeType, rows: list[Any]) -> None:
    for batch in cypher.batches(rows):
        for _ in range(2):
            result = await tx.run(cypher.PUT_EDGES[kind], tenant=tenant, version=version, rows=batch)
            written = (await result.single(strict=True))["written"]
            if written == len(batch):
                break
            # Somebody removed entities by hand.
            await _each(tx, cypher.ENTITIES, sorted({name for row in batch for name in row[:2]}), tenant=tenant)


async def _each(tx: AsyncManagedTransaction, statement: str, rows: Sequence[Any], **given: Any) -> None:
    for batch in cypher.batches(rows):
        await (await tx.run(statement, rows=batch, **given)).consume()


async def near(
    tx: AsyncManagedTransaction, tenant: str, entity: str, hops: int, down: bool | None, when: Mapping[str, Any]
) -> dict[str, int]:
    result = await tx.run(cypher.neighbours(hops, down), tenant=tenant, entity=entity, **when)
    return {**{record["entity"]: record["hops"] async for record in result}, entity: 0}


async def between(
    tx: AsyncManagedTransaction, tenant: str, source: str, target: str, hops: int, when: Mapping[str, Any]
) -> Topology:
    """What lies on ways of at most `hops` from source to target."""
    ahead = await near(tx, tenant, source, hops, True, when)
    behind = await near(tx, tenant, target, hops, False, when)
    names = [name for name, steps in ahead.items() if steps + behind.get(name, hops + 1) <= hops]
    result = await tx.run(cypher.AMONG, tenant=tenant, names=names, **when)
    return Topology.of([Edge(caller=record["caller"], callee=record["callee"]) async for record in result])
