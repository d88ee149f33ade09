"""Errors as pages that say what happened and what to do next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from headspring.gateway.api.problem import status_of
from headspring.gateway.ui.pages import render
from headspring.proto import errors

_TITLES = {
    400: "This request cannot be read",
    401: "Your session is over",
    403: "You may not do this",
    404: "There is no such thing here",
    409: "Something changed before you",
    413: "Too large",
    422: "This cannot be used as it is",
    500: "Something went wrong on our side",
    503: "Not available right now",
}
_NEXT = {
    401: "Nothing was done. Sign in again, then repeat what you wanted.",
    403: "Nothing was done. Ask somebody with the role it needs, or sign in with another key.",
    404: "It may have been merged into another incident, or be older than what is kept.",
    409: "Nothing was done in your name. Go back, read the page as it is now, and decide again.",
    422: "Change what the message names and send it again.",
    500: "Nothing of your request may be taken as done. The log names the cause under the request id below.",
    503: "Nothing was lost. Wait a few seconds and repeat.",
}
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
            except Exception:  # the pages' stage edge: the cause goes to the log, never to the reader
                logger.exception("page failed", extra={"path": request.url.path})
                return error_page(request, 500, "an unexpected error")

        return with_pages


def error_page(request: Request, status: int, message: str) -> Response:
    """A page for an error; `message` is shown escaped."""
    return render(
        request, request.app.state.services, "error.html", status=status, title=_TITLES.get(status, _TITLES[500]),
        message=message, next_step=_NEXT.get(status, ""), code=status, back=_back(request),
        request_id=request.scope.get("headspring.request_id", ""),
    )  # fmt: skip


def _back(request: Request) -> str:
    """The page the reader came from, when it is one of ours."""
    referer = request.headers.get("referer", "")
    base = str(request.base_url)
    return "/" + referer.removeprefix(base) if referer.startswith(base) and request.method == "POST" else "/incidents"
