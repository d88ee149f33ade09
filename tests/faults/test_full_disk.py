"""A full disk: writes are refused in words, reads go on, nothing acknowledged is lost, writing resumes by itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cramjam
import grpc
import httpx2
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.faults.disks import DISKS, Disk
from tests.faults.killable import Killable
from tests.faults.refusals import JSON, PROTOBUF, SNAPPY, export
from tests.servers.headspring import eventually
from tests.servers.process import healthy

from headspring.ingestion.wire.prompb import WriteRequest

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LEDGER = "full_disk_ledger"
LARGE = "x" * 60_000
"""A text that needs more than what is left of a last page."""


@dataclass
class Site:
    platform: Killable
    disk: Disk
    acknowledged: dict[int, float] = field(default_factory=dict)
    unanswered: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = httpx2.Client(
            headers={"authorization": f"Bearer {self.platform.asked.api_key}"}, timeout=30.0, trust_env=False
        )

    @property
    def url(self) -> str:
        return self.platform.asked.url

    def write(self) -> httpx2.Response:
        """One sample of the ledger, with a crowd of new series that takes space."""
        now_ms, value = time.time_ns() // 1_000_000, float(len(self.acknowledged) + len(self.unanswered))
        crowd = [
            {"name": f"crowd_{now_ms}_{number}", "labels": {"service": "crowd", "text": LARGE[:400]}, "value": 1}
            for number in range(20)
        ]
        ledger = {"name": LEDGER, "labels": {"service": "ledger"}, "value": value, "timestamp_ms": now_ms}
        answer = self.client.post(f"{self.url}/api/v1/metrics/write", json={"metrics": [ledger, *crowd]})
        (self.acknowledged if answer.status_code == 202 else self.unanswered)[now_ms] = value
        return answer

    def check(self) -> None:
        """Every acknowledged sample is there with its value, and none that nobody sent."""
        found = eventually(
            lambda: self.platform.asked.samples(LEDGER, seconds=600),
            lambda found: found.keys() >= self.acknowledged.keys(), seconds=60,
        )  # fmt: skip
        assert found.items() >= self.acknowledged.items()
        assert found.items() <= self.acknowledged.items() | self.unanswered.items()

    def ready(self) -> bool:
        return self.client.get(f"{self.url}/api/v1/ready").status_code == 200


@pytest.fixture(params=DISKS, ids=str)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with DISKS[request.param](tmp_path / "disk") as disk:
        platform = Killable(tmp_path, data=disk.folder / "data", settings={"host_metrics": "false"})
        platform.start()
        made = Site(platform, disk)
        try:
            for _ in range(5):
                assert made.write().status_code == 202
            made.check()
            yield made
        finally:
            made.client.close()
            platform.stop()


def _traces() -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add()
    spans.resource.attributes.add(key="service.name").value.string_value = "a"
    now_ns = time.time_ns()
    spans.scope_spans.add().spans.add(
        name=LARGE[:4000], trace_id=b"1" * 16, span_id=b"2" * 8, start_time_unix_nano=now_ns, end_time_unix_nano=now_ns
    )
    spans.scope_spans[0].spans[0].attributes.add(key="text").value.string_value = LARGE
    return request.SerializeToString()


def _logs() -> bytes:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.string_value = LARGE
    return request.SerializeToString()


def _metrics() -> bytes:
    return b"".join(export(f"crowd_{number}_{LARGE[:500]}", {time.time_ns() // 10**6: 1.0}) for number in range(100))


def _remote_write() -> bytes:
    request = WriteRequest()
    for number in range(100, 200):
        series = request.timeseries.add()
        series.labels.add(name="__name__", value=f"crowd_{number}_{LARGE[:500]}")
        series.samples.add(value=1.0, timestamp=time.time_ns() // 10**6)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


ALERT = {"labels": {"alertname": "late", "service": "a"}, "annotations": {"summary": LARGE}}
WRITES: tuple[tuple[str, dict[str, str], Any], ...] = (
    ("/v1/metrics", PROTOBUF, _metrics),
    ("/v1/logs", PROTOBUF, _logs),
    ("/v1/traces", PROTOBUF, _traces),
    ("/api/v1/write", {**PROTOBUF, **SNAPPY}, _remote_write),
    ("/api/v1/metrics/write", JSON,
     lambda: _json({"metrics": [{"name": f"crowd_{n}_{LARGE[:500]}", "value": 1} for n in range(200, 300)]})),
    ("/api/v1/logs/write", JSON, lambda: _json({"logs": [{"message": LARGE}]})),
    ("/loki/api/v1/push", JSON,
     lambda: _json({"streams": [{"stream": {"service": "a"}, "values": [[str(time.time_ns()), LARGE]]}]})),
    ("/api/v1/alerts/ingest", JSON, lambda: _json({"alerts": [ALERT]})),
    ("/api/v2/alerts", JSON, lambda: _json([ALERT])),
    ("/api/v1/alerts/ingest", JSON, lambda: _json({"neither": LARGE})),  # not even kept as a dead letter
    ("/api/v1/changes", JSON, lambda: _json({"service": "a", "kind": "deploy", "summary": LARGE})),
)  # fmt: skip
SETTINGS: tuple[tuple[str, str, object], ...] = (
    ("PUT", "/api/v1/config/detection", {"latency_ratio": 7}),
    ("PUT", "/api/v1/config/topology",
     {"edges": [{"caller": f"service:default/a{n}", "callee": "service:default/b"} for n in range(2000)]}),
    ("POST", "/api/v1/keys", {"name": "late", "role": "viewer"}),
)  # fmt: skip
READS = (
    "/api/v1/incidents", "/api/v1/alerts", "/api/v1/logs?query=x", "/api/v1/topology", "/api/v1/services",
    "/api/v1/runs", "/api/v1/runbooks", "/api/v1/audit", "/api/v1/health", "/api/v1/config/detection", "/metrics",
)  # fmt: skip


def fill(site: Site) -> None:
    """Writes on until the disk has refused twenty requests in a row, every one of them in words."""
    site.disk.fill(site.platform.process_id)
    refused = 0
    deadline = time.monotonic() + 60
    while refused < 20:
        assert time.monotonic() < deadline, "the disk is not full"
        answer = site.write()
        if answer.status_code == 202:
            refused = 0
            continue
        refused += 1
        check_refusal(site, answer)


def check_refusal(site: Site, answer: httpx2.Response) -> None:
    """503, when to come again, and what to do about it."""
    assert answer.status_code == 503, f"{answer.request.url.path} {answer.status_code} {answer.text[:500]}"
    assert int(answer.headers["retry-after"]) >= 1
    if answer.headers["content-type"] == "application/x-protobuf":
        message = Status.FromString(answer.content).message
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        message = answer.json()["detail"]
    assert "free disk space" in message, message


def check_refused(site: Site, method: str, path: str, **body: Any) -> None:
    """A database that tidies up may have freed some pages since the disk was full; then it is filled again."""
    for _ in range(10):
        site.disk.fill(site.platform.process_id)
        answer = site.client.request(method, site.url + path, **body)
        if not answer.is_success:
            break
    check_refusal(site, answer)


def check_every_way_in(site: Site) -> None:
    before = site.platform.asked.get("/api/v1/config/detection")
    for path, headers, body in WRITES:
        check_refused(site, "POST", path, content=body(), headers=headers)
    for method, path, value in SETTINGS:
        check_refused(site, method, path, json=value)
    check_grpc(site)
    assert site.platform.asked.get("/api/v1/config/detection") == before, "in force and not stored"


def check_grpc(site: Site) -> None:
    asked = site.platform.asked
    site.disk.fill(site.platform.process_id)
    with grpc.insecure_channel(asked.grpc_target) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        with pytest.raises(grpc.RpcError) as refused:
            call(_logs(), metadata=[("authorization", f"Bearer {asked.api_key}")], timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "free disk space" in refused.value.details()
    details = Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"]).details
    retry = RetryInfo()
    assert details[0].Unpack(retry)
    assert retry.retry_delay.ToSeconds() >= 1


def check_reads(site: Site) -> None:
    site.check()
    for path in READS:
        answer = site.client.get(site.url + path)
        assert answer.status_code == 200, f"{path} {answer.status_code} {answer.text[:300]}"


def check_recovery(site: Site) -> None:
    """Takes telemetry and settings again without a restart; every stage comes back."""
    eventually(lambda: site.write().status_code, lambda status: status == 202, seconds=20)
    eventually(site.ready, bool, seconds=60)
    for path, headers, body in WRITES:
        answer = site.client.post(site.url + path, content=body(), headers=headers)
        assert answer.is_success or b"neither" in body(), f"{path} {answer.status_code} {answer.text[:300]}"
    for method, path, value in SETTINGS:
        assert site.client.request(method, site.url + path, json=value).is_success
    site.check()


def check_log(site: Site) -> None:
    text = site.platform.log()
    assert not re.findall(r"Traceback|damaged|CRITICAL", text), text[-3000:]


def test_a_full_disk_refuses_in_words_keeps_what_it_took_and_goes_on_when_there_is_space(site: Site) -> None:
    for _ in range(2):  # the second time finds files that were written to between
        fill(site)
        check_every_way_in(site)
        check_reads(site)
        site.disk.free(site.platform.process_id)
        check_recovery(site)
    site.platform.stop()
    site.platform.start()
    site.check()
    check_log(site)


def test_a_platform_killed_on_a_full_disk_comes_back_with_all_it_took(site: Site) -> None:
    fill(site)
    process_id = site.platform.process_id
    site.platform.kill()
    if site.disk.says.startswith("No space"):
        check_start_without_space(site)
        site.disk.free(process_id)
    site.platform.start()
    site.check()
    check_recovery(site)
    check_log(site)


def check_start_without_space(site: Site) -> None:
    """It serves what it has, refuses writes and is not ready; or it says in one line why it does not start."""
    site.platform.launch()
    try:
        eventually(lambda: site.platform.ended or healthy(f"{site.url}/metrics"), bool, seconds=60)
        if site.platform.ended:
            assert "No space left on device" in site.platform.log().splitlines()[-1]
        else:
            check_every_way_in(site)
            check_reads(site)
    finally:
        site.platform.stop()
