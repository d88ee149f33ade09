"""Changes as server-sent events, health and readiness."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

from headspring.gateway.api.access import Installation, Viewer
from headspring.proto.errors import Unavailable

router = APIRouter(tags=["stream and health"])

_HEARTBEAT_S = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""


@router.get("/events", summary="Changes of incidents, diagnoses and runs as server-sent events")
async def events(
    request: Request, services: Installation, who: Viewer, last_event_id: Annotated[str, Header(max_length=40)] = ""
) -> StreamingResponse:
    """Resumes after `Last-Event-ID`; an event of kind `reload` says that the gap is too large to fill."""
    after = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else None

    async def stream() -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        source = services.events.listen(who.tenant, after=after)
        waiting = asyncio.ensure_future(anext(source))
        try:
            while not await request.is_disconnected():
                done, _ = await asyncio.wait({waiting}, timeout=_HEARTBEAT_S)
                if not done:
                    yield ": still here\n\n"
                    continue
                event = waiting.result()
                data = json.dumps({"kind": event.kind, "incident_id": event.incident_id, "detail": event.detail})
                yield f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n"
                waiting = asyncio.ensure_future(anext(source))
        finally:
            waiting.cancel()

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/health", summary="Each stage's state", include_in_schema=True)
async def health(services: Installation, who: Viewer) -> dict[str, Any]:
    stages = {
        name: asdict(state) if is_dataclass(state) and not isinstance(state, type) else state
        for name, state in services.stage_health().items()
    }
    backends = services.backends()
    try:
        documents = dict(await asyncio.to_thread(services.documents.counts, who.tenant))
    except Unavailable:
        documents = {}  # the backend's own entry says so
    degraded = any(not backend.up for backend in backends.values())
    return {
        "status": "starting" if not services.ready() else "degraded" if degraded else "ok",
        "stages": stages,
        "documents": documents,
        "backends": {name: asdict(backend) for name, backend in backends.items()},
    }


@router.get("/ready", summary="200 when telemetry is taken and stages run, else 503")
async def ready(services: Installation) -> JSONResponse:
    up = services.ready()
    return JSONResponse({"ready": up}, status_code=200 if up else 503)
