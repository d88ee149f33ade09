"""Bad input of every kind to a running platform: a clear refusal, and nothing else is disturbed.

While all of it goes on, somebody sends good samples; at the end every one of them is there, nothing of the
bad input is, and the platform's log holds no stack trace.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
import pytest
from google.rpc.status_pb2 import Status
from tests.faults import api_cases, intake_cases
from tests.faults.killable import Killable
from tests.faults.refusals import (
    HEALTHY,
    JSON,
    MARK,
    MIB,
    NOBODY,
    PROTOBUF,
    Case,
    Desk,
    Healthy,
    export,
    reason,
)
from tests.servers.headspring import eventually

FORM = {"content-type": "application/x-www-form-urlencoded"}
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@dataclass
class Site:
    platform: Killable
    desk: Desk
    healthy: Healthy
    roles: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    platform = Killable(tmp_path_factory.mktemp("headspring"), settings={"host_metrics": "false"})
    platform.start()
    try:
        desk = Desk(platform.asked)
        roles = {role: dict(desk.key(role)) for role in ("ingest", "viewer", "operator")}
        healthy = Healthy(platform.asked)
        yield Site(platform, desk, healthy, roles)
        healthy.stop()
        desk.close()
    finally:
        platform.stop()


# -- telemetry


@pytest.mark.parametrize("case", intake_cases.CASES, ids=str)
def test_telemetry_that_cannot_be_read_is_refused_in_words(site: Site, case: Case) -> None:
    site.desk.check(case, site.desk.send(case, base=site.platform.asked.otlp_url))


@pytest.mark.parametrize("path", intake_cases.ROUTES)
def test_the_gateways_own_port_refuses_in_the_same_words(site: Site, path: str) -> None:
    for case in (one for one in intake_cases.CASES if one.path == path and one.status != 413):
        answers = [site.desk.send(case, base=base) for base in (site.platform.asked.url, site.platform.asked.otlp_url)]
        assert answers[0].status_code == answers[1].status_code == case.status
        assert answers[0].content == answers[1].content


@pytest.mark.parametrize(
    ("path", "body", "accepted", "words"),
    [
        ("/api/v1/metrics/write", {"metrics": [{"name": HEALTHY + "_too", "value": 1}, {"name": MARK, "value": "x"}]},
         1, f"1: value of {MARK} is not a number"),
        ("/api/v1/metrics/write", {"metrics": [{"name": MARK, "value": 1, "kind": "odd"}]}, 0, "is not one of gauge"),
        ("/api/v1/metrics/write", {"metrics": [{"name": MARK, "value": 1, "timestamp_ms": 7}]}, 0, "1: "),
        ("/api/v1/metrics/write", {"metrics": [{"name": MARK, "value": 10**400}]}, 0, "is not finite"),
        ("/api/v1/metrics/write", {"metrics": [{"name": MARK, "value": 1, "labels": {"a": "x" * 5000}}]}, 0, "1: "),
        ("/api/v1/logs/write", {"logs": [{"message": 7, "service": MARK}, MARK]}, 0, "needs a text in `message`"),
    ],
)  # fmt: skip
def test_of_many_the_good_ones_are_taken_and_the_bad_ones_are_counted(
    site: Site, path: str, body: object, accepted: int, words: str
) -> None:
    case = Case("", path, json.dumps(body).encode(), JSON, 202, ())
    answer = site.desk.send(case)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == accepted
    assert answer.json()["rejected"] >= 1
    assert words in answer.json()["message"]


_EXPORT = "/opentelemetry.proto.collector.{}.v1.{}Service/Export"
SERVICES = {"metrics": "Metrics", "logs": "Logs", "trace": "Trace"}


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(
    ("name", "body", "key", "compression", "code", "words"),
    [
        ("cut", intake_cases.GOOD[:-3], True, None, grpc.StatusCode.INVALID_ARGUMENT, "are not an OTLP"),
        ("noise", b"\xff\xfe\xfd" * 9, True, None, grpc.StatusCode.INVALID_ARGUMENT, "27 bytes are not"),
        ("too large", b"\0" * (20 * MIB + 1), True, None, grpc.StatusCode.RESOURCE_EXHAUSTED, "20971521 vs. 20971520"),
        (
            "bomb",
            b"\0" * (200 * MIB),
            True,
            grpc.Compression.Gzip,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "larger than max",
        ),
        ("no key", b"", False, None, grpc.StatusCode.UNAUTHENTICATED, "no API key"),
        ("wrong key", b"", None, None, grpc.StatusCode.UNAUTHENTICATED, "not known here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_grpc_answers_with_the_code_and_the_reason(
    site: Site, kind: str, name: str, body: bytes, key: bool | None, compression: grpc.Compression | None,
    code: grpc.StatusCode, words: str,
) -> None:  # fmt: skip
    asked = site.platform.asked
    headers = {True: [("authorization", f"Bearer {asked.api_key}")], False: [], None: [("x-api-key", "hsk_nobody")]}
    with grpc.insecure_channel(asked.grpc_target, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(_EXPORT.format(kind, SERVICES[kind]))
        with pytest.raises(grpc.RpcError) as refused:
            call(body, metadata=headers[key], timeout=30, compression=compression)
    assert refused.value.code() == code
    assert words in refused.value.details()
    details = dict(refused.value.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is not None:  # the library itself refuses what is too large
        assert Status.FromString(details).message == refused.value.details()


# -- the API


@pytest.mark.parametrize("case", api_cases.CASES, ids=str)
def test_a_body_that_the_api_cannot_take_is_refused_in_words(site: Site, case: Case) -> None:
    before = site.desk.get(api_cases.DETECTION).json()
    site.desk.check(case, site.desk.send(case))
    assert site.desk.get(api_cases.DETECTION).json() == before


@pytest.mark.parametrize("ask", api_cases.ASKS, ids=str)
def test_a_question_that_has_no_answer_is_refused_in_words(site: Site, ask: api_cases.Ask) -> None:
    answer = site.desk.get(ask.path, headers=ask.headers, **ask.parameters)
    case = Case(ask.name, ask.path, b"", {}, ask.status, ask.words)
    site.desk.check(case, answer)


@pytest.mark.parametrize(("method", "path", "role", "wanted"), api_cases.ROLES)
def test_a_role_may_do_no_more_than_its_own(site: Site, method: str, path: str, role: str, wanted: str) -> None:
    good = api_cases.GOOD_BODIES.get(path) if method != "GET" else None
    body = b"" if good is None else json.dumps(good).encode()
    headers = {**JSON, **api_cases.ONCE, **site.roles[role]}
    case = Case(role, path, body, headers, 403, (f"desk-{role} has the role {role}", f"needs {wanted}"), method)
    site.desk.check(case, site.desk.send(case))


def test_a_body_of_undeclared_length_is_cut_at_the_same_limit(site: Site) -> None:
    chunks = (b" " * MIB for _ in range(9))
    answer = site.desk.stream("PUT", api_cases.TOPOLOGY, chunks, JSON)
    assert answer.status_code == 413
    assert "larger than 8388608 bytes" in reason(answer, sent=JSON)


RAW: tuple[tuple[str, str, str, bytes, int], ...] = (
    ("an event id that is no number", "GET", "/api/v1/events", b"last-event-id: \xb2\r\nx-stop: 1", 200),
    ("a length below zero", "PUT", api_cases.TOPOLOGY, b"content-length: -5", 400),
    ("a length of 30 digits", "PUT", api_cases.TOPOLOGY, b"content-length: " + b"9" * 30, 400),
    ("two lengths", "PUT", api_cases.TOPOLOGY, b"content-length: 2\r\ncontent-length: 3", 400),
    ("a version that is no text", "PUT", api_cases.DETECTION, b"if-match: \xff\r\ncontent-length: 0", 422),
    ("a session that is none", "POST", api_cases.APPROVE, b"cookie: headspring_session=\xff\r\ncontent-length: 0", 401),
    ("a key that is no text", "GET", "/api/v1/incidents", b"x-api-key: \xff\xfe", 401),
    ("a line that is no header", "GET", "/api/v1/incidents", b"\x00\x01\x02", 400),
)


@pytest.mark.parametrize(("name", "method", "path", "header", "status"), RAW, ids=[one[0] for one in RAW])
def test_headers_that_no_client_library_would_send(
    site: Site, name: str, method: str, path: str, header: bytes, status: int
) -> None:
    assert raw(site, method, path, header, key=not header.startswith((b"cookie", b"x-api-key"))) == status
    assert site.desk.get("/api/v1/ready").status_code == 200


def test_a_token_of_a_session_may_be_any_bytes(site: Site) -> None:
    signed_in = site.desk.sign_in()
    header = f"cookie: {signed_in}\r\nx-csrf-token: ".encode() + b"\xff\xfe\r\ncontent-length: 0"
    assert raw(site, "POST", api_cases.APPROVE, header, key=False) == 403


def raw(site: Site, method: str, path: str, header: bytes, *, key: bool) -> int:
    """Status of a request written by hand."""
    address = urlsplit(site.platform.asked.url)
    own = f"authorization: Bearer {site.platform.asked.api_key}\r\n".encode() if key else b""
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as link:
        link.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode() + own + header + b"\r\n\r\n")
        return int(link.recv(65536).split(b" ", 2)[1])


@pytest.mark.parametrize("port", ["url", "otlp_url"])
def test_noise_on_a_port_is_answered_and_forgotten(site: Site, port: str) -> None:
    address = urlsplit(getattr(site.platform.asked, port))
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as link:
        link.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert link.recv(65536).split(b" ", 2)[1] == b"400"
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as link:
        link.sendall(b"POST /v1/metrics HTTP/1.1\r\ncontent-length: 100\r\n\r\nhalf")  # and goes away
    assert site.desk.get("/api/v1/ready").status_code == 200


# -- pages


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("GET", f"/{MARK}", b"", {}, 404, f"There is no page /{MARK}."),
        ("GET", f"/incidents/{MARK}/{MARK}", b"", {}, 404, "There is no page"),
        ("GET", "/<script>alert(1)</script>", b"", {}, 404, "&lt;script&gt;"),
        ("GET", f"/static/{MARK}.css", b"", {}, 404, "There is no page"),
        ("GET", f"/incidents/{MARK}", b"", {}, 404, f"there is no incident {MARK}"),
        ("GET", "/query?query=up%7B", b"", {}, 422, "not PromQL"),
        ("GET", "/query?start=soon", b"", {}, 422, "start"),
        ("DELETE", "/incidents", b"", {}, 405, "DELETE is not allowed"),
        ("POST", "/login", b"key=hsk_nobody", FORM, 403, "not sent"),
        ("POST", "/login", b"--x\r\nnot a form", {"content-type": "multipart/form-data; boundary=x"}, 400, ""),
        ("POST", "/login", b"key=" + b"x" * (9 * MIB), FORM, 413, ""),
    ],
)  # fmt: skip
def test_a_browser_gets_a_page_for_what_is_wrong(
    site: Site, method: str, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    session = {"cookie": site.desk.sign_in(), "accept": "text/html", **NOBODY}
    answer = site.desk.send(Case("", path, body, {**session, **headers}, status, (), method))
    assert answer.status_code == status
    if len(body) < MIB:  # a declared length over the limit is answered before anybody looks who asks
        assert answer.headers["content-type"].startswith("text/html")
        assert words in answer.text
        assert '<link rel="stylesheet"' in answer.text
        assert "<script>alert" not in answer.text


def test_a_program_gets_a_problem_document_for_an_unknown_address(site: Site) -> None:
    for path, accept in ((f"/{MARK}", "*/*"), (f"/api/v1/{MARK}", "text/html"), (f"/v1/{MARK}", "text/html")):
        answer = site.desk.get(path, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert path in answer.json()["detail"]


# -- and nothing else is disturbed: last, because it looks back at all of the above


def test_nothing_else_was_disturbed(site: Site) -> None:
    asked = site.platform.asked
    at_ms = time.time_ns() // 1_000_000
    good = Case("", "/v1/metrics", export("afterwards", {at_ms: 7.0}), PROTOBUF, 200, ())
    assert site.desk.send(good, base=asked.otlp_url).status_code == 200
    assert eventually(lambda: asked.samples("afterwards", seconds=600), bool) == {at_ms: 7.0}
    site.healthy.stop()
    sent = site.healthy.acknowledged
    assert not site.healthy.refused
    found = eventually(lambda: asked.samples(HEALTHY, seconds=1200), lambda found: found.keys() >= sent.keys())
    assert found == sent
    assert site.healthy.slowest_s < 5.0, "a good sample waited for a bad one"
    assert asked.series(f'{{__name__=~".*{MARK}.*"}}') == []
    assert asked.logs(MARK) == []
    assert not [alert for alert in asked.alerts() if MARK in alert["name"]]
    assert not [edge for edge in asked.edges() if MARK in str(edge)]
    assert asked.incidents() == []
    assert {one["name"] for one in asked.get("/api/v1/keys")["items"]} == {
        "bootstrap", "desk-ingest", "desk-viewer", "desk-operator",
    }  # fmt: skip
    health = asked.get("/api/v1/health")
    assert health["status"] == "ok"
    assert {name: state["last_error"] for name, state in health["stages"].items() if state["errors"]} == {}
    assert not re.findall(r"Traceback|ERROR|CRITICAL", site.platform.log()), site.platform.log()[-3000:]
