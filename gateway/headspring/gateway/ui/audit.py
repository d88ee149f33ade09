"""The audit trail, and whether its chain of hashes still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from headspring.gateway.auth.keys import Role
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.session import Installation, Viewer
from headspring.proto.codec import to_jsonable

router = APIRouter(route_class=PageRoute)

_PAGE = 100


@router.get("/audit")
async def audit(
    request: Request, services: Installation, who: Viewer, cursor: Annotated[str, Query(max_length=512)] = ""
) -> Response:
    """As in the API, the trail is for administrators."""
    who.require(Role.ADMIN)
    page = await asyncio.to_thread(services.actions.audit, who.tenant, limit=_PAGE, cursor=cursor)
    verdict = await asyncio.to_thread(services.actions.verify_audit)
    facts = to_jsonable(verdict)
    return render(
        request, services, "audit.html", who=who, entries=[_line(to_jsonable(item)) for item in page.items],
        next_cursor=page.next_cursor, intact=bool(facts.get("ok", False)), verdict=str(facts.get("text", "")),
    )  # fmt: skip


def _line(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An audit entry as a row: what happened to a run links to it, details become one text."""
    subject = str(entry["subject"])
    detail = entry["detail"] or {}
    told = "; ".join(f"{name}: {value}" for name, value in detail.items() if name != "incident" and value)
    return {
        "time_ns": entry["time_ns"],
        "actor": entry["actor"],
        "what": str(entry["action"]).replace("_", " "),
        "subject": subject,
        "link": f"/runs/{quote(subject, safe='')}" if subject.startswith("run-") else "",
        "detail": told,
    }
