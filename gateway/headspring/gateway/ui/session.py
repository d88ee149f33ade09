"""Who sits at the browser: sign in, sign out, and proof that a form was ours.

Three locks on everything that changes something: the cookie is SameSite=Strict, the form carries the
session's token, and the browser's Origin must be this address.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from headspring.gateway.auth.keys import Principal, Role
from headspring.gateway.auth.requests import SESSION_COOKIE, session_token
from headspring.gateway.services import Services
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.pages import render
from headspring.proto.errors import Forbidden, Unauthenticated

_HOME = "/incidents"
_MAX_NEXT = 500

router = APIRouter(route_class=PageRoute)


def installation(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Installation = Annotated[Services, Depends(installation)]


async def session_of(request: Request, services: Installation) -> Principal:
    """The signed-in person; API keys are for programs and not taken by pages.

    Raises:
        Unauthenticated: nobody is signed in.
        Forbidden: the key behind the session may only send telemetry.
    """
    token = session_token({name.lower(): value for name, value in request.headers.items()})
    if not token:
        raise Unauthenticated("sign in to see this page")
    who = await asyncio.to_thread(services.keys.session, token)
    who.require(Role.VIEWER)
    return who


async def sender_of(
    request: Request, services: Installation, who: Annotated[Principal, Depends(session_of)],
    csrf: Annotated[str, Form(max_length=200)] = "",
) -> Principal:  # fmt: skip
    """Who sent a form, after all three locks.

    Raises:
        Forbidden: the form is not from a page of ours.
    """
    require_own_origin(request, services)
    if not who.csrf or not hmac.compare_digest(csrf.encode(), who.csrf.encode()):
        raise Forbidden("this form carries no valid token of your session; load the page again and repeat")
    return who


async def operator_of(who: Annotated[Principal, Depends(sender_of)]) -> Principal:
    who.require(Role.OPERATOR)
    return who


Viewer = Annotated[Principal, Depends(session_of)]
Sender = Annotated[Principal, Depends(sender_of)]
Operator = Annotated[Principal, Depends(operator_of)]


def require_own_origin(request: Request, services: Services) -> None:
    """
    Raises:
        Forbidden: the browser says that the form came from elsewhere, or does not say where from.
    """
    sent = request.headers.get("origin", "") or request.headers.get("referer", "")
    here = {_origin(str(request.base_url))}
    if services.settings.public_url:
        here.add(_origin(services.settings.public_url))
    if not sent or _origin(sent) not in here:
        raise Forbidden(
            "this form was not sent from this address; open the page here and repeat "
            "(behind a proxy, set public_url to the address that browsers use)"
        )


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}".lower()
    except ValueError:
        return ""


def local(path: str) -> str:
    """A path of this site to go on to; anything else becomes the front page.

    >>> local("/runs/run-1?x=1"), local("//evil.example"), local("https://evil.example"), local("/\\\\evil.example")
    ('/runs/run-1?x=1', '/incidents', '/incidents', '/incidents')
    """
    plain = path.isprintable() and "\\" not in path and len(path) <= _MAX_NEXT
    return path if plain and path.startswith("/") and not path.startswith("//") else _HOME


def see(path: str) -> RedirectResponse:
    """Post, redirect, get."""
    return RedirectResponse(path, status_code=303, headers={"Cache-Control": "no-store"})


@router.get("/login")
async def login_page(request: Request, services: Installation, next: str = _HOME) -> Response:
    return render(request, services, "login.html", next=local(next), message="")


@router.post("/login")
async def login(
    request: Request, services: Installation, key: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=_MAX_NEXT)] = _HOME,
) -> Response:  # fmt: skip
    require_own_origin(request, services)
    try:
        token = await asyncio.to_thread(services.keys.open_session, key.strip())
        (await asyncio.to_thread(services.keys.session, token)).require(Role.VIEWER)
    except (Unauthenticated, Forbidden) as error:
        return render(request, services, "login.html", status=401, next=local(next), message=str(error))
    answer = see(local(next))
    answer.set_cookie(SESSION_COOKIE, token, **_cookie(request, services))
    return answer


@router.post("/logout")
async def logout(request: Request, services: Installation, who: Sender) -> Response:
    token = session_token({name.lower(): value for name, value in request.headers.items()})
    await asyncio.to_thread(services.keys.close_session, token)
    answer = see("/login?done=signed-out")
    answer.delete_cookie(SESSION_COOKIE, **_cookie(request, services))
    return answer


def _cookie(request: Request, services: Services) -> dict[str, Any]:
    secure = request.url.scheme == "https" or services.settings.public_url.startswith("https://")
    return {"httponly": True, "samesite": "strict", "secure": secure, "path": "/"}
