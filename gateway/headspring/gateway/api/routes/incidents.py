"""Incidents, alerts, logs, feedback: what happened and what people say about it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from headspring.gateway.api.access import Installation, Operator, Viewer
from headspring.gateway.api.bodies import JsonRoute
from headspring.proto.action import Feedback
from headspring.proto.codec import to_jsonable
from headspring.proto.detection import AlertStatus
from headspring.proto.errors import NotFound
from headspring.proto.ids import time_ordered_id
from headspring.proto.incident import IncidentState

router = APIRouter(tags=["incidents"], route_class=JsonRoute)

Limit = Annotated[int, Query(ge=1, le=200, description="most items on a page")]
Cursor = Annotated[str, Query(max_length=512, description="`next_cursor` of the page before")]

VERDICTS = ("right-cause", "wrong-cause", "nuisance", "not-an-incident", "acknowledge", "comment")


class FeedbackBody(BaseModel):
    """What a person says about an incident."""

    model_config = ConfigDict(extra="forbid", strict=True)

    verdict: Literal["right-cause", "wrong-cause", "nuisance", "not-an-incident", "acknowledge", "comment"]
    comment: str = Field(default="", max_length=4000)
    entity: str = Field(default="", max_length=500, description="the right cause, where the named one is wrong")


@router.get("/incidents", summary="Incidents, newest first")
async def incidents(
    services: Installation, who: Viewer, state: Annotated[list[IncidentState] | None, Query()] = None, entity: str = "",
    text: Annotated[str, Query(max_length=200)] = "", limit: Limit = 50, cursor: Cursor = "",
) -> dict[str, Any]:  # fmt: skip
    page = await asyncio.to_thread(
        services.documents.incidents, who.tenant, states=tuple(state or ()), entity=entity, text=text, limit=limit,
        cursor=cursor,
    )  # fmt: skip
    return {"items": [to_jsonable(item) for item in page.items], "next_cursor": page.next_cursor}


@router.get("/incidents/{incident_id}", summary="One incident with its diagnosis and its runs")
async def incident(services: Installation, who: Viewer, incident_id: str) -> dict[str, Any]:
    found = await asyncio.to_thread(services.documents.incident, who.tenant, incident_id)
    if found is None:
        raise NotFound(f"there is no incident {incident_id}")
    diagnosis = await asyncio.to_thread(services.documents.diagnosis, who.tenant, found.incident_id)
    runs = await asyncio.to_thread(services.actions.runs, who.tenant, found.incident_id)
    return {
        "incident": to_jsonable(found),
        "diagnosis": to_jsonable(diagnosis) if diagnosis else None,
        "runs": [to_jsonable(run) for run in runs.items],
    }


@router.post("/incidents/{incident_id}/feedback", status_code=202, summary="Says what was right or wrong")
async def feedback(services: Installation, who: Operator, incident_id: str, body: FeedbackBody) -> dict[str, Any]:
    found = await asyncio.to_thread(services.documents.incident, who.tenant, incident_id)
    if found is None:
        raise NotFound(f"there is no incident {incident_id}")
    now_ns = services.clock.now_ns()
    given = Feedback(
        feedback_id=time_ordered_id("fb", now_ns), tenant=who.tenant, subject=found.incident_id,
        subject_kind="incident", verdict=body.verdict, actor=who.name, time_ns=now_ns, comment=body.comment,
        entity=body.entity,
    )  # fmt: skip
    await services.give_feedback(given)
    return {"feedback_id": given.feedback_id}


@router.get("/alerts", summary="Alerts, newest first")
async def alerts(
    services: Installation, who: Viewer, status: AlertStatus | Literal[""] = "", entity: str = "", limit: Limit = 50,
    cursor: Cursor = "",
) -> dict[str, Any]:  # fmt: skip
    page = await asyncio.to_thread(
        services.documents.alerts, who.tenant, status=str(status), entity=entity, limit=limit, cursor=cursor
    )
    return {"items": [to_jsonable(item) for item in page.items], "next_cursor": page.next_cursor}


@router.get("/logs", summary="Log records that hold all words of a text, newest first")
async def logs(
    services: Installation, who: Viewer, query: Annotated[str, Query(max_length=500)] = "", entity: str = "",
    min_severity: Annotated[int, Query(ge=0, le=24)] = 0, limit: Limit = 100, cursor: Cursor = "",
) -> dict[str, Any]:  # fmt: skip
    page = await asyncio.to_thread(
        services.documents.search_logs, who.tenant, query, entity=entity, min_severity=min_severity, limit=limit,
        cursor=cursor,
    )  # fmt: skip
    return {"items": [to_jsonable(item) for item in page.items], "next_cursor": page.next_cursor}
