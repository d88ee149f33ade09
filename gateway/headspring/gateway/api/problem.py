"""Errors as `application/problem+json` (RFC 9457), each with the id of its request."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from headspring.proto import errors

logger = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[errors.PlatformError], int], ...] = (
    (errors.LimitExceeded, 413),
    (errors.ContractError, 400),
    (errors.ConfigError, 422),
    (errors.Unavailable, 503),
    (errors.Conflict, 409),
    (errors.NotFound, 404),
    (errors.Rejected, 422),
    (errors.NotReady, 503),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.QueryError, 422),
    (errors.ApprovalRequired, 403),
    (errors.PreconditionFailed, 412),
    (errors.ActionError, 409),
)
"""First match wins, so classes come before their parents."""


def status_of(error: errors.PlatformError) -> int:
    """The HTTP status an error answers with."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(request: Request, status: int, detail: str, **extra: Any) -> JSONResponse:
    """A problem document."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(extra.pop("retry_after_s", 1))
    return JSONResponse(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "instance": request.url.path,
            "request_id": request.scope.get("headspring.request_id", ""),
            **extra,
        },
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""

    @app.exception_handler(errors.PlatformError)
    async def _platform(request: Request, error: errors.PlatformError) -> JSONResponse:
        extra: dict[str, Any] = {}
        if isinstance(error, errors.QueryError):
            extra["position"] = error.position
        if isinstance(error, errors.Unavailable):
            extra["retry_after_s"] = max(1, round(error.retry_after_s))
        return problem(request, status_of(error), str(error), **extra)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [
            {"where": ".".join(str(part) for part in item["loc"]), "wanted": item["msg"], "kind": item["type"]}
            for item in error.errors()
        ]
        first = found[0] if found else {"where": "body", "wanted": "a valid request"}
        return problem(request, 422, f"{first['where']}: {first['wanted']}", errors=found)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(request, error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        # The stage edge of the API: the cause goes to the log, never to the caller.
        logger.error("request failed", exc_info=error, extra={"path": request.url.path})
        return problem(request, 500, "an unexpected error; the log names it under this request id")
