"""Requests that must be refused: what they are, what an answer to them holds, and who watches that nobody suffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.servers.headspring import Headspring

JSON = {"content-type": "application/json"}
PROTOBUF = {"content-type": "application/x-protobuf"}
GZIP = {"content-encoding": "gzip"}
SNAPPY = {"content-encoding": "snappy"}
NOBODY: Mapping[str, str] = {"authorization": ""}
STRANGER: Mapping[str, str] = {"authorization": "Bearer hsk_nobody-has-this-key"}
MIB = 1024 * 1024
MARK = "refused_input"
"""In every name and text of the bad requests: nothing that holds it may ever be found in the platform."""
HEALTHY = "healthy_ledger"


@dataclass(frozen=True, slots=True)
class Case:
    """One bad request and its answer."""

    name: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    status: int
    words: tuple[str, ...]
    """In the message: what was found, what is wanted."""
    method: str = "POST"

    def __str__(self) -> str:
        return f"{self.path.removeprefix('/api/v1/')} {self.name}"


def reason(answer: httpx2.Response, *, sent: Mapping[str, str]) -> str:
    """The message of a refusal, whose form must be the protocol's own: google.rpc.Status or a problem document."""
    path = answer.request.url.path
    media = answer.headers["content-type"]
    if path.startswith("/v1/"):
        wanted = sent.get("content-type", "")
        assert media == (wanted if wanted in (*JSON.values(), *PROTOBUF.values()) else "application/json")
        if media == "application/x-protobuf":
            return str(Status.FromString(answer.content).message)
        return str(answer.json()["message"])
    assert media == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"]
    assert problem["title"]
    assert problem["instance"] == path[:200]
    return str(problem["detail"])


def export(name: str, values: Mapping[int, float], *, service: str = "desk") -> bytes:
    """An OTLP metrics request: one gauge with values by time in milliseconds."""
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    points = resource.scope_metrics.add().metrics.add(name=name).gauge.data_points
    for at_ms, value in values.items():
        points.add(time_unix_nano=at_ms * 1_000_000, as_double=value)
    return request.SerializeToString()


@dataclass
class Healthy:
    """Somebody who sends good samples all the while, and remembers which were acknowledged."""

    site: Headspring
    acknowledged: dict[int, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _send(self) -> None:
        headers = {**PROTOBUF, "authorization": f"Bearer {self.site.api_key}"}
        with httpx2.Client(headers=headers, timeout=20.0, trust_env=False) as client:
            while not self._stopping.wait(0.1):
                now_ms, value = time.time_ns() // 1_000_000, float(len(self.acknowledged))
                began = time.monotonic()
                answer = client.post(f"{self.site.otlp_url}/v1/metrics", content=export(HEALTHY, {now_ms: value}))
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if answer.status_code == 200:
                    self.acknowledged[now_ms] = value
                else:
                    self.refused.append(f"{answer.status_code} {answer.text[:200]}")


class Desk:
    """One client that sends cases and asks whether the platform is ready."""

    def __init__(self, site: Headspring) -> None:
        self.site = site
        self._client = httpx2.Client(
            headers={"authorization": f"Bearer {site.api_key}"}, timeout=30.0, trust_env=False
        )  # fmt: skip

    def close(self) -> None:
        self._client.close()

    def send(self, case: Case, *, base: str = "") -> httpx2.Response:
        return self._client.request(
            case.method, (base or self.site.url) + case.path, content=case.body, headers=dict(case.headers)
        )

    def get(self, path: str, headers: Mapping[str, str] | None = None, **parameters: Any) -> httpx2.Response:
        return self._client.get(self.site.url + path, params=parameters, headers=dict(headers or {}))

    def key(self, role: str) -> Mapping[str, str]:
        """Headers of a new key with a role."""
        made = self._client.post(f"{self.site.url}/api/v1/keys", json={"name": f"desk-{role}", "role": role})
        return {"authorization": f"Bearer {made.json()['key']}"}

    def stream(self, method: str, path: str, chunks: Iterable[bytes], headers: Mapping[str, str]) -> httpx2.Response:
        """A body whose length is not declared."""
        return self._client.request(method, self.site.url + path, content=chunks, headers=dict(headers))

    def sign_in(self) -> str:
        """The cookie of a new browser session."""
        form = {"key": self.site.api_key}
        answer = self._client.post(f"{self.site.url}/login", data=form, headers={"origin": self.site.url})
        return answer.headers["set-cookie"].partition(";")[0]

    def check(self, case: Case, answer: httpx2.Response) -> None:
        """The answer is the one that the case wants, and the platform goes on."""
        assert answer.status_code == case.status, answer.text[:1000]
        message = reason(answer, sent=case.headers)
        for words in case.words:
            assert words in message, f"{words!r} is not in {message!r}"
        assert self.get("/api/v1/ready").status_code == 200
