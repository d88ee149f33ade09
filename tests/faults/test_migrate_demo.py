"""The demo's own state, with its incident, diagnosis, run and approval, moved to the distributed shape under kills."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.real.migrations import killed_and_done
from tests.servers import stack
from tests.servers.headspring import Headspring, eventually, headspring

from headspring.gateway.demo.command import main

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

KILLS = (0, 1, 2, 3, 4, 5)
"""Pages after which each call is killed: a little more each time, within the thirty or so that a demo leaves."""


def known(platform: Headspring) -> dict[str, Any]:
    """What people see of the past: incidents with diagnosis and runs, plans with every step, audit, topology."""
    incidents = platform.incidents()
    details = [platform.get(f"/api/v1/incidents/{one['incident_id']}") for one in incidents]
    runs = platform.get("/api/v1/runs", limit="200")["items"]
    return {
        "incidents": sorted(details, key=lambda one: str(one["incident"]["incident_id"])),
        "runs": sorted(
            (platform.get(f"/api/v1/runs/{one['run_id']}") for one in runs), key=lambda one: str(one["run_id"])
        ),
        "edges": sorted(platform.edges()),
        "alerts": sorted(platform.alerts(), key=lambda one: str(one["alert_id"])),
    }


def test_what_the_demo_left_is_the_same_after_a_migration_under_kills(tmp_path: Path) -> None:
    assert main("payment-delay", True, False, tmp_path / "demo", 420.0) == 0
    (tmp_path / "demo" / "platform").rename(tmp_path / "data")
    with headspring(tmp_path) as embedded:
        before = eventually(lambda: known(embedded), lambda found: bool(found["runs"]))
    assert [run["state"] for run in before["runs"]] == ["succeeded"]

    with stack.servers(tmp_path / "servers", print) as settings:
        place = stack.configure(tmp_path, settings)
        moved = killed_and_done(tmp_path / "data", Path(place["config"]), tmp_path / "migration", KILLS)
        for part in moved:
            print(json.dumps(part))
        assert all(part["equal"] for part in moved), moved
        counts = {part["part"]: part["source"] for part in moved}
        assert counts["rows of runs"] >= 4, "the run, its decision, events and steps"
        assert counts["documents"] > 0
        assert counts["series"] > 50
        with stack.roles(tmp_path, place, print) as running:
            new = replace(embedded, url=running["url"], api_key=running["key"])
            after = eventually(lambda: known(new), lambda found: len(found["runs"]) == len(before["runs"]), seconds=60)
            assert after == before
            audit = new.get("/api/v1/audit", limit="200")
            assert audit["verdict"]["ok"], audit["verdict"]
            assert audit["verdict"]["checked"] >= counts["audit log"] > 3
