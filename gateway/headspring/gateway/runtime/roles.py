"""Runs one role of the distributed shape as a process: its doors, its health, and a graceful end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from headspring.gateway.runtime import distributed, doors, tracing
from headspring.gateway.runtime.config import Settings
from headspring.gateway.runtime.health import HealthDoor
from headspring.gateway.runtime.parts import Process
from headspring.proto.errors import Unavailable

logger = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0


def run(role: str, settings: Settings, *, say: Callable[[str], None]) -> None:
    """Runs a role until SIGINT or SIGTERM; waits, telling so, for servers that do not answer yet.

    Raises:
        ConfigError: a port is taken, or a server cannot be used as it is: wrong password, too old, no permission.
    """
    doors.log_to_stderr(settings)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(role, settings, say))


async def _run(role: str, settings: Settings, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    doors.on_signal(stop.set)
    door = HealthDoor(role)
    health = doors.server(door, settings.host, settings.health_port)
    socket = doors.bind(health, "health_port")
    say(f"{role}: health and metrics on http://{settings.host}:{socket.getsockname()[1]}/readyz")
    serving = asyncio.create_task(health.serve(sockets=[socket]))
    traces = tracing.install(settings)
    try:
        process = await _started(role, settings, door, stop, say)
        if process is not None:
            try:
                door.watch(process)
                await _serve(process, settings, stop, say)
            finally:
                await process.close()
                say(f"{role}: stopped")
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.close)
        health.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


async def _started(
    role: str, settings: Settings, door: HealthDoor, stop: asyncio.Event, say: Callable[[str], None]
) -> Process | None:
    """The running role; None when it was told to stop before a server it needs answered."""
    wait_s = _FIRST_WAIT_S
    while not stop.is_set():
        try:
            return await distributed.start(role, settings)
        except Unavailable as error:
            # Waiting here, with longer and longer pauses, is kinder to the servers than being started over and over.
            door.waits_for = str(error)
            pause_s = wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads processes that started together
            say(f"{role}: {error}; next try in {pause_s:.0f} s")
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                continue
    return None


async def _serve(process: Process, settings: Settings, stop: asyncio.Event, say: Callable[[str], None]) -> None:
    """The doors that a role has besides health, until the end."""
    servers: list[doors.Server] = []
    tasks: list[asyncio.Task[None]] = []

    def open_door(server: doors.Server, setting: str, what: str) -> None:
        bound = doors.bind(server, setting)
        servers.append(server)
        tasks.append(asyncio.create_task(server.serve(sockets=[bound])))
        say(f"{process.role}: {what} on http://{settings.host}:{bound.getsockname()[1]}")

    grpc = None
    if process.services is not None:
        from headspring.gateway.api.app import gateway_app

        application = gateway_app(process.services, limits=process.limits)
        open_door(doors.server(application, settings.host, settings.port), "port", "web UI and API")
        if process.new_key:
            say(f"{process.role}: admin API key {process.new_key} (shown this once; keep it)")
    elif process.intake is not None:
        from headspring.gateway.api.traced import traced
        from headspring.ingestion.receive import otlp_grpc
        from headspring.ingestion.receive.http import intake_app

        app = traced(intake_app(process.intake, authenticate=process.authenticate))
        open_door(doors.server(app, settings.host, settings.otlp_port), "otlp_port", "OTLP and the other ways in")
        grpc = await otlp_grpc.start(
            process.intake, address=f"{settings.host}:{settings.grpc_port}", authenticate=process.authenticate
        )
        say(f"{process.role}: OTLP over gRPC on {settings.host}:{grpc.port}")
    say(f"{process.role}: running")
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    say(f"{process.role}: stopping, finishing what was taken")
    for server in servers:
        server.should_exit = True
    if grpc is not None:
        await grpc.stop()
    await asyncio.gather(*tasks, return_exceptions=True)
