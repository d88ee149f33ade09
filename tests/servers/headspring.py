"""Headspring itself, started as its users start it."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
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
        answer = httpx2.get(
            f"{self.url}{path}", params=parameters, headers={"authorization": f"Bearer {self.api_key}"}, timeout=15.0,
            trust_env=False,
        )  # fmt: skip
        assert answer.is_success, f"GET {path} {parameters} answered {answer.status_code}: {answer.text[:500]}"
        return answer.json()

    def series(self, query: str) -> list[dict[str, Any]]:
        """Series of an instant query, each as `labels` and `value`."""
        result = self.get("/api/v1/metrics/query", query=query)["data"]["result"]
        return [{"labels": item["metric"], "value": float(item["value"][1])} for item in result]

    def samples(self, selector: str, *, seconds: int) -> dict[int, float]:
        """Raw samples of the one series that a selector names, by time in milliseconds; empty when there is none."""
        result = self.get("/api/v1/metrics/query", query=f"{selector}[{seconds}s]")["data"]["result"]
        assert len(result) <= 1, f"{selector} names {len(result)} series"
        return {round(float(time) * 1000): float(value) for item in result for time, value in item["values"]}

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts, newest first."""
        return list(self.get("/api/v1/alerts", limit="200")["items"])

    def incidents(self) -> list[dict[str, Any]]:
        """Incidents, newest first."""
        return list(self.get("/api/v1/incidents", limit="200")["items"])

    def logs(self, text: str) -> list[dict[str, Any]]:
        """Log records that hold a text, each with its entity."""
        return [{"entity": hit["entity"], **hit["record"]} for hit in self.get("/api/v1/logs", query=text)["items"]]

    def edges(self) -> set[tuple[str, str]]:
        """Calls of the topology, (caller, callee)."""
        return {(edge["caller"], edge["callee"]) for edge in self.get("/api/v1/topology")["edges"]}


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
