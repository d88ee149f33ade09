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
import httpx2
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.faults.disks import DISKS, Disk
from tests.faults.killable import Killable
from tests.faults.refusals import JSON, PROTOBUF, SNAPPY, export
from tests.servers.headspring import eventually

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
    """A WriteRequest of a hundred series, spelled in protobuf's bytes; names of 500 letters."""

    def part(number: int, data: bytes) -> bytes:
        size, head = len(data), b""
        while size > 0x7F:
            head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + head + bytes([size]) + data

    now_ms = time.time_ns() // 10**6
    stamp = b""
    while now_ms > 0x7F:
        stamp, now_ms = stamp + bytes([now_ms & 0x7F | 0x80]), now_ms >> 7
    sample = part(2, b"\x09" + b"\0" * 6 + b"\xf0\x3f" + b"\x10" + stamp + bytes([now_ms]))
    series = [
        part(1, part(1, part(1, b"__name__") + part(2, f"crowd_{number}_{LARGE[:500]}".encode())) + sample)
        for number in range(100, 200)
    ]
    return bytes(cramjam.snappy.compress_raw(b"".join(series)))
