"""Runbooks, plans and runs: ask, approve, reject, follow."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field

from headspring.gateway.api.access import Admin, Installation, Operator, Viewer
from headspring.gateway.api.bodies import JsonRoute
from headspring.gateway.api.routes.incidents import Cursor, Limit
from headspring.proto.codec import to_jsonable
from headspring.proto.errors import ContractError, NotFound

router = APIRouter(tags=["runbooks"], route_class=JsonRoute)


class ExecuteBody(BaseModel):
    """Asks for a run; nothing happens before somebody else approves its plan."""

    model_config = ConfigDict(extra="forbid", strict=True)

    incident_id: Annotated[str, Field(min_length=1, max_length=100)]


class DecisionBody(BaseModel):
    """A decision about exactly the plan with this digest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    digest: Annotated[str, Field(min_length=8, max_length=128)]
    comment: Annotated[str, Field(max_length=2000)] = ""


class AutomationBody(BaseModel):
    """The stop switch of all automation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    frozen: Annotated[bool, Field(description="true: no step of any run starts until it is false again")]


@router.get("/automation", summary="Whether automation is stopped")
async def automation(services: Installation, who: Viewer) -> dict[str, bool]:
    return {"frozen": services.actions.frozen}


@router.put("/automation", summary="Stops all automation at once, or lets it go on")
async def set_automation(services: Installation, who: Operator, body: AutomationBody) -> dict[str, bool]:
    await asyncio.to_thread(services.actions.set_frozen, body.frozen, actor=who.name, tenant=who.tenant)
    return {"frozen": services.actions.frozen}


@router.get("/runbooks", summary="The runbooks this installation has")
async def runbooks(services: Installation, who: Viewer) -> dict[str, Any]:
    return {"items": [to_jsonable(item) for item in services.actions.runbooks()]}


@router.post("/runbooks/{runbook_id}/execute", status_code=202, summary="Plans a run and asks for approval")
async def execute(
    services: Installation, who: Operator, runbook_id: str, body: ExecuteBody,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> Any:  # fmt: skip
    if not idempotency_key:
        raise ContractError("the header Idempotency-Key is missing; send one so that a retry starts no second run")
    run = await asyncio.to_thread(
        services.actions.request, body.incident_id, runbook_id, who.name, idempotency_key, tenant=who.tenant
    )
    return to_jsonable(run)


@router.get("/runbooks/{runbook_id}/status", summary="The runs of a runbook, newest first; or one run by its id")
async def status(services: Installation, who: Viewer, runbook_id: str) -> Any:
    if runbook_id.startswith("run-"):
        return await run(services, who, runbook_id)
    if runbook_id not in {item.name for item in services.actions.runbooks()}:
        raise NotFound(f"there is no runbook {runbook_id!r}")
    page = await asyncio.to_thread(services.actions.runs, who.tenant)
    return {
        "runbook": runbook_id,
        "items": [to_jsonable(item) for item in page.items if item.runbook == runbook_id],
    }


@router.get("/runs", summary="Runs, newest first")
async def runs(
    services: Installation, who: Viewer, incident_id: str = "", limit: Limit = 50, cursor: Cursor = ""
) -> dict[str, Any]:
    page = await asyncio.to_thread(services.actions.runs, who.tenant, incident_id or None, limit=limit, cursor=cursor)
    return {"items": [to_jsonable(item) for item in page.items], "next_cursor": page.next_cursor}


@router.get("/runs/{run_id}", summary="One run with its plan, events and results")
async def run(services: Installation, who: Viewer, run_id: str) -> Any:
    found = await asyncio.to_thread(services.actions.run, run_id, tenant=who.tenant)
    if found is None:
        raise NotFound(f"there is no run {run_id}")
    return to_jsonable(found)


@router.post("/runs/{run_id}/approve", summary="Approves exactly the plan with this digest")
async def approve(services: Installation, who: Operator, run_id: str, body: DecisionBody) -> Any:
    found = await asyncio.to_thread(
        services.actions.approve, run_id, who.name, who.role.value, body.digest, body.comment, tenant=who.tenant
    )
    return to_jsonable(found)


@router.post("/runs/{run_id}/reject", summary="Refuses the plan; nothing is done")
async def reject(services: Installation, who: Operator, run_id: str, body: DecisionBody) -> Any:
    found = await asyncio.to_thread(
        services.actions.reject, run_id, who.name, who.role.value, body.digest, body.comment, tenant=who.tenant
    )
    return to_jsonable(found)


@router.get("/audit", summary="The audit trail, newest first, and whether its chain holds")
async def audit(services: Installation, who: Admin, limit: Limit = 50, cursor: Cursor = "") -> dict[str, Any]:
    page = await asyncio.to_thread(services.actions.audit, who.tenant, limit=limit, cursor=cursor)
    verdict = await asyncio.to_thread(services.actions.verify_audit)
    return {
        "items": [to_jsonable(item) for item in page.items],
        "next_cursor": page.next_cursor,
        "verdict": to_jsonable(verdict),
    }
