"""Bodies of the API: who sends comes first, then media type, encoding, size and depth; only then what they say."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from headspring.gateway.api.access import principal_of
from headspring.ingestion.admit.json_text import parse_json

_MEDIA = "application/json"
_MAX_DEPTH = 32
"""Nesting of JSON; the deepest body of this API, a declared topology, has four levels."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Read(Request):
    """A request whose body was parsed already."""

    value: Any = None

    async def json(self) -> Any:
        return self.value


class JsonRoute(APIRoute):
    """A route whose body is strict JSON of somebody we know; everything else is refused in words."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if self.body_field is None:
                return await handle(request)
            principal_of(request)  # nobody's body is read before we know whose it is
            return await handle(await _read(request))

        return checked


async def _read(request: Request) -> Request:
    """
    Raises:
        HTTPException: 415, another media type or an encoding.
        ContractError: the body is not JSON, or is nested too deeply.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "").strip().lower()
    read = _Read(request.scope, request.receive)
    body = await read.body()
    if not body:
        return read  # the endpoint's own answer to nothing says what is missing
    if media != _MEDIA:
        raise HTTPException(415, f"Content-Type is {media[:80]!r}; send {_MEDIA}")
    if encoding not in ("", "identity"):
        raise HTTPException(415, f"Content-Encoding is {encoding[:80]!r}; send the body as it is")
    read.value = parse_json(body, max_depth=_MAX_DEPTH)
    return read
