"""All pages, and the files they need."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from headspring.gateway.services import Services
from headspring.gateway.ui import audit, errors, estate, incidents, query, runs, session
from headspring.gateway.ui.pages import STATIC

_FOR_EVER = "public, max-age=31536000, immutable"
"""Addresses carry a digest, so a changed file has another address."""


def router(services: Services) -> APIRouter:
    """Every page. The app it is included in must carry `services` in `app.state.services`."""
    pages = APIRouter(include_in_schema=False)

    @pages.get("/")
    async def home() -> RedirectResponse:
        return RedirectResponse("/incidents")

    for module in (session, incidents, runs, estate, query, audit):
        pages.include_router(module.router)
    return pages


def mount(app: FastAPI, services: Services) -> None:
    """Pages and files into an app."""
    app.state.services = services
    errors.install(app)
    app.include_router(router(services))
    app.mount("/static", _Files(directory=STATIC), name="static")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Any) -> Response:
        answer = await super().get_response(path, scope)
        if answer.status_code == 200:
            answer.headers["Cache-Control"] = _FOR_EVER if b"v=" in scope.get("query_string", b"") else "no-cache"
        return answer
