"""Input that nobody should send: answered with the right status, nothing stored, nothing blown up."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import cramjam
import httpx2
import pytest

from headspring.ingestion.admit.decompress import decompress
from headspring.ingestion.admit.json_text import parse_json
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.receive.http import PATHS, intake_app
from headspring.ingestion.testing import gauge_request, make_intake
from headspring.proto.errors import ContractError, LimitExceeded

PB = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
GZ = {"content-encoding": "gzip"}
SNAPPY = {**PB, "content-encoding": "snappy"}
SMALL = Limits(max_body_bytes=100_000, max_compressed_bytes=50_000, max_alerts=3)
GOOD = gauge_request([1.0, 2.0]).SerializeToString()
DEEP = b'{"metrics":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

CASES: list[tuple[str, str, bytes, Mapping[str, str], int]] = [
    ("truncated protobuf", "/v1/metrics", GOOD[:-3], PB, 400),
    ("random protobuf", "/v1/logs", b"\xff\xfe\xfd" * 9, PB, 400),
    ("json as protobuf", "/v1/traces", b'{"resourceSpans": []}', PB, 400),
    ("protobuf as json", "/v1/metrics", GOOD, JSON, 400),
    ("no content type", "/v1/metrics", GOOD, {}, 415),
    ("form", "/v1/metrics", GOOD, {"content-type": "application/x-www-form-urlencoded"}, 415),
    ("xml webhook", "/api/v1/alerts/ingest", b"<alert/>", {"content-type": "text/xml"}, 415),
    ("unknown encoding", "/v1/metrics", GOOD, {**PB, "content-encoding": "br"}, 415),
    ("remote write without snappy", "/api/v1/write", GOOD, PB, 415),
    ("remote write 2.0", "/api/v1/write", bytes(cramjam.snappy.compress_raw(b"")),
     {**SNAPPY, "content-type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, 415),
    ("not gzip", "/v1/metrics", GOOD, {**PB, **GZ}, 400),
    ("cut gzip", "/v1/metrics", gzip.compress(GOOD)[:-9], {**PB, **GZ}, 400),
    ("framed snappy", "/api/v1/write", bytes(cramjam.snappy.compress(GOOD)), SNAPPY, 400),
    ("cut snappy", "/api/v1/write", bytes(cramjam.snappy.compress_raw(GOOD))[:-2], SNAPPY, 400),
    ("lying snappy length", "/api/v1/write", b"\xff\xff\xff\xff\x0f" + b"a" * 40, SNAPPY, 413),
    ("large body", "/v1/metrics", b"\n" * 100_001, PB, 413),
    ("gzip bomb", "/v1/metrics", gzip.compress(b"\0" * 30_000_000), {**PB, **GZ}, 413),
    ("two-member gzip bomb", "/v1/metrics", gzip.compress(b"\0" * 90_000) * 2, {**PB, **GZ}, 413),
    ("snappy bomb", "/api/v1/write", bytes(cramjam.snappy.compress_raw(b"\0" * 900_000)), SNAPPY, 413),
    ("deep json", "/api/v1/metrics/write", DEEP[:99_000], JSON, 413),
    ("quite deep json", "/api/v1/metrics/write", b'{"metrics":' + b"[" * 70 + b"]" * 70 + b"}", JSON, 413),
    ("deep otlp json", "/v1/logs", b'{"a":' * 900 + b"1" + b"}" * 900, JSON, 413),
    ("nan", "/api/v1/metrics/write", b'{"metrics":[{"name":"x","value":NaN}]}', JSON, 400),
    ("huge integer", "/api/v1/alerts/ingest", b'{"alerts":' + b"9" * 5000 + b"}", JSON, 400),
    ("invalid utf-8", "/api/v1/changes", b'{"service":"\xff"}', JSON, 400),
    ("half surrogate", "/api/v1/logs/write", b'{"logs":[{"message":"\\ud800"}]}', JSON, 400),
    ("not an object", "/v1/metrics", b"[]", JSON, 400),
    ("wrong field type", "/v1/metrics", b'{"resourceMetrics":"x"}', JSON, 400),
    ("bad hex id", "/v1/traces", b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz"}]}]}]}', JSON, 400),
    ("alerts without list", "/api/v1/alerts/ingest", b"{}", JSON, 400),
    ("alert without labels", "/api/v2/alerts", b'[{"labels":{}}]', JSON, 400),
    ("alert with bad time", "/api/v2/alerts", b'[{"labels":{"a":"b"},"startsAt":"soon"}]', JSON, 400),
    ("alert with month 13", "/api/v2/alerts", b'[{"labels":{"a":"b"},"startsAt":"2026-13-01T00:00:00Z"}]', JSON, 400),
    ("unknown status", "/api/v1/alerts/ingest", b'{"alerts":[{"labels":{"a":"b"},"status":"odd"}]}', JSON, 400),
    ("too many alerts", "/api/v2/alerts", json.dumps([{"labels": {"a": "b"}}] * 4).encode(), JSON, 413),
    ("change of nothing", "/api/v1/changes", b'{"kind":"deploy"}', JSON, 400),
    ("unknown change field", "/api/v1/changes", b'{"service":"x","approved_by":"me"}', JSON, 400),
    ("unknown change kind", "/api/v1/changes", b'{"service":"x","kind":"magic"}', JSON, 400),
    ("cloudevent without id", "/api/v1/changes", b'{"specversion":"1.0"}', JSON, 400),
    ("cdevent of a pipeline", "/api/v1/changes",
     b'{"specversion":"1.0","id":"1","source":"s","type":"dev.cdevents.pipelinerun.started.0.1.0"}', JSON, 400),
    ("loki protobuf without snappy", "/loki/api/v1/push", b"\xff" * 30, PB, 400),
    ("loki bomb", "/loki/api/v1/push", bytes(cramjam.snappy.compress_raw(b"\0" * 900_000)), PB, 413),
    ("bad content length", "/v1/metrics", b"", {**PB, "content-length": "-5"}, 400),
    ("declared too large", "/v1/metrics", b"", {**PB, "content-length": "99999999999999999999999"}, 413),
]  # fmt: skip


def client_of(limits: Limits) -> tuple[httpx2.AsyncClient, Any]:
    intake, log, _ = make_intake(limits=limits)
    app: Any = intake_app(intake, authenticate=lambda headers: "default")
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://headspring"), log


@pytest.mark.parametrize(("path", "body", "headers", "status"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
async def test_bad_input_is_refused_with_a_reason_and_stores_nothing(
    path: str, body: bytes, headers: Mapping[str, str], status: int
) -> None:
    client, log = client_of(SMALL)
    reply = await client.post(path, content=body, headers=dict(headers))
    assert reply.status_code == status, reply.text
    assert reply.content, "every error says why"
    if not path.startswith("/v1/"):
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["detail"]
    elif headers.get("content-type") in ("application/json", "application/x-protobuf"):
        assert reply.headers["content-type"] == headers["content-type"]
    assert set(log.records) <= {"dead-letter"}


async def test_other_methods_and_paths_are_refused() -> None:
    client, _ = client_of(SMALL)
    for path in PATHS:
        assert (await client.get(path)).status_code == 405
    assert (await client.post("/v1/metricsx")).status_code == 404


async def test_bombs_cost_neither_time_nor_memory() -> None:
    limits = Limits()
    bombs = [
        (gzip.compress(b"\0" * 200_000_000), "gzip"),
        (bytes(cramjam.snappy.compress_raw(b"\0" * 100_000_000)), "snappy"),
    ]
    tracemalloc.start()
    try:
        for body, encoding in bombs:
            start = time.process_time()
            with pytest.raises(LimitExceeded):
                decompress(body, encoding, limits)
            assert time.process_time() - start < 1.0
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_deep_json_is_refused_quickly() -> None:
    start = time.process_time()
    with pytest.raises(LimitExceeded):
        parse_json(DEEP, max_depth=64)
    assert time.process_time() - start < 0.5


def test_gzip_round_trips_and_any_cut_of_it_is_a_contract_error() -> None:
    data = random.Random(1).randbytes(5000)
    packed = gzip.compress(data[:2500]) + gzip.compress(data[2500:])
    assert decompress(packed, "gzip", Limits()) == data
    for size in range(0, len(packed), 97):
        try:
            assert decompress(packed[:size], "gzip", Limits()) in (data, data[:2500])
        except ContractError:
            continue
    with pytest.raises(ContractError):
        decompress(zlib.compress(data), "gzip", Limits())


async def test_bodies_in_flight_are_bounded_and_the_rest_is_asked_to_wait() -> None:
    client, log = client_of(Limits(max_in_flight_bytes=10))
    reply = await client.post("/v1/metrics", content=GOOD, headers=PB)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert not log.records
    assert (await client.post("/v1/metrics", content=b"", headers=PB)).status_code == 200


async def test_a_body_without_declared_length_is_counted_as_it_comes_and_a_dripping_one_is_cut_off() -> None:
    limits = Limits(max_in_flight_bytes=1000, max_body_s=0.05)
    client, log = client_of(limits)

    async def chunks(size: int, pause_s: float) -> AsyncIterator[bytes]:
        for start in range(0, len(GOOD), size):
            yield GOOD[start : start + size]
            await asyncio.sleep(pause_s)

    headers = {**PB, "transfer-encoding": "chunked"}
    assert (await client.post("/v1/metrics", content=chunks(50, 0), headers=headers)).status_code == 200
    assert (await client.post("/v1/metrics", content=chunks(1, 0), headers=headers)).status_code == 200
    assert len(log.records["telemetry.metrics"]) == 2


async def test_a_body_that_does_not_arrive_is_given_up_and_its_memory_is_free_again() -> None:
    limits = Limits(max_in_flight_bytes=1000, max_body_s=0.05)
    intake, _, _ = make_intake(limits=limits)
    app = intake_app(intake, authenticate=lambda headers: "default")
    sent: list[Any] = []

    async def never() -> dict[str, Any]:
        if not sent:
            sent.append(None)
            return {"type": "http.request", "body": b"x" * 600, "more_body": True}
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/metrics", "headers": []}
    await app(scope, never, send)
    assert sent[1]["status"] == 503

    async def good() -> dict[str, Any]:
        return {"type": "http.request", "body": GOOD, "more_body": False}

    del sent[:]
    await app({**scope, "headers": [(b"content-type", b"application/x-protobuf")]}, good, send)
    assert sent[0]["status"] == 200


async def test_random_bytes_are_never_a_defect_of_ours() -> None:
    client, _ = client_of(SMALL)
    rng = random.Random(7)
    for _ in range(40):
        for path in sorted(PATHS):
            body = rng.randbytes(rng.randrange(60))
            for headers in (PB, JSON, SNAPPY):
                reply = await client.post(path, content=body, headers=headers)
                assert reply.status_code in (200, 202, 204, 400, 413, 415), (path, headers, body)


async def test_random_json_shapes_are_never_a_defect_of_ours() -> None:
    client, _ = client_of(SMALL)
    rng = random.Random(8)
    names = [
        "alerts", "labels", "annotations", "startsAt", "status", "logs", "message", "attributes", "metrics", "name",
        "value", "timestamp_ms", "service", "entity", "time", "kind", "specversion", "id", "source", "type", "data",
        "subject", "content", "resourceMetrics", "resourceLogs", "resourceSpans", "scopeSpans", "spans", "traceId",
        "truncatedAlerts", "endsAt", "streams", "stream", "values", "changes", "fingerprint", "unit", "environment",
        "artifactId",
    ]  # fmt: skip
    scalars: list[Any] = [
        None,
        True,
        0,
        -1,
        10**30,
        1.5,
        1e300,
        "",
        "x",
        "service:",
        "1.0",
        "deploy",
        "resolved",
        "a\nb",
    ]
    scalars += [
        "0001-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "dev.cdevents.service.deployed.0",
    ]

    def shape(depth: int) -> Any:
        kind = rng.randrange(4) if depth < 4 else 3
        if kind < 2:
            return {rng.choice(names): shape(depth + 1) for _ in range(rng.randrange(5))}
        return [shape(depth + 1) for _ in range(rng.randrange(3))] if kind == 2 else rng.choice(scalars)

    for _ in range(400):
        body = json.dumps(shape(0)).encode()
        for path in sorted(PATHS):
            reply = await client.post(path, content=body, headers=JSON)
            assert reply.status_code in (200, 202, 204, 400, 413, 415), (path, body)
