"""The small door that every role has: alive, ready, metrics. It tells nothing of telemetry, so it needs no key."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import asdict
from typing import Any, Protocol

from headspring.gateway.backends import BackendState
from headspring.gateway.metrics import text_of
from headspring.streaming.engine.health import StageHealth, StageState

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Watched(Protocol):
    """A role of this process, from its start on."""

    @property
    def role(self) -> str: ...
    def stage_health(self) -> Mapping[str, StageHealth]: ...
    def backend_states(self) -> Mapping[str, BackendState]: ...
    def counters(self) -> Mapping[str, int]: ...
    def gauges(self) -> Mapping[str, float]: ...
    def ready(self) -> bool: ...


class HealthDoor:
    """An ASGI application: `/healthz`, `/readyz`, `/metrics`. Before `watch` it is alive and not ready."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._watched: Watched | None = None
        self.waits_for = "it is starting"
        """Why it is not ready, while it starts."""

    def watch(self, watched: Watched) -> None:
        self._watched = watched

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/healthz":
            await _answer(send, 200, {"status": "ok", "role": self._role})
        elif path == "/readyz":
            await self._ready(send)
        elif path == "/metrics":
            await _answer(send, 200, self._metrics())
        else:
            await _answer(send, 404, {"status": "no such path", "wanted": ["/healthz", "/readyz", "/metrics"]})

    async def _ready(self, send: Send) -> None:
        watched = self._watched
        if watched is None:
            await _answer(send, 503, {"status": "starting", "role": self._role, "waits_for": self.waits_for})
            return
        backends = watched.backend_states()
        stages, ready = watched.stage_health(), watched.ready()
        degraded = any(not state.up for state in backends.values()) or any(
            one.state is StageState.BACKING_OFF for one in stages.values()
        )
        await _answer(
            send,
            200 if ready else 503,
            {
                "status": "starting" if not ready else "degraded" if degraded else "ok",
                "role": self._role,
                "stages": {name: asdict(state) for name, state in stages.items()},
                "backends": {name: asdict(state) for name, state in backends.items()},
            },
        )

    def _metrics(self) -> str:
        watched = self._watched
        if watched is None:
            return text_of({}, {}, {}, headspring_ready=0)
        return text_of(
            watched.stage_health(), watched.counters(), watched.backend_states(),
            headspring_ready=int(watched.ready()), **watched.gauges(),
        )  # fmt: skip


async def _answer(send: Send, status: int, body: Mapping[str, Any] | str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    kind = b"text/plain; version=0.0.4; charset=utf-8" if isinstance(body, str) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(text.encode())).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
