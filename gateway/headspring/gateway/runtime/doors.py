"""Ports, signals and log of a process that serves HTTP: what every way to run Headspring has in common."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn

from headspring.gateway.runtime.config import Settings
from headspring.proto.errors import ConfigError

DRAIN_S = 10
"""How long open requests may take to end, seconds."""


class Server(uvicorn.Server):
    """Uvicorn without its own signal handling: one handler ends all servers together."""

    def install_signal_handlers(self) -> None:
        return None

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # theirs is a generator
        return nullcontext()


def server(app: Any, host: str, port: int) -> Server:
    """A server for an ASGI application; `bind` gives it its socket."""
    return Server(
        uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False, lifespan="off", server_header=False,
            http="httptools", timeout_graceful_shutdown=DRAIN_S, limit_concurrency=1000, backlog=512,
        )
    )  # fmt: skip


def bind(to: Server, setting: str) -> socket.socket:
    """The socket of a server, bound before anything is served.

    Raises:
        ConfigError: the port is taken; names the setting.
    """
    config = to.config
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another with "
            f"--{setting.replace('_', '-')} or HEADSPRING_{setting.upper()}"
        ) from error
    return bound


def on_signal(stop: Callable[[], None]) -> None:
    """SIGINT and SIGTERM end the process gently. On the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def log_to_stderr(settings: Settings) -> None:
    """The process' own log."""
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
