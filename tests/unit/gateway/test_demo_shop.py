"""The shop's processes and the supervisor's two APIs, as they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from headspring.gateway.demo import estate

_KEY = "hsk_a-key-for-the-demo-shop"


class Receiver:
    """A platform's front door: takes OTLP and changes, and keeps what came."""

    def __init__(self) -> None:
        self.services: Counter[tuple[str, str]] = Counter()
        self.callees: set[str] = set()
        self.changes: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.keys.add(self.headers.get("authorization"))
                outer.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/api/v1/changes":
            self.changes.append(json.loads(body))
        elif path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services["spans", _service(group.resource)] += 1
                spans = [span for scope in group.scope_spans for span in scope.spans]
                for span in spans:
                    if span.kind == Span.SPAN_KIND_CLIENT:
                        self.callees |= {a.value.string_value for a in span.attributes if a.key == "server.address"}
        elif path == "/v1/logs":
            for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
                self.services["logs", _service(logs.resource)] += 1
        elif path == "/v1/metrics":
            for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.services["metrics", _service(metrics.resource)] += 1


def _service(resource: Any) -> str:
    return next(str(item.value.string_value) for item in resource.attributes if item.key == "service.name")


class Running:
    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.receiver = receiver
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headspring.gateway.demo.supervisor", "--otlp", receiver.url, "--data", str(folder),
             "--port", "0", "--until-eof"],
            env={**os.environ, "HEADSPRING_API_KEY": _KEY}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("supervisor ready"), line
        self.http = httpx2.Client(base_url=line.split()[-1], timeout=30, trust_env=False)

    def status(self) -> dict[str, Any]:
        return dict(self.http.get("/simulate/status").json())

    def wait(self, what: Any, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.1)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    receiver = Receiver()
    running = Running(tmp_path_factory.mktemp("shop"), receiver)
    yield running
    running.process.terminate()
    running.process.wait(20)
    receiver.server.shutdown()


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "shop" in request.fixturenames:
        request.getfixturevalue("shop").http.post("/simulate/clear").raise_for_status()


def test_every_service_sends_traces_metrics_and_logs_with_the_key(shop: Running) -> None:
    wanted = {(signal_name, name) for signal_name in ("spans", "metrics", "logs") for name in estate.NAMES}
    shop.wait(lambda: set(shop.receiver.services) >= wanted)
    assert shop.receiver.keys == {f"Bearer {_KEY}"}


def test_client_spans_name_the_service_they_call(shop: Running) -> None:
    shop.wait(lambda: shop.receiver.callees >= set(estate.NAMES) - {estate.ENTRY})
    assert shop.receiver.callees == set(estate.NAMES) - {estate.ENTRY}


def test_a_healthy_shop_fails_no_customer(shop: Running) -> None:
    shop.wait(lambda: shop.status()["load"].get("sent", 0) > 30)
    assert shop.status()["faulty"] == []
    assert shop.status()["load"]["failed"] == 0


def test_a_delay_slows_customers_and_a_restart_ends_it(shop: Running) -> None:
    before = shop.http.get("/services/payment").json()
    shop.http.post("/simulate/delay", json={"service": "payment", "delay_ms": 500}).raise_for_status()
    assert shop.status()["faulty"] == ["payment"]
    shop.wait(lambda: shop.status()["load"]["recent_p95_s"] > 0.3)
    answer = shop.http.post("/services/payment/restart").json()
    assert answer["operation"] == "restart"
    after = shop.http.get("/services/payment").json()
    assert after["state"] == "running"
    assert after["pid"] != before["pid"]
    assert after["faults"] == {"delay_s": 0.0, "error_ratio": 0.0}
    assert after["uptime_s"] < before["uptime_s"] + 60


def test_a_crashed_service_stays_down_until_it_is_restarted(shop: Running) -> None:
    pid = shop.http.get("/services/inventory").json()["pid"]
    shop.http.post("/simulate/crash", json={"service": "inventory"}).raise_for_status()
    assert not psutil.pid_exists(pid)
    down = shop.http.get("/services/inventory").json()
    assert (down["state"], down["pid"]) == ("down", None)
    assert shop.http.post("/simulate/delay", json={"service": "inventory"}).status_code == 409
    shop.wait(lambda: shop.status()["load"]["recent_error_ratio"] > 0)
    assert shop.http.post("/services/inventory/restart").json()["state"] == "running"


def test_a_bad_version_is_announced_and_rolled_back_and_that_too(shop: Running) -> None:
    shop.receiver.changes.clear()
    shop.http.post("/simulate/deploy", json={"service": "checkout"}).raise_for_status()
    assert shop.status()["faulty"] == ["checkout"]
    assert shop.http.post("/services/checkout/restart").json()["version"] == estate.BAD_VERSION
    assert shop.http.post("/services/checkout/rollback").json()["version"] == estate.GOOD_VERSION
    assert shop.status()["faulty"] == []
    assert [(c["service"], c["kind"], c["version"], c["previous_version"]) for c in shop.receiver.changes] == [
        ("checkout", "deploy", estate.BAD_VERSION, estate.GOOD_VERSION),
        ("checkout", "rollback", estate.GOOD_VERSION, estate.BAD_VERSION),
    ]


def test_a_repeated_idempotency_key_has_one_effect_and_one_answer(shop: Running) -> None:
    headers = {"Idempotency-Key": "run-1/step-1"}
    first = shop.http.post("/services/catalogue/restart", headers=headers)
    second = shop.http.post("/services/catalogue/restart", headers=headers)
    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert shop.http.get("/services/catalogue").json()["pid"] == first.json()["pid"]
    assert shop.http.post("/services/payment/restart", headers=headers).status_code == 422


def test_scaling_adds_processes_on_the_same_port_and_takes_them_away(shop: Running) -> None:
    assert shop.http.post("/services/catalogue/scale", json={"replicas": 2}).json()["replicas"] == 2
    assert len(shop.http.get("/services/catalogue").json()["pids"]) == 2
    assert shop.http.post("/services/catalogue/scale", json={"replicas": 1}).json()["replicas"] == 1
    assert shop.http.post("/services/catalogue/scale", json={"replicas": 99}).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "wanted"),
    [
        ("/simulate/delay", {"service": "paymnt"}, 422, "payment"),
        ("/simulate/delay", {"service": "payment", "delay_ms": -1}, 422, "delay_ms"),
        ("/simulate/error", {"service": "payment", "ratio": 2}, 422, "ratio"),
        ("/simulate/crash", {"service": "payment", "signal": 9}, 422, "signal"),
        ("/simulate/flood", {}, 422, "delay, error, crash, deploy, clear"),
        ("/services/paymnt/restart", {}, 404, "storefront, checkout"),
        ("/services/payment/rollback", {"version": "../x"}, 422, "version"),
    ],
)
def test_what_cannot_be_done_is_answered_with_what_is_wanted(
    shop: Running, path: str, body: dict[str, Any], status: int, wanted: str
) -> None:
    answer = shop.http.post(path, json=body)
    assert answer.status_code == status
    assert wanted in answer.json()["detail"]


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    receiver = Receiver()
    running = Running(tmp_path, receiver)
    children = running.children()
    assert len(children) == len(estate.SHOP) + 1
    running.process.send_signal(signal.SIGKILL)
    running.process.wait(5)
    gone, alive = psutil.wait_procs(children, timeout=5)
    receiver.server.shutdown()
    assert not alive
    assert len(gone) == len(children)
