"""Errors as `application/problem+json` (RFC 9457), each with the id of its request."""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from http import HTTPStatus
from typing import Any

import sqlalchemy.exc
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
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_NOW = frozenset(
    {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)  # fmt: skip
_MAX_CHARS = 2_000
"""Of a detail: it may repeat what was sent."""
_MAX_ERRORS = 20
"""Of one body; a topology of a hundred thousand edges may have as many."""
_SHOWN_CHARS = 80


def status_of(error: errors.PlatformError) -> int:
    """The HTTP status an error answers with."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def without_room(error: BaseException) -> errors.Unavailable | None:
    """What to answer where the data folder cannot be written now; None for any other error."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.OperationalError):
        # "No such table" is an OperationalError too, and a defect.
        if (getattr(cause, "sqlite_errorcode", 0) & 0xFF) not in _NOT_NOW:
            return None
    elif not (isinstance(cause, OSError) and cause.errno in _NO_ROOM):
        return None
    return errors.Unavailable(
        f"the data folder cannot be written now ({cause}): free disk space and repeat",
        retry_after_s=5.0,
    )


class _Problem(JSONResponse):
    """Half a surrogate pair, which JSON can carry in and UTF-8 cannot carry out, becomes a question mark."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def problem(request: Request, status: int, detail: str, **extra: Any) -> JSONResponse:
    """A problem document."""
    headers = dict(extra.pop("headers", None) or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(extra.pop("retry_after_s", 1))
    return _Problem(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail[:_MAX_CHARS],
            "instance": request.url.path[:200],
            "request_id": request.scope.get("headspring.request_id", ""),
            **extra,
        },
        status_code=status,
        headers=headers,
    )


def shown(value: Any) -> str:
    """What was sent, as far as it helps to find it: its kind and its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'}"


def http_problem(request: Request, error: HTTPException) -> JSONResponse:
    """A problem for what the framework refuses, in words that name the request."""
    path = request.url.path[:200]
    if isinstance(error.__cause__, errors.PlatformError):
        return problem(request, status_of(error.__cause__), str(error.__cause__))
    if error.status_code == 404:
        return problem(request, 404, f"{path} is not served here; /api/v1/openapi.json lists what is")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not allowed on {path}; allowed is {allowed}"
        return problem(request, 405, detail, headers=error.headers)
    return problem(request, error.status_code, str(error.detail), headers=error.headers)


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
            {
                "where": ".".join(str(part)[:60] for part in item["loc"]), "wanted": item["msg"], "kind": item["type"],
                "found": "nothing" if item["type"] == "missing" else shown(item.get("input")),
            }
            for item in error.errors()[:_MAX_ERRORS]
        ]  # fmt: skip
        first = found[0] if found else {"where": "body", "wanted": "a valid request", "found": "another"}
        return problem(request, 422, f"{first['where']}: {first['wanted']}; found {first['found']}", errors=found)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return http_problem(request, error)

    @app.exception_handler(sqlite3.OperationalError)
    @app.exception_handler(sqlalchemy.exc.OperationalError)
    @app.exception_handler(OSError)
    async def _storage(request: Request, error: Exception) -> JSONResponse:
        unavailable = without_room(error)
        if unavailable is None:
            return await _unexpected(request, error)
        logger.warning("request was not stored: path=%s error=%s", request.url.path, unavailable)
        return await _platform(request, unavailable)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        # The stage edge of the API: the cause goes to the log, never to the caller.
        logger.error("request failed", exc_info=error, extra={"path": request.url.path})
        return problem(request, 500, "an unexpected error; the log names it under this request id")
