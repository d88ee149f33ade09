"""What must hold after faults, of what was acknowledged: samples, alerts, approvals."""

from __future__ import annotations

from collections.abc import Collection

from tests.faults.load import SAMPLES, Load
from tests.servers.headspring import Headspring, eventually


def check_audit(asked: Headspring, approved: Collection[str]) -> None:
    found: set[tuple[str, str]] = set()
    cursor = ""
    while True:
        page = asked.get("/api/v1/audit", limit="200", cursor=cursor)
        assert page["verdict"]["ok"], page["verdict"]
        found |= {(entry["action"], entry["subject"]) for entry in page["items"]}
        cursor = page["next_cursor"]
        if not cursor:
            break
    for run_id in approved:
        assert {("run.approved", run_id), ("run.succeeded", run_id)} <= found


def check_samples(asked: Headspring, load: Load, *, seconds: int) -> None:
    for service, taken in load.sent.samples.items():
        found = eventually(
            lambda service=service: asked.samples(f'{SAMPLES}{{service="{service}"}}', seconds=seconds),  # type: ignore[misc]
            lambda found, taken=taken: found.keys() >= taken.keys(), seconds=30,  # type: ignore[misc]
        )  # fmt: skip
        assert len(taken) > 1000
        assert found.items() >= taken.items(), "a sample is lost or has another value"
        assert found.items() <= taken.items() | load.sent.unanswered[service].items(), "a sample that nobody sent"


def check_alerts(asked: Headspring, load: Load) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    cursor = ""
    while True:
        page = asked.get("/api/v1/alerts", limit="200", cursor=cursor)
        for alert in page["items"]:
            found.setdefault(alert["name"], []).append((alert["summary"], alert["entity"]))
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert len(load.sent.alerts) > 100
    for name, (summary, service) in load.sent.alerts.items():
        assert found.get(name) == [(summary, f"service:default/{service}")], "an alert is lost, changed or twice"
