"""Detection's settings, changed while it runs."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from headspring.gateway.api.access import Admin, Installation, Viewer
from headspring.gateway.api.bodies import JsonRoute
from headspring.proto.errors import ContractError, PreconditionFailed

router = APIRouter(tags=["settings"], route_class=JsonRoute)


def _etag(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


@router.get("/config/detection", summary="Detection's settings")
async def detection(services: Installation, who: Viewer, response: Response) -> Any:
    values = services.detect.config.to_json()
    response.headers["ETag"] = _etag(values)
    return values


@router.put("/config/detection", summary="Replaces detection's settings; in force from the next evaluation on")
async def configure(
    services: Installation, who: Admin, body: dict[str, Any], response: Response,
    if_match: Annotated[str, Header(max_length=100)] = "",
) -> Any:  # fmt: skip
    current = services.detect.config
    if if_match and if_match != _etag(current.to_json()):
        raise PreconditionFailed("the settings changed since they were read; read them again and decide")
    try:
        wanted = type(current).from_json(body)
    except (TypeError, ValueError) as error:
        raise ContractError(f"these are not detection settings: {error}") from error
    await services.detect.configure(wanted, actor=who.name, time_ns=services.clock.now_ns())
    response.headers["ETag"] = _etag(wanted.to_json())
    return wanted.to_json()
