"""From a template and its values to a response, with the headers that keep a page to itself."""

from __future__ import annotations

import hashlib
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from headspring.gateway.auth.keys import Principal, Role
from headspring.gateway.services import Services
from headspring.gateway.ui import graph, words
from headspring.proto.ids import entity_name

HERE = Path(__file__).parent
STATIC = HERE / "static"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""No inline script, no inline style, nothing from elsewhere, in nobody's frame."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_DONE = {
    "approved": "Approved. The run starts now; its steps appear below as they end.",
    "approved-too": "Your approval is noted. This runbook asks for more people; it runs when they have approved too.",
    "rejected": "Rejected. Nothing was done.",
    "requested": "Requested. The plan waits for approval by somebody else.",
    "feedback": "Noted, thank you. It counts when models and causes are judged next.",
    "acknowledged": "Acknowledged. Everybody who looks sees that you are on it.",
    "frozen": "Stopped. Steps under way end; runs that have more to do are handed to people.",
    "thawed": "Automation goes on.",
    "signed-out": "You are signed out.",
}
"""What a redirect may say in `?done=`; nothing else is ever shown from there."""


@cache
def environment() -> Environment:
    """Templates with autoescape always on and unknown names an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(
        utc=words.utc, iso=words.iso, clock_time=words.clock_time, duration=words.duration, percent=words.percent,
        number=words.number, unit_of=words.unit_of, entity=entity_name, short=words.short,
        cause_words=words.cause_words,
    )  # fmt: skip
    made.globals.update(static=_static, BOX_WIDTH=graph.BOX_WIDTH, BOX_HEIGHT=graph.BOX_HEIGHT)
    return made


def render(
    request: Request, services: Services, template: str, *, who: Principal | None = None, status: int = 200,
    **values: Any,
) -> HTMLResponse:  # fmt: skip
    """A page. `who` is None before sign-in."""
    now_ns = services.clock.now_ns()
    html = environment().get_template(template).render(
        who=who,
        operator=who is not None and allowed(who, Role.OPERATOR),
        admin=who is not None and allowed(who, Role.ADMIN),
        now_ns=now_ns,
        age=partial(words.age, now_ns=now_ns),
        done=_DONE.get(request.query_params.get("done", ""), ""),
        path=request.url.path,
        frozen=who is not None and services.actions.frozen,
        away=[(name, state) for name, state in services.backends().items() if who is not None and not state.up],
        **values,
    )  # fmt: skip
    return HTMLResponse(html, status_code=status, headers=_HEADERS)


def allowed(who: Principal, role: Role) -> bool:
    """Whether to offer something; the endpoint itself checks again."""
    order = list(Role)
    return order.index(who.role) >= order.index(role)


@cache
def _static(name: str) -> str:
    """A file's address with its digest, so that it may be cached for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
