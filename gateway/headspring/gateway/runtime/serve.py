"""Servers: the gateway, OTLP over HTTP and over gRPC, this host's own metrics; and a graceful end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from headspring.gateway.api.app import gateway_app
from headspring.gateway.api.traced import traced
from headspring.gateway.runtime import doors, embedded, tracing
from headspring.gateway.runtime.config import Settings
from headspring.gateway.runtime.embedded import Embedded
from headspring.ingestion.receive import otlp_grpc
from headspring.ingestion.receive.host import HostMetrics
from headspring.ingestion.receive.http import intake_app

logger = logging.getLogger(__name__)


def run(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Runs the platform until SIGINT or SIGTERM.

    Args:
        settings: Resolved settings.
        say: Takes lines for the person who started it.

    Raises:
        ConfigError: a port is taken, or the data folder cannot be used.
    """
    doors.log_to_stderr(settings)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, say))


async def _run(settings: Settings, say: Callable[[str], None]) -> None:
    say("starting; the first start compiles kernels and takes some seconds longer")
    traces = tracing.install(settings)
    try:
        platform = await embedded.start(settings)
        try:
            await _serve(platform, settings, say)
        finally:
            await platform.close()
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.close)


async def _serve(platform: Embedded, settings: Settings, say: Callable[[str], None]) -> None:
    services = platform.services
    authenticate = services.authenticator.tenant_for_intake
    gateway = doors.server(gateway_app(services), settings.host, settings.port)
    otlp = doors.server(
        traced(intake_app(services.intake, authenticate=authenticate)), settings.host, settings.otlp_port
    )
    gateway_socket = doors.bind(gateway, "port")
    otlp_socket = doors.bind(otlp, "otlp_port")
    grpc = await otlp_grpc.start(
        services.intake, address=f"{settings.host}:{settings.grpc_port}", authenticate=authenticate
    )
    stop = asyncio.Event()
    doors.on_signal(stop.set)
    tasks = [
        asyncio.create_task(gateway.serve(sockets=[gateway_socket])),
        asyncio.create_task(otlp.serve(sockets=[otlp_socket])),
    ]
    host = (
        asyncio.create_task(HostMetrics(services.intake, clock=services.clock).run()) if settings.host_metrics else None
    )
    url = settings.public_url or f"http://{settings.host}:{gateway_socket.getsockname()[1]}"
    say(f"web UI and API   {url}")
    say(f"OTLP over HTTP   http://{settings.host}:{otlp_socket.getsockname()[1]}/v1/{{metrics,logs,traces}}")
    say(f"OTLP over gRPC   {settings.host}:{grpc.port}")
    say(f"data             {services.data}")
    if platform.new_key:
        say(f"admin API key    {platform.new_key}")
        say("                 shown this once; keep it: it signs you in and goes into senders' Authorization header")
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    say("stopping: taking no more, finishing what was taken")
    waiting.cancel()
    gateway.should_exit = otlp.should_exit = True
    if host is not None:
        host.cancel()
        with suppress(asyncio.CancelledError):
            await host
    await grpc.stop()
    await asyncio.gather(*tasks, return_exceptions=True)
