"""Runs and runbooks: read a plan, approve or reject exactly that plan, ask for another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.session import Installation, Operator, Viewer, see
from headspring.proto.action import ActionEvent, Plan, RunState
from headspring.proto.errors import NotFound

if TYPE_CHECKING:
    from headspring.action.views import Decision, RunView, StepResult

router = APIRouter(route_class=PageRoute)

_PAGE = 50
_UNDER_WAY = (RunState.APPROVED, RunState.EXECUTING, RunState.VALIDATING, RunState.ROLLING_BACK)

Digest = Annotated[str, Form(min_length=8, max_length=128)]
Comment = Annotated[str, Form(max_length=2000)]


@dataclass(frozen=True, slots=True)
class View:
    """A run as templates read it."""

    run: RunView

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def state(self) -> RunState:
        return self.run.state

    @property
    def plan(self) -> Plan:
        return self.run.plan

    @property
    def events(self) -> tuple[ActionEvent, ...]:
        return tuple(self.run.events)

    @property
    def waiting(self) -> bool:
        """Somebody has to decide."""
        return self.state is RunState.WAITING_APPROVAL

    @property
    def under_way(self) -> bool:
        return self.state in _UNDER_WAY

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.run.decisions

    def spoke(self, name: str) -> bool:
        """Whether this person has decided already."""
        return any(decision.actor == name for decision in self.decisions)

    @property
    def validation(self) -> str:
        return self.run.validation

    def result(self, step_id: str) -> StepResult | None:
        """What came of a step; None before it was started."""
        return next((step for step in self.run.steps if step.step_id == step_id), None)


@router.get("/runs")
async def runs(
    request: Request, services: Installation, who: Viewer, cursor: Annotated[str, Query(max_length=512)] = ""
) -> Response:
    page = await asyncio.to_thread(services.actions.runs, who.tenant, None, limit=_PAGE, cursor=cursor)
    return render(
        request, services, "runs.html", who=who, runs=[View(run) for run in page.items], next_cursor=page.next_cursor
    )


@router.post("/automation")
async def set_automation(services: Installation, who: Operator, frozen: Annotated[bool, Form()]) -> Response:
    await asyncio.to_thread(services.actions.set_frozen, frozen, actor=who.name, tenant=who.tenant)
    return see(f"/runs?done={'frozen' if frozen else 'thawed'}")


@router.get("/runs/{run_id}")
async def run(request: Request, services: Installation, who: Viewer, run_id: str) -> Response:
    view = await _find(services, who.tenant, run_id)
    return render(request, services, "run.html", who=who, view=view, waiting=view if view.waiting else None)


@router.post("/runs/{run_id}/approve")
async def approve(
    services: Installation, who: Operator, run_id: str, digest: Digest, comment: Comment = ""
) -> Response:
    view = await _find(services, who.tenant, run_id)
    decided: Any = await asyncio.to_thread(
        services.actions.approve, run_id, who.name, who.role.value, digest, comment, tenant=who.tenant
    )
    # Some runbooks ask for several people; then the run still waits.
    done = "approved-too" if decided.state is RunState.WAITING_APPROVAL else "approved"
    return see(f"/incidents/{view.plan.incident_id}?done={done}#run-{run_id}")


@router.post("/runs/{run_id}/reject")
async def reject(services: Installation, who: Operator, run_id: str, digest: Digest, comment: Comment = "") -> Response:
    view = await _find(services, who.tenant, run_id)
    await asyncio.to_thread(
        services.actions.reject, run_id, who.name, who.role.value, digest, comment, tenant=who.tenant
    )
    return see(f"/incidents/{view.plan.incident_id}?done=rejected#run-{run_id}")


@router.post("/incidents/{incident_id}/runs")
async def request_run(
    services: Installation, who: Operator, incident_id: str,
    runbook: Annotated[str, Form(min_length=1, max_length=200)],
    idempotency_key: Annotated[str, Form(min_length=8, max_length=100)],
) -> Response:  # fmt: skip
    """Plans a run and asks for consent; a form sent twice asks once."""
    if await asyncio.to_thread(services.documents.incident, who.tenant, incident_id) is None:
        raise NotFound(f"there is no incident {incident_id}")
    asked: Any = await asyncio.to_thread(
        services.actions.request, incident_id, runbook, who.name, idempotency_key, tenant=who.tenant
    )
    return see(f"/incidents/{incident_id}?done=requested#run-{asked.run_id}")


@router.get("/runbooks")
async def runbooks(request: Request, services: Installation, who: Viewer) -> Response:
    return render(request, services, "runbooks.html", who=who, runbooks=services.actions.runbooks())


async def _find(services: Any, tenant: str, run_id: str) -> View:
    found = await asyncio.to_thread(services.actions.run, run_id, tenant=tenant)
    if found is None:
        raise NotFound(f"there is no run {run_id}")
    return View(found)
