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
from pathlib import Path
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
