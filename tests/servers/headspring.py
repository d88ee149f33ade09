"""Headspring itself, started as its users start it."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.servers.process import free_port, running

T = TypeVar("T")
START_S = 120.0
"""First start compiles kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headspring:
    """A running platform and how to ask it."""

    url: str
    otlp_url: str
    grpc_target: str
    api_key: str

    def get(self, path: str, **parameters: str) -> Any:
        """JSON of a GET with the key."""
        return self._ask("GET", path, None, parameters)

    def post(self, path: str, body: Any) -> Any:
        """JSON of a POST with the key."""
        return self._ask("POST", path, json.dumps(body).encode(), {})

    def _ask(self, method: str, path: str, body: bytes | None, parameters: dict[str, str]) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        request = urllib.request.Request(  # noqa: S310 - an http address of ours
            f"{self.url}{path}{query}", data=body, method=method,
            headers={"authorization": f"Bearer {self.api_key}", "content-type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path} answered {error.code}: {error.read()[:500]!r}") from error
        return json.loads(text) if text else None


@contextmanager
def headspring(folder: Path) -> Iterator[Headspring]:
    """`headspring up` on free ports with a key of its own."""
    key = "hsk_" + secrets.token_urlsafe(32)
    port, otlp, grpc = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [
        str(Path(sys.executable).with_name("headspring")), "up", "--data", str(folder / "data"), "--port", str(port),
        "--otlp-port", str(otlp), "--grpc-port", str(grpc),
    ]  # fmt: skip
    env = {"HEADSPRING_BOOTSTRAP_KEY": key}
    with running(argv, health=f"{url}/api/v1/ready", log=folder / "headspring.log", env=env, timeout_s=START_S):
        yield Headspring(url=url, otlp_url=f"http://127.0.0.1:{otlp}", grpc_target=f"127.0.0.1:{grpc}", api_key=key)


def eventually(ask: Callable[[], T], holds: Callable[[T], bool], *, seconds: float = 20.0) -> T:
    """What `ask` answers once `holds` it; fails with the last answer when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if holds(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s; the last answer was {str(answer)[:2000]}")
        time.sleep(0.2)
