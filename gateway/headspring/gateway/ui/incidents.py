"""The list of incidents and the page of one: what happened, why, what may be done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from headspring.gateway.ui import graph, story, words
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.evidence import charts_for
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.runs import View
from headspring.gateway.ui.session import Installation, Operator, Viewer, see
from headspring.knowledge.topology.graph import Topology
from headspring.proto.action import Feedback
from headspring.proto.errors import NotFound
from headspring.proto.ids import time_ordered_id
from headspring.proto.incident import Diagnosis, Hypothesis, Incident, IncidentState, Member

router = APIRouter(route_class=PageRoute)

_PAGE = 50
STATES = ("open", "acknowledged", "mitigating", "settling", "resolved", "merged")
_MAX_ALERTS = 500
"""Rows of the raw table; an alert storm's page must still open quickly."""


@router.get("/incidents")
async def incidents(
    request: Request, services: Installation, who: Viewer, state: Annotated[list[str] | None, Query()] = None,
    text: Annotated[str, Query(max_length=200)] = "", cursor: Annotated[str, Query(max_length=512)] = "",
) -> Response:  # fmt: skip
    states = tuple(item for item in state or () if item in STATES)

    def read() -> tuple[Sequence[tuple[Incident, object]], str]:
        page = services.documents.incidents(who.tenant, states=states, text=text, limit=_PAGE, cursor=cursor)
        found = [(item, services.documents.diagnosis(who.tenant, item.incident_id)) for item in page.items]
        return [(item, (diagnosis, words.leading(diagnosis))) for item, diagnosis in found], page.next_cursor

    rows, next_cursor = await asyncio.to_thread(read)
    return render(
        request, services, "incidents.html", who=who, rows=rows, next_cursor=next_cursor, states=STATES, chosen=states,
        text=text, cursor=cursor,
    )  # fmt: skip


@router.get("/incidents/{incident_id}")
async def incident(request: Request, services: Installation, who: Viewer, incident_id: str) -> Response:
    found = await asyncio.to_thread(services.documents.incident, who.tenant, incident_id)
    if found is None:
        raise NotFound(f"there is no incident {incident_id}")
    if found.incident_id != incident_id:
        return see(f"/incidents/{found.incident_id}")
    now_ns = services.clock.now_ns()
    diagnosis = await asyncio.to_thread(services.documents.diagnosis, who.tenant, incident_id)
    page = await asyncio.to_thread(services.actions.runs, who.tenant, incident_id)
    views = [View(run) for run in page.items]
    topology = await asyncio.to_thread(services.topology.snapshot, who.tenant, at_ns=min(now_ns, found.updated_ns))
    cause = words.leading(diagnosis)
    charts = await asyncio.to_thread(charts_for, services.series, who.tenant, found, diagnosis, now_ns)
    return render(
        request, services, "incident.html", who=who, incident=found, diagnosis=diagnosis, cause=cause,
        sentence=words.sentence(found, diagnosis, now_ns),
        others=diagnosis.hypotheses[1:] if diagnosis and cause else (),
        drawing=_drawing(cause, diagnosis, topology, found),
        charts=charts, runs=views, waiting=next((view for view in views if view.waiting), None),
        runbooks=services.actions.runbooks(), idempotency_key=secrets.token_hex(12),
        timeline=story.timeline(found, diagnosis, views), members=_ordered(found)[:_MAX_ALERTS],
        more_members=max(0, len(found.members) - _MAX_ALERTS), can_acknowledge=found.state is IncidentState.OPEN,
        over=found.state in (IncidentState.RESOLVED, IncidentState.MERGED),
    )  # fmt: skip


@router.post("/incidents/{incident_id}/feedback")
async def feedback(
    services: Installation, who: Operator, incident_id: str,
    verdict: Annotated[Literal["right-cause", "wrong-cause", "not-an-incident", "acknowledge", "comment"], Form()],
    comment: Annotated[str, Form(max_length=4000)] = "", entity: Annotated[str, Form(max_length=500)] = "",
) -> Response:  # fmt: skip
    found = await asyncio.to_thread(services.documents.incident, who.tenant, incident_id)
    if found is None:
        raise NotFound(f"there is no incident {incident_id}")
    now_ns = services.clock.now_ns()
    await services.give_feedback(
        Feedback(
            feedback_id=time_ordered_id("fb", now_ns), tenant=who.tenant, subject=found.incident_id,
            subject_kind="incident", verdict=verdict, actor=who.name, time_ns=now_ns, comment=comment, entity=entity,
        )
    )  # fmt: skip
    done = "acknowledged" if verdict == "acknowledge" else "feedback"
    return see(f"/incidents/{found.incident_id}?done={done}")


def _drawing(
    cause: Hypothesis | None, diagnosis: Diagnosis | None, topology: Topology, incident: Incident
) -> graph.Drawing | None:
    if cause is None or diagnosis is None:
        return None
    return graph.draw(cause, topology, incident.entities, ruled_out=[item.entity for item in diagnosis.ruled_out])


def _ordered(incident: Incident) -> list[Member]:
    """Representatives first, then by severity and start."""
    return sorted(
        incident.members,
        key=lambda member: (
            not member.representative, member.suppressed, -member.alert.severity.rank, member.alert.starts_ns,
        ),
    )  # fmt: skip
