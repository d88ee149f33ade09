"""The audit trail, and whether its chain of hashes still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from headspring.action.audit.chain import Entry
from headspring.gateway.auth.keys import Role
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.session import Installation, Viewer

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
    return render(
        request, services, "audit.html", who=who, entries=[_line(entry) for entry in page.items],
        next_cursor=page.next_cursor, verdict=verdict,
    )  # fmt: skip


def _line(entry: Entry) -> Mapping[str, Any]:
    """An audit entry as a row: what happened to a run links to it, details become a text and the plan's digest."""
    aside = ("incident", "digest", "text")
    told = "; ".join(f"{name}: {value}" for name, value in entry.detail.items() if name not in aside and value)
    text = str(entry.detail.get("text") or "")
    return {
        "number": entry.number,
        "time_ns": entry.time_ns,
        "actor": entry.actor,
        "what": entry.action.replace("_", " "),
        "subject": entry.subject,
        "link": f"/runs/{quote(entry.subject, safe='')}" if entry.subject.startswith("run-") else "",
        "detail": f"{text} ({told})" if text and told else text or told,
        "digest": str(entry.detail.get("digest") or ""),
    }
