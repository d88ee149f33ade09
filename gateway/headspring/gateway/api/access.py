"""Who asks, as FastAPI dependencies. A browser's cookie may read; to change something it must send its CSRF token."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request

from headspring.gateway.auth.keys import Principal, Role
from headspring.gateway.auth.requests import bearer
from headspring.gateway.services import Services
from headspring.proto.errors import Forbidden

CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def principal_of(request: Request) -> Principal:
    """
    Raises:
        Unauthenticated: nobody known.
        Forbidden: a browser session wants to change something without its CSRF token.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    principal = services_of(request).authenticator.principal(headers)
    if (
        not bearer(headers)
        and request.method not in _SAFE
        and not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), principal.csrf.encode())
    ):
        raise Forbidden(f"a browser session must send its token in the header {CSRF_HEADER}")
    return principal


def viewer_of(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    principal.require(Role.VIEWER)
    return principal


def operator_of(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    principal.require(Role.OPERATOR)
    return principal


def admin_of(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    principal.require(Role.ADMIN)
    return principal


Installation = Annotated[Services, Depends(services_of)]
Viewer = Annotated[Principal, Depends(viewer_of)]
Operator = Annotated[Principal, Depends(operator_of)]
Admin = Annotated[Principal, Depends(admin_of)]
