"""`kill -9` of the whole platform, over and over under load: what it acknowledged is there, nothing is done twice."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.faults.chains import Chain
from tests.faults.checks import check_alerts, check_audit, check_samples
from tests.faults.desks import RUNBOOK_SETTINGS, WAITING, Desks, People
from tests.faults.killable import Killable
from tests.faults.load import Load
from tests.faults.operations import Operations
from tests.servers.headspring import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

KILLS = 20
STEP_S = 0.8
"""How long an operation takes: long enough to be killed in."""
HELD = 3
"""Runs that nobody decides about."""


@dataclass
class Site:
    """One installation over its lives, and all who use it."""

    platform: Killable
    load: Load
    desks: Desks
    people: People
    operations: Operations
    chance: random.Random
    starts_s: list[float] = field(default_factory=list)
    while_acting: int = 0
    while_waiting: int = 0
    while_starting: int = 0

    def kill(self) -> None:
        self.platform.kill()
        self.while_acting += self.operations.killed()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # shown with a failure, to have the same moments again
    desks: list[Desks] = []
    operations = Operations(delay_s=STEP_S, restarted=lambda service: desks[0].restarted(service))
    platform = Killable(
        tmp_path, settings={"ops_url": operations.url, "runbook_settings": RUNBOOK_SETTINGS, "host_metrics": "false"}
    )
    desks.append(Desks(platform.asked, every_s=2.5))
    chains = [Chain((f"front-{name}", f"middle-{name}", f"back-{name}"), per_s=8.0) for name in "abcd"]
    load = Load(platform.asked, chains=chains)
    people = People(platform.asked, held=HELD)
    yield Site(platform, load, desks[0], people, operations, random.Random(seed))
    load.stop()
    desks[0].stop()
    platform.stop()
    operations.close()


def test_what_was_acknowledged_survives_twenty_kills_and_no_step_is_done_twice(site: Site) -> None:
    began = time.time()
    site.platform.start()
    site.people.join()
    site.load.start()
    site.desks.start()
    while len(site.people.digests) <= HELD:
        assert time.time() - began < 60, f"no runs to begin with: {site.people.put_off}"
        use(site)
        time.sleep(0.5)
    for _ in range(KILLS):
        one_life(site)
        if site.chance.random() < 0.2:  # and once more, before it is ready
            site.platform.launch()
            time.sleep(site.chance.uniform(0.2, 3.0))
            site.kill()
            site.while_starting += 1
        site.starts_s.append(site.platform.start())
        site.people.look(site.operations)
    site.load.stop()
    site.desks.no_more()
    assert not site.load.sent.refused
    check_samples(site.platform.asked, site.load, seconds=round(time.time() - began) + 60)
    check_alerts(site.platform.asked, site.load)
    runs = eventually(
        lambda: site.people.look(site.operations),
        lambda found: all(found[run]["state"] == "succeeded" for run in site.people.approved), seconds=60,
    )  # fmt: skip
    check_audit(site.platform.asked, site.people.approved)
    check_runs(site, runs)
    print(report(site, time.time() - began))


def one_life(site: Site) -> None:
    """Uses the platform until it is killed, at a moment that has nothing to do with what is being done."""
    dead = threading.Event()

    def kill() -> None:
        site.kill()
        dead.set()

    site.while_waiting += bool(site.people.kept())
    timer = threading.Timer(site.chance.uniform(0.5, 4.0), kill)
    timer.start()
    try:
        while not dead.wait(site.chance.uniform(0.0, 0.8)):
            with contextlib.suppress(httpx2.HTTPError):
                use(site)
    finally:
        timer.join()


def use(site: Site) -> None:
    """Asks for a run where one is missing, approves one that waits, looks at all of them."""
    for service in site.desks.told():
        if service not in site.people.asked:
            site.people.ask(service)
            break
    undecided = site.people.undecided()
    if undecided:
        site.people.approve(undecided[0])
    site.people.look(site.operations)


def check_runs(site: Site, runs: dict[str, dict[str, Any]]) -> None:
    people, operations = site.people, site.operations
    assert len(people.approved) >= KILLS // 4  # a slow machine is mostly busy with starting
    assert site.while_acting >= KILLS // 5
    assert site.while_waiting == KILLS
    assert [runs[run]["state"] for run in people.kept()] == [WAITING] * HELD
    steps = {f"{run}/{step['step_id']}" for run in people.approved for step in runs[run]["plan"]["steps"]}
    assert set(operations.requests) == steps, "a step is missing, or something was done that nobody approved"
    assert max(operations.effects.values()) == 1, "one step had two keys"
    for key, count in operations.requests.items():
        assert count <= 1 + operations.interruptions[key], f"{key} was requested {count} times"
        assert count == people.done[key], f"{key} was requested again after it was done"


def report(site: Site, seconds: float) -> str:
    people, operations = site.people, site.operations
    samples = sum(map(len, site.load.sent.samples.values()))
    return (
        f"{KILLS} kills and {site.while_starting} more while starting, in {seconds:.0f} s: {samples} samples, "
        f"{len(site.load.sent.alerts)} alerts, {len(people.approved)} approvals, {len(people.kept())} runs left "
        f"waiting; {site.while_acting} kills during an operation; {sum(operations.requests.values())} requests for "
        f"{len(operations.requests)} operations; ready again after {min(site.starts_s):.1f} to "
        f"{max(site.starts_s):.1f} s, {sorted(site.starts_s)[KILLS // 2]:.1f} s in the middle"
    )
