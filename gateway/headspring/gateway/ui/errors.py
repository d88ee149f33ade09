"""Errors as pages that say what happened and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from headspring.gateway.api.problem import http_problem, status_of, without_room
from headspring.gateway.ui.pages import render
from headspring.proto import errors

_TITLES = {
    400: "This request cannot be read",
    401: "Your session is over",
    403: "You may not do this",
    404: "There is no such thing here",
    405: "This cannot be done here",
    409: "Something changed before you",
    413: "Too large",
    422: "This cannot be used as it is",
    429: "Too often",
    500: "Something went wrong on our side",
    503: "Not available right now",
}
_NEXT = {
    401: "Nothing was done. Sign in again, then repeat what you wanted.",
    403: "Nothing was done. Ask somebody with the role it needs, or sign in with another key.",
    404: "It may have been merged into another incident, or be older than what is kept.",
    409: "Nothing was done in your name. Go back, read the page as it is now, and decide again.",
    422: "Change what the message names and send it again.",
    429: "Nothing was done. Wait as long as the message says and repeat.",
    500: "Nothing of your request may be taken as done. The log names the cause under the request id below.",
    503: "Nothing was lost. Wait a few seconds and repeat.",
}
_FOR_PROGRAMS = ("/api/", "/v1/", "/loki/", "/metrics")
"""Addresses that answer programs, whatever these say they accept."""
logger = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose errors are pages, so that the API's problem documents stay the API's."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def with_pages(request: Request) -> Response:
            try:
                return await handle(request)
            except errors.Unauthenticated as error:
                if request.method in ("GET", "HEAD"):
                    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                    return RedirectResponse(f"/login?next={quote(address, safe='')}", status_code=303)
                return error_page(request, 401, str(error))
            except errors.PlatformError as error:
                # A plan that is not what was read is a conflict to a person, whatever the API calls it.
                stale = isinstance(error, errors.PreconditionFailed)
                return error_page(request, 409 if stale else status_of(error), str(error))
            except RequestValidationError as error:
                first = error.errors()[0] if error.errors() else {"loc": (), "msg": "not understood"}
                return error_page(request, 422, f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}")
            except HTTPException as error:
                return _refused(request, error)
            except Exception as error:  # the pages' stage edge: the cause goes to the log, never to the reader
                unavailable = without_room(error)
                if unavailable is not None:
                    logger.warning("page was not stored: path=%s error=%s", request.url.path, unavailable)
                    return error_page(request, 503, str(unavailable))
                logger.exception("page failed", extra={"path": request.url.path})
                return error_page(request, 500, "an unexpected error")

        return with_pages


def install(app: FastAPI) -> None:
    """Answers an address that does not exist with a page, where it is a browser that asks."""

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code in (404, 405) and not for_programs(request):
            return _refused(request, error)
        return http_problem(request, error)


def for_programs(request: Request) -> bool:
    """Whether an answer is for a program rather than for a person at a browser."""
    accepted = request.headers.get("accept", "").lower()
    return request.url.path.startswith(_FOR_PROGRAMS) or "text/html" not in accepted


def _refused(request: Request, error: HTTPException) -> Response:
    """A page for what the framework refuses."""
    if isinstance(error.__cause__, errors.PlatformError):
        return error_page(request, status_of(error.__cause__), str(error.__cause__))
    path = request.url.path[:200]
    if error.status_code == 404:
        return error_page(request, 404, f"There is no page {path}.", next_step="Check the address, or start anew.")
    if error.status_code == 405:
        return error_page(request, 405, f"{request.method} is not allowed on {path}.")
    return error_page(request, error.status_code, str(error.detail))


def error_page(request: Request, status: int, message: str, *, next_step: str = "") -> Response:
    """A page for an error; `message` is shown escaped."""
    return render(
        request, request.app.state.services, "error.html", status=status, title=_TITLES.get(status, _TITLES[500]),
        message=message, next_step=next_step or _NEXT.get(status, ""), code=status, back=_back(request),
        request_id=request.scope.get("headspring.request_id", ""),
    )  # fmt: skip


def _back(request: Request) -> str:
    """The page the reader came from, when it is one of ours."""
    referer = request.headers.get("referer", "")
    base = str(request.base_url)
    return "/" + referer.removeprefix(base) if referer.startswith(base) and request.method == "POST" else "/incidents"
