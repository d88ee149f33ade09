"""Roles at servers that are too old or allow too little: `headspring run ROLE` says so in one line, and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from tests.real.role_starts import Said, start
from tests.servers import stack
from tests.servers.door import Answer, Request, door
from tests.servers.headspring import eventually
from tests.servers.kafka import ADMIN, Kafka, kafka
from tests.servers.kafka_old import old_kafka
from tests.servers.process import free_port, running
from tests.servers.victoria import victoria

from headspring.gateway.runtime.shape import BY_NAME
from headspring.proto.topics import DEAD_LETTER

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

USER = ("headspring", "right-password")
SIGN_IN = {"kafka_security": "SASL_PLAINTEXT", "kafka_mechanism": "PLAIN", "kafka_user": USER[0]}
OPEN = {"replication": 1, "partitions": 1}


def ended(said: Said) -> str:
    """The line that a role ended with."""
    assert said.status == 1, said
    told = [line for line in said.lines if line.startswith("headspring: ")]
    assert len(told) == 1, said
    assert len(told[0]) < 1000
    assert not said.waits_s, "it tried again what only a person can put right"
    text = "\n".join(said.lines)
    assert "Traceback" not in text
    assert USER[1] not in text
    return told[0]


@pytest.mark.parametrize("role", ["windows", "store"])
def test_a_kafka_that_is_too_old_ends_a_role_with_what_was_found_and_wanted(tmp_path: Path, role: str) -> None:
    with old_kafka(tmp_path) as servers:
        place = stack.configure(tmp_path, {"kafka": servers, **OPEN})
        line = ended(start(role, Path(place["config"]), tmp_path / "role"))
    assert f"the Kafka at {servers} is too old (" in line
    assert line.endswith("wanted Kafka 2.8 or newer: upgrade it")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Users sign in, and may do what rules allow."""
    with kafka(tmp_path_factory.mktemp("guarded"), users=dict([USER])) as started:
        yield started


@pytest.fixture(scope="module")
def admin(guarded: Kafka) -> AdminClient:
    name, password = ADMIN
    return AdminClient(
        {"bootstrap.servers": guarded.servers, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
         "sasl.username": name, "sasl.password": password}
    )  # fmt: skip


def allow(admin: AdminClient, kind: ResourceType, name: str, *operations: AclOperation) -> None:
    rules = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, f"User:{USER[0]}", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for made in admin.create_acls(rules).values():
        made.result(10)


def test_permissions_that_are_missing_are_named_all_at_once_and_the_role_ends(
    guarded: Kafka, admin: AdminClient, tmp_path: Path
) -> None:
    """As it goes for who sets up rules: first nothing is allowed, then one topic is forgotten, then the groups."""
    prefix = "ours."
    place = stack.configure(
        tmp_path, {"kafka": guarded.servers, "kafka_prefix": prefix, "kafka_password": USER[1], **SIGN_IN, **OPEN}
    )
    config = Path(place["config"])
    shape = BY_NAME["windows"]

    line = ended(start("windows", config, tmp_path / "nothing"))
    assert f"User:{USER[0]} lacks permissions at Kafka {guarded.servers}: " in line
    for topic in (*shape.reads, *shape.writes, DEAD_LETTER):
        assert f" on topic {prefix}{topic.name} (or Create, if it is not there)" in line
    assert f"kafka-acls --add --allow-principal User:{USER[0]}" in line

    for operation in (AclOperation.CREATE, AclOperation.DESCRIBE_CONFIGS, AclOperation.DESCRIBE, AclOperation.READ):
        allow(admin, ResourceType.TOPIC, prefix, operation)
    written = [topic.name for topic in (*shape.writes, DEAD_LETTER)]
    for name in (*written[1:], "headspring.state"):
        allow(admin, ResourceType.TOPIC, prefix + name, AclOperation.WRITE)
    line = ended(start("windows", config, tmp_path / "one"))
    assert f"lacks permissions at Kafka {guarded.servers}: Write on topic {prefix}{written[0]}; allow them" in line

    allow(admin, ResourceType.TOPIC, prefix, AclOperation.WRITE)
    _without_groups(guarded.servers, config, tmp_path)
    allow(admin, ResourceType.GROUP, prefix, AclOperation.READ)
    said = start("windows", config, tmp_path / "all")
    assert said.status is None, said
    assert "windows: running" in said.lines


def _without_groups(servers: str, config: Path, folder: Path) -> None:
    """Which groups there are is found out by joining them, so the role runs, and says what it waits for."""
    health, log = free_port(), folder / "groups.log"
    argv = [
        str(Path(sys.executable).with_name("headspring")), "run", "windows", "--config", str(config),
        "--data", str(folder / "data"), "--health-port", str(health),
    ]  # fmt: skip
    with running(argv, health=lambda: "windows: running" in log.read_text(), log=log, timeout_s=120.0):
        state = eventually(
            lambda: httpx2.get(f"http://127.0.0.1:{health}/readyz", timeout=10.0, trust_env=False).json(),
            lambda found: found["status"] == "degraded", seconds=60,
        )  # fmt: skip
    for stage in ("streaming.windows", "streaming.span-metrics"):
        told = f"lacks permissions at Kafka {servers}: Read on group ours.{stage} and on topic ours.telemetry."
        assert told in state["stages"][stage]["last_error"]
        assert [told in line and f"stage={stage} " in line for line in log.read_text().splitlines()].count(True) == 1
    assert "Traceback" not in log.read_text()


def test_a_password_that_is_wrong_ends_the_role_and_is_not_repeated(guarded: Kafka, tmp_path: Path) -> None:
    place = stack.configure(tmp_path, {"kafka": guarded.servers, "kafka_password": "wr0ng-one", **SIGN_IN, **OPEN})
    line = ended(start("windows", Path(place["config"]), tmp_path / "role"))
    assert f"does not let kafka.username '{USER[0]}' in by PLAIN" in line
    assert "correct kafka.username, kafka.password or kafka.sasl_mechanism" in line
    assert "wr0ng-one" not in line


def _old_elasticsearch(request: Request) -> Answer:
    """Stands for a server of the line before: there is none to be had from a package registry."""
    body = {"version": {"number": "7.17.28"}, "tagline": "You Know, for Search"}
    return Answer(200, body, {"X-Elastic-Product": "Elasticsearch"})


def _old_victoria(request: Request) -> Answer:
    """Stands for a server of 2021."""
    text = b'vm_app_version{version="victoria-metrics-20210201-tags-v1.53.1-0-g1", short_version="v1.53.1"} 1\n'
    return Answer(200, text if request.path == "/metrics" else b"", {"content-type": "text/plain"})


@pytest.mark.parametrize(
    ("stands_for", "setting", "found", "wanted"),
    [
        (_old_elasticsearch, "elasticsearch_url", "Elasticsearch 7.17.28 answers", "wanted version 8"),
        (_old_victoria, "victoria_url", "is version 1.53.1", "wanted 1.79 or newer: upgrade it"),
    ],
    ids=["Elasticsearch", "VictoriaMetrics"],
)
def test_a_store_that_is_too_old_ends_the_role_that_needs_it(
    guarded: Kafka, tmp_path: Path, stands_for: Callable[[Request], Answer], setting: str, found: str, wanted: str
) -> None:
    name, password = ADMIN
    with victoria(tmp_path) as series, door(stands_for) as url:
        settings: dict[str, Any] = {
            "kafka": guarded.servers, "kafka_prefix": "theirs-", **SIGN_IN, "kafka_user": name,
            "kafka_password": password, "victoria_url": series.url, **OPEN, setting: url,
        }  # fmt: skip
        place = stack.configure(tmp_path, settings)
        line = ended(start("store", Path(place["config"]), tmp_path / "role"))
    assert url in line
    assert found in line
    assert wanted in line
