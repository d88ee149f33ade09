"""API keys: made by an admin, shown once."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from headspring.gateway.api.access import Admin, Installation
from headspring.gateway.api.bodies import JsonRoute
from headspring.gateway.auth.keys import Role

router = APIRouter(tags=["keys"], route_class=JsonRoute)


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w.@-]+$")]
    role: Role


@router.post("/keys", status_code=201, summary="Makes a key; this answer is the only place it is ever shown")
async def create(services: Installation, who: Admin, body: KeyBody) -> dict[str, str]:
    key = await asyncio.to_thread(services.keys.create, body.name, body.role, who.tenant)
    return {"name": body.name, "role": body.role.value, "key": key}


@router.get("/keys", summary="Names and roles of the keys of this tenant")
async def listing(services: Installation, who: Admin) -> dict[str, Any]:
    found = await asyncio.to_thread(services.keys.list)
    return {"items": [{"name": key.name, "role": key.role.value} for key in found if key.tenant == who.tenant]}


@router.delete("/keys/{name}", status_code=200, summary="Makes a key useless at once")
async def revoke(services: Installation, who: Admin, name: str) -> dict[str, str]:
    await asyncio.to_thread(services.keys.revoke, name)
    return {"revoked": name}
