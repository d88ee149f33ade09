"""Detection's settings, changed while it runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
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
    # First written, then in force: what a restart would forget was not accepted.
    await asyncio.to_thread(_replace, services.data / "detection.json", json.dumps(wanted.to_json(), indent=2))
    services.detect.configure(wanted)
    response.headers["ETag"] = _etag(wanted.to_json())
    return wanted.to_json()


def _replace(file: Path, text: str) -> None:
    """Whole or not at all, so that a crash leaves settings that can be read."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
