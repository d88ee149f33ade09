"""Topology and services with their health."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from headspring.gateway.api.access import Admin, Installation, Viewer
from headspring.gateway.api.bodies import JsonRoute
from headspring.knowledge.topology.graph import Edge, EdgeType, Node
from headspring.proto.codec import to_jsonable
from headspring.proto.errors import ContractError
from headspring.proto.ids import split_entity

router = APIRouter(tags=["topology"], route_class=JsonRoute)


class NodeBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    entity: Annotated[str, Field(max_length=500, examples=["service:default/payment"])]
    kind: Annotated[str, Field(max_length=50, examples=["service"])]


class EdgeBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    caller: Annotated[str, Field(max_length=500)]
    callee: Annotated[str, Field(max_length=500)]
    type: Annotated[EdgeType, Field(strict=False)] = EdgeType.SYNC  # JSON has it as a text
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0


class TopologyBody(BaseModel):
    """What an operator declares, whole: it replaces what was declared before; discovered edges stay."""

    model_config = ConfigDict(extra="forbid", strict=True)

    nodes: Annotated[list[NodeBody], Field(max_length=20_000)] = []
    edges: Annotated[list[EdgeBody], Field(max_length=100_000)]


@router.get("/topology", summary="Who calls whom")
async def topology(services: Installation, who: Viewer) -> dict[str, Any]:
    now_ns = services.clock.now_ns()
    found = await asyncio.to_thread(services.topology.snapshot, who.tenant, at_ns=now_ns)
    return {
        "nodes": [
            {"entity": node.entity, "kind": node.kind, "last_seen_ns": node.last_seen_ns} for node in found.nodes
        ],
        "edges": [
            {
                "caller": edge.caller, "callee": edge.callee, "type": edge.type.value, "weight": edge.weight,
                "source": edge.source, "confidence": edge.confidence, "last_seen_ns": edge.last_seen_ns,
            }
            for edge in found.edges
        ],
    }  # fmt: skip


@router.put("/config/topology", summary="Declares edges that telemetry does not show")
async def declare(services: Installation, who: Admin, body: TopologyBody) -> dict[str, int]:
    named = [node.entity for node in body.nodes]
    for entity in named + [item for edge in body.edges for item in (edge.caller, edge.callee)]:
        try:
            split_entity(entity)
        except ValueError as error:
            raise ContractError(str(error)) from error
        if not entity.isprintable():
            raise ContractError(f"{entity!r} holds characters that cannot be printed; wanted kind:namespace/name")
    now_ns = services.clock.now_ns()
    await asyncio.to_thread(
        services.topology.replace_configured,
        who.tenant,
        [
            Edge(
                caller=edge.caller, callee=edge.callee, type=edge.type, weight=edge.weight, source="config",
                last_seen_ns=now_ns,
            )
            for edge in body.edges
        ],
        [Node(entity=node.entity, kind=node.kind, last_seen_ns=now_ns) for node in body.nodes],
    )  # fmt: skip
    return {"nodes": len(body.nodes), "edges": len(body.edges)}


@router.get("/services", summary="Services with a health score from 0 (bad) to 1 (good)")
async def services_health(services: Installation, who: Viewer) -> dict[str, Any]:
    found = await asyncio.to_thread(services.topology.snapshot, who.tenant, at_ns=services.clock.now_ns())
    scores = await asyncio.to_thread(services.detect.health_scores, who.tenant)
    names = sorted({node.entity for node in found.nodes} | set(scores))
    return {
        "items": [{"entity": name, "health": to_jsonable(scores[name]) if name in scores else None} for name in names]
    }
