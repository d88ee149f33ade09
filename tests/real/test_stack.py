"""The distributed shape as a whole: every server, every role a process, the way from a fault to its repair."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.real.migrations import killed_and_done
from tests.real.role_starts import Said, start
from tests.servers import stack
from tests.servers.headspring import Headspring, eventually, headspring

from headspring.gateway.demo.command import main
from headspring.gateway.runtime.shape import SHAPE

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


KILLS = (0, 0, 1, 1)
"""Pages after which the migration is killed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[dict[str, Any]]:
    """All servers, and the settings that lead to them; no role yet."""
    with stack.servers(folder / "servers", _say) as settings:
        yield stack.configure(folder, settings)


@pytest.fixture(scope="module")
def embedded(folder: Path) -> Headspring:
    """An installation in one process that has seen something, stopped again; `folder / "data"` is what it left."""
    with headspring(folder) as platform:

        def post(path: str, body: Any) -> Any:
            answer = httpx2.post(
                f"{platform.url}{path}", json=body, headers={"authorization": f"Bearer {platform.api_key}"},
                timeout=15.0, trust_env=False,
            )  # fmt: skip
            return answer.raise_for_status().json()

        reader = post("/api/v1/keys", {"name": "reader", "role": "viewer"})["key"]
        for moment in range(5):
            values = [
                {"name": "queue_length", "value": number / 3 + moment, "labels": {"queue": f"q{number}"}}
                for number in range(50)
            ]
            post("/api/v1/metrics/write", {"metrics": values})
        post("/api/v1/changes", {"service": "cart", "kind": "deploy", "version": "v2", "summary": "cart v2"})
        lines = [{"service": "cart", "body": f"line {number}", "severity": "ERROR"} for number in range(300)]
        post("/api/v1/logs/write", {"logs": lines})
        for status in ("firing", "resolved"):
            labels = {"alertname": "CartDown", "service": "cart", "severity": "critical"}
            post("/api/v1/alerts/ingest", {"alerts": [{"status": status, "labels": labels}]})
        ended = eventually(
            platform.incidents, lambda found: any(one["state"] == "resolved" for one in found), seconds=60
        )
        post(f"/api/v1/incidents/{ended[0]['incident_id']}/feedback", {"verdict": "nuisance", "comment": "a drill"})
        eventually(lambda: platform.logs("line"), lambda found: len(found) >= 50)
    return replace(platform, api_key=reader)  # the first key is another one at the target


@pytest.fixture(scope="module")
def moved(folder: Path, place: dict[str, Any], embedded: Headspring) -> list[dict[str, Any]]:
    """What `headspring migrate` says of each part, after it was killed several times and called again."""
    return killed_and_done(folder / "data", Path(place["config"]), folder / "migration", KILLS)


@pytest.fixture(scope="module")
def running(folder: Path, place: dict[str, Any], moved: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every role on these servers; addresses as `make stack` describes them, in a file too."""
    with stack.roles(folder, place, _say) as found:
        (folder / "stack.json").write_text(json.dumps(found))
        yield {**found, "file": folder / "stack.json"}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def ready(role: dict[str, Any]) -> dict[str, Any]:
    """What a role answers about itself."""
    answer: dict[str, Any] = httpx2.get(f"{role['health']}/readyz", timeout=10.0, trust_env=False).json()
    return answer


@pytest.fixture
def tried(place: dict[str, Any], tmp_path: Path) -> Callable[..., Said]:
    """Starts a role on the servers of `place` with some settings changed."""
    return partial(start, config=Path(place["config"]), folder=tmp_path / "role")


AWAY = (
    ("windows", {"kafka": "127.0.0.1:1"}, "Kafka"),
    ("store", {"victoria_url": "http://127.0.0.1:1"}, "VictoriaMetrics"),
    ("store", {"elasticsearch_url": "http://127.0.0.1:1"}, "Elasticsearch"),
    ("store", {"neo4j_url": "bolt://127.0.0.1:1"}, "Neo4j"),
    ("act", {"postgres_url": "postgresql://headspring@127.0.0.1:1/headspring"}, "PostgreSQL"),
)


@pytest.mark.parametrize(("role", "changes", "names"), AWAY, ids=[names for _, _, names in AWAY])
def test_a_server_that_is_not_there_is_told_in_one_line_and_waited_for(
    tried: Callable[..., Said], role: str, changes: dict[str, Any], names: str
) -> None:
    said = tried(role, **changes)
    assert said.status is None, said
    assert len(said.waits_s) >= 3
    assert said.waits_s[0] <= 2 < said.waits_s[2], "pauses grow"
    told = next(line for line in said.lines if "; next try in " in line)
    assert names.lower() in told.lower()
    assert "127.0.0.1:1" in told
    assert "check" in told or "correct" in told, told
    assert "Traceback" not in "\n".join(said.lines)


WRONG = (
    ("store", {"neo4j_password": "wr0ng"}, "neo4j", "password"),
    ("act", {"postgres_password": "wr0ng"}, "PostgreSQL", "password"),
    ("detect", {"redis_password": "wr0ng"}, "Redis", "password"),
    ("store", {"partitions": 7}, "partitions", "4"),
    ("windows", {"windows": "spark"}, "windows", "kernel or flink"),
)


@pytest.mark.parametrize(("role", "changes", "names", "advice"), WRONG, ids=[next(iter(one[1])) for one in WRONG])
def test_what_cannot_be_right_is_told_in_one_line_and_ends_the_role(
    tried: Callable[..., Said], role: str, changes: dict[str, Any], names: str, advice: str
) -> None:
    said = tried(role, **changes)
    assert said.status == 1, said
    told = [line for line in said.lines if line.startswith("headspring: ")]
    assert len(told) == 1, said
    assert names.lower() in told[0].lower()
    assert advice in told[0]
    assert "wr0ng" not in told[0]
    assert "Traceback" not in "\n".join(said.lines)


def test_a_migration_killed_four_times_has_moved_everything(moved: list[dict[str, Any]]) -> None:
    assert all(part["equal"] for part in moved), moved
    counts = {part["part"]: part["source"] for part in moved}
    assert counts["rows of keys"] == 2
    assert counts["rows of labels"] == 1
    assert counts["topic incidents"] == 1
    assert counts["documents"] >= 300 + 3
    assert counts["series"] >= 50


def test_every_role_is_ready_and_tells_its_metrics(running: dict[str, Any]) -> None:
    for shape in SHAPE:
        role = running["roles"][shape.name]
        state = eventually(lambda role=role: ready(role), lambda found: found["status"] == "ok", seconds=60)  # type: ignore[misc]
        assert {name.lower() for name in state["backends"]} >= {"kafka"}
        metrics = httpx2.get(f"{role['health']}/metrics", timeout=10.0, trust_env=False).text
        assert "headspring_ready 1" in metrics
        assert 'headspring_backend_up{backend="Kafka"} 1' in metrics
        if shape.name not in ("ingestion",):
            assert "headspring_stage_lag_records{" in metrics


def test_what_was_moved_is_there_and_the_old_key_opens_it(running: dict[str, Any], embedded: Headspring) -> None:
    new = replace(embedded, url=running["url"])
    incidents = new.incidents()
    assert [one["title"] for one in incidents if one["state"] == "resolved"] == [incidents[-1]["title"]]
    assert len(new.logs("line")) >= 50
    found = eventually(lambda: new.samples('queue_length{queue="q7"}', seconds=3600), lambda values: len(values) >= 1)
    assert max(found.values()) == pytest.approx(7 / 3 + 4)


def test_a_fault_is_found_explained_approved_and_mended_over_all_servers(
    running: dict[str, Any], tmp_path: Path
) -> None:
    assert main("payment-delay", True, False, tmp_path / "demo", 420.0, stack_file=running["file"]) == 0
    health = httpx2.get(
        f"{running['url']}/api/v1/health", headers={"authorization": f"Bearer {running['key']}"}, timeout=10.0,
        trust_env=False,
    ).json()  # fmt: skip
    assert health["status"] == "ok"
    assert health["documents"]["incidents"] >= 1
    assert all(state["up"] for state in health["backends"].values())
