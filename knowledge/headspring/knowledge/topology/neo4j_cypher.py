"""How rows of a topology lie in Neo4j: labels, types, constraints, the statements, and rows as lists and back.

::

    (:HeadspringTenant {tenant, version, epoch})
    (:HeadspringEntity {tenant, entity, …}) -[:CALLS {tenant, version, …}]-> (:HeadspringEntity)

An edge is one relationship of the type that says what it is. It holds what was observed (`weight`, `source`,
`confidence`, `first_seen_ns`, `last_seen_ns`, and the lives before that one as a flat list `past_ns`), what was
declared (`declared_…`), or both. An entity that only edges name has no properties but its two keys.

Every write of a tenant first raises the version of its tenant node, and so holds that node's lock to its end: one
writer at a time. What it writes carries the version, so a copy elsewhere asks for what is newer than it knows. A write
that removes something changes the epoch, and a copy of another epoch starts over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from headspring.knowledge.topology.graph import Edge, EdgeType, Node
from headspring.knowledge.topology.rows import CONFIGURED, LEAD_NS, EdgeKey, Life, Row, Rows

RELATIONSHIPS: Mapping[EdgeType, str] = {
    EdgeType.SYNC: "CALLS",
    EdgeType.ASYNC: "SENDS_TO",
    EdgeType.DATABASE: "QUERIES",
    EdgeType.CACHE: "CACHES_IN",
    EdgeType.RUNS_ON: "RUNS_ON",
}
_ANY = "|".join(RELATIONSHIPS.values())

SCHEMA: Mapping[str, str] = {
    "headspring_tenant": (
        "CREATE CONSTRAINT headspring_tenant IF NOT EXISTS FOR (t:HeadspringTenant) REQUIRE t.tenant IS UNIQUE"
    ),
    "headspring_entity": (
        "CREATE CONSTRAINT headspring_entity IF NOT EXISTS FOR (e:HeadspringEntity) "
        "REQUIRE (e.tenant, e.entity) IS UNIQUE"
    ),
    "headspring_entity_version": (
        "CREATE INDEX headspring_entity_version IF NOT EXISTS FOR (e:HeadspringEntity) ON (e.tenant, e.version)"
    ),
    **{
        f"headspring_{name.lower()}_version": (
            f"CREATE INDEX headspring_{name.lower()}_version IF NOT EXISTS FOR ()-[r:{name}]-() "
            "ON (r.tenant, r.version)"
        )
        for name in RELATIONSHIPS.values()
    },
}
"""Index (a constraint has one of its own name) → the statement that makes it."""

BATCH = 2_000
"""Rows in one statement: 0.5 MB, and 0.2 s of the server's time."""
_ANSWER = 5_000
"""Rows in one record of an answer: one record a row costs the client four times as much."""

STATES = """
MATCH (t:HeadspringTenant) WHERE t.tenant IN $tenants
RETURN t.tenant AS tenant, t.version AS version, t.epoch AS epoch
"""
LOCK = """
MERGE (t:HeadspringTenant {tenant: $tenant}) ON CREATE SET t.version = 0, t.epoch = $epoch
SET t.version = t.version + 1
RETURN t.version AS version, t.epoch AS epoch
"""
NEW_EPOCH = "MATCH (t:HeadspringTenant {tenant: $tenant}) SET t.epoch = $epoch"
TENANTS = """
MATCH (t:HeadspringTenant)
WHERE EXISTS { MATCH (e:HeadspringEntity) WHERE e.tenant = t.tenant AND e.entity IS NOT NULL }
RETURN t.tenant AS tenant ORDER BY tenant
"""
ENTITIES = "UNWIND $rows AS name MERGE (:HeadspringEntity {tenant: $tenant, entity: name})"
_PROPERTIES = (
    "weight", "source", "confidence", "first_seen_ns", "last_seen_ns", "past_ns",
    "declared_weight", "declared_confidence", "declared_ns",
)  # fmt: skip
_NODE_PROPERTIES = ("kind", "first_seen_ns", "last_seen_ns", "past_ns", "declared_kind", "declared_ns")


def _set(of: str, names: Sequence[str], start: int) -> str:
    return ", ".join(f"{of}.{name} = row[{at}]" for at, name in enumerate(names, start))


PUT_EDGES: Mapping[EdgeType, str] = {
    kind: f"""
UNWIND $rows AS row
MATCH (a:HeadspringEntity {{tenant: $tenant, entity: row[0]}})
MATCH (b:HeadspringEntity {{tenant: $tenant, entity: row[1]}})
MERGE (a)-[r:{name}]->(b)
SET r.tenant = $tenant, r.version = $version, {_set("r", _PROPERTIES, 2)}
RETURN count(*) AS written
"""
    for kind, name in RELATIONSHIPS.items()
}
DELETE_EDGES: Mapping[EdgeType, str] = {
    kind: f"""
UNWIND $rows AS row
MATCH (a:HeadspringEntity {{tenant: $tenant, entity: row[0]}})
      -[r:{name}]->(b:HeadspringEntity {{tenant: $tenant, entity: row[1]}})
DELETE r
"""
    for kind, name in RELATIONSHIPS.items()
}
PUT_NODES = f"""
UNWIND $rows AS row
MERGE (e:HeadspringEntity {{tenant: $tenant, entity: row[0]}})
SET e.version = $version, {_set("e", _NODE_PROPERTIES, 1)}
"""
CLEAR_NODES = f"""
UNWIND $rows AS name
MATCH (e:HeadspringEntity {{tenant: $tenant, entity: name}})
REMOVE e.version, {", ".join(f"e.{name}" for name in _NODE_PROPERTIES)}
"""
DELETE_ALONE = """
UNWIND $rows AS name
MATCH (e:HeadspringEntity {tenant: $tenant, entity: name})
WHERE e.version IS NULL AND NOT EXISTS { (e)--() }
DELETE e
"""
"""Entities that nothing names any more."""
DELETE_SOME = """
MATCH (e:HeadspringEntity) WHERE e.tenant = $tenant AND e.entity IS NOT NULL
WITH e LIMIT $limit DETACH DELETE e RETURN count(*) AS deleted
"""
DELETE_TENANT = "MATCH (t:HeadspringTenant {tenant: $tenant}) DELETE t"

_EDGE_PARTS = "\nUNION ALL\n".join(
    f"MATCH (a)-[r:{name}]->(b) WHERE r.tenant = $tenant AND r.version > $known\n"
    f"RETURN ['{kind.value}', a.entity, b.entity, {', '.join(f'r.{one}' for one in _PROPERTIES)}] AS row"
    for kind, name in RELATIONSHIPS.items()
)
CHANGED = f"""
CALL {{
{_EDGE_PARTS}
UNION ALL
MATCH (e:HeadspringEntity) WHERE e.tenant = $tenant AND e.version > $known
RETURN ['', e.entity, {", ".join(f"e.{one}" for one in _NODE_PROPERTIES)}] AS row
}}
WITH collect(row) AS rows UNWIND range(0, size(rows) - 1, {_ANSWER}) AS at
RETURN rows[at..at + {_ANSWER}] AS rows
"""
"""Rows of a version above `$known`, in records of many."""

_ALIVE = f"""(r.declared_ns IS NOT NULL
    OR (r.first_seen_ns - {LEAD_NS} <= $at_ns AND $at_ns <= r.last_seen_ns + $expiry_ns)
    OR any(one IN range(0, size(coalesce(r.past_ns, [])) - 1, 2)
           WHERE r.past_ns[one] - {LEAD_NS} <= $at_ns AND $at_ns <= r.past_ns[one + 1] + $expiry_ns))"""


def neighbours(hops: int, down: bool | None) -> str:
    """The statement that finds what lies within `hops`; the server visits each entity once."""
    left, right = "<-" if down is False else "-", "->" if down else "-"
    return f"""
MATCH (a:HeadspringEntity {{tenant: $tenant, entity: $entity}})
MATCH p = (a){left}[rs:{_ANY}*1..{hops}]{right}(b)
WHERE all(r IN rs WHERE {_ALIVE})
RETURN b.entity AS entity, min(length(p)) AS hops
"""


AMONG = f"""
UNWIND $names AS name
MATCH (a:HeadspringEntity {{tenant: $tenant, entity: name}})-[r:{_ANY}]->(b)
WHERE b.entity IN $names AND {_ALIVE}
RETURN DISTINCT a.entity AS caller, b.entity AS callee
"""
"""Steps between entities of a list."""


def batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """In pieces that one statement takes."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def edge_row(key: EdgeKey, row: Row[Edge]) -> list[Any]:
    """As `PUT_EDGES` takes it."""
    declared = row.declared
    given = (
        [float(declared.weight), float(declared.confidence), declared.last_seen_ns]
        if declared is not None
        else [None] * 3
    )
    seen = row.seen
    said = [float(seen.weight), seen.source, float(seen.confidence)] if seen is not None else [None] * 3
    return [key[0], key[1], *said, *_times(row.lives), *given]


def node_row(entity: str, row: Row[Node]) -> list[Any]:
    """As `PUT_NODES` takes it."""
    declared = row.declared
    given = [declared.kind, declared.last_seen_ns] if declared is not None else [None] * 2
    return [entity, row.seen.kind if row.seen is not None else None, *_times(row.lives), *given]


def rows_of(answer: Iterable[Sequence[Any]]) -> Rows:
    """Rows as `CHANGED` gives them."""
    edges: dict[EdgeKey, Row[Edge]] = {}
    nodes: dict[str, Row[Node]] = {}
    for one in answer:
        if one[0]:
            key = (one[1], one[2], EdgeType(one[0]))
            edges[key] = _edge(key, *one[3:])
        else:
            nodes[one[1]] = _node(*one[1:])
    return Rows(edges, nodes)


def _edge(
    key: EdgeKey, weight: float | None, source: str, confidence: float, first_ns: int, last_ns: int,
    past: list[int] | None, declared_weight: float, declared_confidence: float, declared_ns: int | None,
) -> Row[Edge]:  # fmt: skip
    caller, callee, kind = key
    seen = declared = None
    if weight is not None:
        seen = Edge(
            caller=caller, callee=callee, type=kind, weight=weight, source=source, confidence=confidence,
            last_seen_ns=last_ns,
        )  # fmt: skip
    if declared_ns is not None:
        declared = Edge(
            caller=caller, callee=callee, type=kind, weight=declared_weight, source=CONFIGURED,
            confidence=declared_confidence, last_seen_ns=declared_ns,
        )  # fmt: skip
    return Row(seen=seen, lives=_lives(first_ns, last_ns, past) if seen is not None else (), declared=declared)


def _node(
    entity: str, kind: str | None, first_ns: int, last_ns: int, past: list[int] | None, declared_kind: str,
    declared_ns: int | None,
) -> Row[Node]:  # fmt: skip
    seen = Node(entity=entity, kind=kind, last_seen_ns=last_ns) if kind is not None else None
    declared = Node(entity=entity, kind=declared_kind, last_seen_ns=declared_ns) if declared_ns is not None else None
    return Row(seen=seen, lives=_lives(first_ns, last_ns, past) if seen is not None else (), declared=declared)


def _times(lives: Sequence[Life]) -> list[Any]:
    if not lives:
        return [None, None, None]
    return [*lives[-1], [time_ns for life in lives[:-1] for time_ns in life] or None]


def _lives(first_ns: int, last_ns: int, past: list[int] | None) -> tuple[Life, ...]:
    before = zip(past[::2], past[1::2], strict=True) if past else ()
    return (*before, (first_ns, last_ns))
