"""How often a caller may change something, and how often an address may fail to sign in.

Two sliding windows of a minute over a shared `RateLimiter`, so that several gateways count together: changes by key
or session, failures by address. Reading is not limited here, and telemetry has limits of its own at the intake.

A credential that was good lately is not held up by the failures of its address: people who share one (a proxy, an
office) stay signed in while somebody there tries keys out.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headspring.gateway.api.problem import problem
from headspring.gateway.auth.requests import bearer, session_token
from headspring.gateway.services import Services
from headspring.gateway.ui.errors import error_page, for_programs
from headspring.knowledge.coordination.memory import MemoryRateLimiter
from headspring.knowledge.coordination.port import Decision, RateLimiter
from headspring.proto.errors import Unauthenticated, Unavailable

WRITES_PER_MINUTE = 1200
"""Of one key or session. A person makes a few, a program that files changes some hundreds."""
FAILED_SIGN_INS_PER_MINUTE = 30
"""From one address. Keys are too long to be guessed; this is against the work that trying makes."""
_WINDOW_S = 60.0
_GOOD_S = 600.0
"""How long a credential counts as good without being looked at again."""
_MAX_GOOD = 10_000
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """What is allowed, and who counts."""

    limiter: RateLimiter
    writes_per_minute: int = WRITES_PER_MINUTE
    """0: no limit."""
    failed_sign_ins_per_minute: int = FAILED_SIGN_INS_PER_MINUTE
    """0: no limit."""


class RequestLimits:
    """ASGI middleware of the API and the pages."""

    def __init__(self, app: ASGIApp, *, services: Services, limits: ApiLimits | None, counters: Counter[str]) -> None:
        """
        Args:
            limits: None: the defaults, counted in this process.
            counters: what was refused is added here, by metric name.
        """
        self._app = app
        self._services = services
        self._limits = limits or ApiLimits(limiter=MemoryRateLimiter(services.clock))
        self._counters = counters
        self._good: OrderedDict[str, float] = OrderedDict()
        """Digests of credentials, and when each was last found good."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        credential = bearer(headers) or session_token(headers)
        digest = _digest(credential) if credential else ""
        signs_in = scope["method"] == "POST" and scope["path"] == "/login"
        unproven = signs_in or (bool(digest) and not self._is_good(digest))
        address = f"failed-sign-in/{(scope.get('client') or ('unknown', 0))[0]}"

        refused = await self._refusal(scope["method"], digest, address, signs_in=signs_in, unproven=unproven)
        if refused is not None:
            await _too_many(scope, receive, send, refused)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, watched)
        if status == 401 and (signs_in or digest):
            self._good.pop(digest, None)
            await self._ask(address, self._limits.failed_sign_ins_per_minute, cost=1)
        elif unproven and not signs_in:
            await self._prove(headers, digest, address)

    async def _refusal(
        self, method: str, digest: str, address: str, *, signs_in: bool, unproven: bool
    ) -> Decision | None:
        if unproven:
            decision = await self._ask(address, self._limits.failed_sign_ins_per_minute, cost=0)
            if not decision.allowed:
                self._counters["headspring_gateway_sign_ins_refused_total"] += 1
                return decision
        if method not in _SAFE and not signs_in:
            decision = await self._ask(f"write/{digest or address}", self._limits.writes_per_minute, cost=1)
            if not decision.allowed:
                self._counters["headspring_gateway_writes_refused_total"] += 1
                return decision
        return None

    async def _ask(self, key: str, per_minute: int, *, cost: int) -> Decision:
        if per_minute <= 0:
            return Decision(allowed=True, remaining=0, retry_after_s=0.0)
        limiter = self._limits.limiter
        return await asyncio.to_thread(limiter.allow, key, limit=per_minute, window_s=_WINDOW_S, cost=cost)

    async def _prove(self, headers: Mapping[str, str], digest: str, address: str) -> None:
        """Remembers a credential that is good; one that is not has failed, also where nobody asked for it."""
        try:
            await asyncio.to_thread(self._services.authenticator.principal, headers)
        except Unauthenticated:
            await self._ask(address, self._limits.failed_sign_ins_per_minute, cost=1)
        except Unavailable:
            return
        else:
            self._good[digest] = self._services.clock.monotonic_s()
            self._good.move_to_end(digest)
            if len(self._good) > _MAX_GOOD:
                self._good.popitem(last=False)

    def _is_good(self, digest: str) -> bool:
        at_s = self._good.get(digest)
        return at_s is not None and self._services.clock.monotonic_s() - at_s < _GOOD_S


async def _too_many(scope: Scope, receive: Receive, send: Send, decision: Decision) -> None:
    request = Request(scope)
    wait_s = max(1, math.ceil(decision.retry_after_s))
    detail = f"too many requests; try again in {wait_s} s"
    answer: Response
    if for_programs(request):
        answer = problem(request, 429, detail, retry_after_s=wait_s)
    else:
        answer = error_page(request, 429, detail)
        answer.headers["Retry-After"] = str(wait_s)
    await answer(scope, receive, send)


def _digest(credential: str) -> str:
    """What stands for a key where others may read it: in the limiter's keys."""
    return hashlib.blake2b(credential.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
