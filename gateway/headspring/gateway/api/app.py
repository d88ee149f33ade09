"""The gateway's ASGI application: intake beside the API beside the pages.

Telemetry takes the short way: a path of the intake never passes FastAPI.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, RedirectResponse

from headspring.gateway.api import problem
from headspring.gateway.api.limits import ApiLimits, RequestLimits
from headspring.gateway.api.routes import config, incidents, keys, metrics, runs, stream, topology
from headspring.gateway.api.traced import traced
from headspring.gateway.metrics import exposition
from headspring.gateway.services import Services
from headspring.gateway.ui.routes import mount
from headspring.ingestion.receive.http import PATHS, intake_app
from headspring.proto.errors import LimitExceeded

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_MAX_API_BODY = 8 * 1024 * 1024
"""Bytes; the API's own bodies are small, only declared topologies are not."""
_TOO_LARGE = f"the body is larger than {_MAX_API_BODY} bytes, which is the most that is read here"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


def api_app(services: Services, *, limits: ApiLimits | None = None) -> FastAPI:
    """The FastAPI part: API, OpenAPI, pages. Without `limits` this process counts alone, by the defaults."""
    app = FastAPI(
        title="Headspring",
        version="1",
        summary="Incidents, causes, approvals: the API that the UI, the CLI and programs use.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    refused: Counter[str] = Counter()
    app.add_middleware(RequestLimits, services=services, limits=limits, counters=refused)
    problem.install(app)
    for module in (incidents, metrics, runs, topology, config, keys, stream):
        app.include_router(module.router, prefix="/api/v1")

    @app.get("/metrics", include_in_schema=False)
    async def own_metrics() -> PlainTextResponse:
        """Headspring's own metrics; no telemetry of others, so they need no key."""
        text = exposition(services) + "".join(
            f"# TYPE {name} counter\n{name} {count}\n" for name, count in sorted(refused.items())
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/incidents")

    mount(app, services)
    return app


def gateway_app(services: Services, *, limits: ApiLimits | None = None) -> Application:
    """Everything on the gateway's port; `limits` as in `api_app`."""
    intake = intake_app(services.intake, authenticate=services.authenticator.tenant_for_intake)
    api = api_app(services, limits=limits)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await api(scope, receive, send)
            return
        if scope["path"] in PATHS:
            await intake(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope["headspring.request_id"] = request_id
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > _MAX_API_BODY:
            await _refuse(send, scope["path"], request_id)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        await api(scope, _capped(receive), with_headers)

    return traced(app)


def _capped(receive: Receive) -> Receive:
    """Counts what arrives, for bodies that declare no length."""
    seen = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > _MAX_API_BODY:
            raise LimitExceeded(_TOO_LARGE)
        return message

    return counted


async def _refuse(send: Send, path: str, request_id: str) -> None:
    """A declared length is answered before a byte of the body is read."""
    body = json.dumps(
        {
            "type": "about:blank", "title": "Content Too Large", "status": 413, "detail": _TOO_LARGE,
            "instance": path[:200], "request_id": request_id,
        }
    ).encode()  # fmt: skip
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
