"""Whether the servers behind this process answer, asked every few seconds, for health, metrics and pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headspring.proto.clock import Clock
from headspring.proto.errors import PlatformError

_LOG = logging.getLogger(__name__)
EVERY_S = 5.0
_TIMEOUT_S = 10.0
"""A check that takes longer counts as failed; it is not asked again before it ends."""

Check = Callable[[], object]
"""Returns when the server answers; raises `PlatformError` when not. Blocks, for seconds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """What the newest checks of a server found."""

    up: bool
    since_ns: int
    """When that began, unix nanoseconds."""
    error: str = ""
    """One line; "" while it answers."""
    costs: str = ""
    """What does not work meanwhile, for people."""


class Backends:
    """One task per server, so that one that hangs holds up no other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._costs: dict[str, str] = {}
        self._states: dict[str, BackendState] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, check: Check, *, costs: str) -> None:
        """Before `start`.

        Args:
            name: The product, e.g. `Elasticsearch`.
            check: Asked every few seconds, in a thread.
            costs: What its absence costs, as a sentence's end: "… is away: COSTS".
        """
        self._checks[name] = check
        self._costs[name] = costs
        self._states[name] = BackendState(up=True, since_ns=self._clock.now_ns(), costs=costs)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(name), name=f"backend:{name}") for name in self._checks]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def states(self) -> Mapping[str, BackendState]:
        """By name."""
        return dict(self._states)

    async def _watch(self, name: str) -> None:
        running: asyncio.Future[object] | None = None
        while True:
            if running is None:
                running = asyncio.ensure_future(asyncio.to_thread(self._checks[name]))
            done, _ = await asyncio.wait({running}, timeout=_TIMEOUT_S)
            error = f"no answer within {_TIMEOUT_S:.0f} s"
            if done:
                try:
                    error = "" if running.result() is not False else "it answers that it is not well"
                except PlatformError as failed:
                    error = str(failed)
                except OSError as failed:
                    error = f"{type(failed).__name__}: {failed}"
                running = None
            self._note(name, error)
            await self._clock.sleep(EVERY_S)

    def _note(self, name: str, error: str) -> None:
        before = self._states[name]
        if before.up and error:
            _LOG.warning("backend is away: backend=%s error=%s", name, error)
        elif not before.up and not error:
            _LOG.warning("backend is back: backend=%s", name)
        since_ns = before.since_ns if before.up is not bool(error) else self._clock.now_ns()
        self._states[name] = BackendState(up=not error, since_ns=since_ns, error=error, costs=self._costs[name])
