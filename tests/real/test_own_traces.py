"""Headspring's own traces: a sender's trace goes on through the intake and the stages that its telemetry passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.faults.killable import Killable
from tests.servers.headspring import eventually

pytestmark = pytest.mark.real

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Keeps the spans of what is posted to it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = [
                        one.value.string_value for one in of_service.resource.attributes if one.key == "service.name"
                    ]
                    for scope in of_service.scope_spans:
                        collector.spans += [(names[0], span) for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Span]:
        return [span for _, span in list(self.spans) if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def test_a_senders_trace_goes_on_through_intake_and_stages(collector: Collector, tmp_path: Path) -> None:
    platform = Killable(tmp_path, settings={"traces_url": collector.url, "traces_share": "0"})
    try:
        platform.start()
        request = ExportMetricsServiceRequest()
        metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="orders")
        metric.gauge.data_points.add(time_unix_nano=time.time_ns(), as_double=1.0)
        site = platform.asked
        headers = {"authorization": f"Bearer {site.api_key}", "content-type": "application/x-protobuf"}
        for context in ({"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}, {}):  # the second is of no trace
            answer = httpx2.post(
                f"{site.otlp_url}/v1/metrics", content=request.SerializeToString(), headers={**headers, **context},
                trust_env=False,
            )  # fmt: skip
            assert answer.status_code == 200
        server = eventually(lambda: collector.named("POST /v1/metrics"), lambda found: len(found) > 0)
        stages = eventually(lambda: collector.named("process telemetry.metrics"), lambda found: len(found) > 0)
    finally:
        platform.stop()
    assert {name for name, _ in collector.spans} == {"headspring"}
    assert [span.trace_id.hex() for span in server] == [TRACE_ID]
    attributes = {one.key: one.value for one in server[0].attributes}
    assert attributes["http.response.status_code"].int_value == 200
    linked = {(link.trace_id, link.span_id) for span in stages for link in span.links}
    assert linked == {(server[0].trace_id, server[0].span_id)}
