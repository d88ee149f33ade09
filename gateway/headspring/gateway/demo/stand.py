"""What the demo runs on: a platform, its own or a running stack, and the shop beside it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from headspring.gateway.demo.client import Client, Platform
from headspring.gateway.demo.screen import Screen
from headspring.proto.errors import ActionError, ConfigError, NotReady, Unavailable

START_TIMEOUT_S = 120.0
"""First start compiles kernels; later ones take seconds."""
OPERATOR = "demo-operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """The running demo."""

    platform: Platform
    operator: Platform
    """The same platform, as the person who approves."""
    operator_key: str
    """What that person signs in with."""
    shop: Client
    folder: Path
    earlier: set[str] = field(default_factory=set)
    """Incidents that were over before the shop was watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a platform is."""

    url: str
    otlp_url: str
    key: str
    shop_port: int
    """The operations API that its runbooks call."""
    log: str
    alive: Callable[[], int | None]
    """Exit status once it ended."""


@contextmanager
def open_stand(folder: Path, screen: Screen, stack_file: Path | None = None) -> Iterator[Stand]:
    """Platform and shop, started and stopped again; of a stack only the shop is.

    Raises:
        ConfigError: no stack is described in `stack_file`.
        NotReady: the platform did not become ready.
        ActionError: a process ended at its start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        place = _stack(stack_file) if stack_file else stack.enter_context(_own(folder))
        shop_url = f"http://127.0.0.1:{place.shop_port}"
        argv = [
            sys.executable, "-m", "headspring.gateway.demo.supervisor", "--otlp", place.otlp_url,
            "--platform", place.url, "--data", str(folder / "shop"), "--port", str(place.shop_port), "--until-eof",
        ]  # fmt: skip
        shop_process = stack.enter_context(
            _process(argv, {**os.environ, "HEADSPRING_API_KEY": place.key}, folder / "shop.log")
        )
        platform, shop = Platform(place.url, place.key), Client(shop_url)
        stack.callback(platform.close)
        stack.callback(shop.close)
        screen.say(f"platform at {place.url} ({place.log}), shop at {shop_url}")
        _await_ready(platform, place.alive, "platform")
        _await_ready(shop, shop_process.poll, "shop")
        operator_key = platform.new_key(OPERATOR, "operator")
        operator = Platform(place.url, operator_key)
        stack.callback(operator.close)
        screen.say("platform and shop are up")
        yield Stand(platform=platform, operator=operator, operator_key=operator_key, shop=shop, folder=folder)


@contextmanager
def _own(folder: Path) -> Iterator[_Place]:
    """`headspring up` on free ports."""
    key = "hsk_" + secrets.token_urlsafe(32)
    port, otlp, grpc, shop_port = free_ports(4)
    headspring = Path(sys.executable).with_name("headspring")
    if not headspring.exists():
        raise ConfigError(f"{headspring} is missing; is Headspring installed in this environment?")
    env = {**os.environ, "HEADSPRING_BOOTSTRAP_KEY": key, "HEADSPRING_OPS_URL": f"http://127.0.0.1:{shop_port}"}
    ports = ["--port", str(port), "--otlp-port", str(otlp), "--grpc-port", str(grpc)]
    log = folder / "platform.log"
    with _process([str(headspring), "up", "--data", str(folder / "platform"), *ports], env, log) as process:
        yield _Place(
            url=f"http://127.0.0.1:{port}", otlp_url=f"http://127.0.0.1:{otlp}", key=key, shop_port=shop_port,
            log=f"log {log}", alive=process.poll,
        )  # fmt: skip


def _stack(file: Path) -> _Place:
    """The stack that `make stack` left running."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return _Place(
            url=found["url"], otlp_url=found["otlp"], key=found["key"], shop_port=int(found["shop_port"]),
            log=f"stack {file}", alive=lambda: None,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{file} describes no running stack ({error}); start one with `make stack`") from error


def _await_ready(client: Client, ended: Callable[[], int | None], name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        status = ended()
        if status is not None:
            raise ActionError(f"the {name} ended with {status} while starting")
        with suppress(Unavailable):
            if client.ready() if isinstance(client, Platform) else client.get("/simulate/status"):
                return
        time.sleep(0.2)
    raise NotReady(f"the {name} was not ready within {START_TIMEOUT_S:.0f} s")


@contextmanager
def _process(argv: Sequence[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, so that Ctrl-C reaches us alone; stopped gently, then for sure."""
    with log.open("ab") as out, _child(argv, env, out) as process:
        try:
            yield process
        finally:
            process.terminate()
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _child(argv: Sequence[str], env: dict[str, str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago; all differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
