"""Every role killed over and over, every store stood still for a minute: what was acknowledged is there, done once."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.faults.chains import Chain
from tests.faults.checks import check_alerts, check_audit, check_samples
from tests.faults.desks import RUNBOOK_SETTINGS, WAITING, Desks, People
from tests.faults.killable import Lives
from tests.faults.load import Load
from tests.faults.operations import Operations
from tests.servers import stack
from tests.servers.headspring import Headspring, eventually
from tests.servers.process import free_port

from headspring.gateway.runtime.shape import SHAPE

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("HEADSPRING_ROUNDS", "20"))
"""In each, every role is killed once."""
STILL_S = float(os.environ.get("HEADSPRING_STILL_S", "60"))
STEP_S = 0.8
_READY_S = 180.0
"""Roles start side by side."""
HELD = 3
STORES = {
    "PostgreSQL": "postgres", "Redis": "redis-server", "Elasticsearch": "elasticsearch",
    "Neo4j": "CommunityEntryPoint", "VictoriaMetrics": "victoria-metrics", "MinIO": "minio",
}  # fmt: skip
"""As health calls them, and a word of their command lines."""
SEEN = ("PostgreSQL", "Redis", "Elasticsearch", "Neo4j", "VictoriaMetrics")
"""Stores that a running role talks to."""


class Role(Lives):
    """One process of a role, over its lives."""

    def __init__(self, name: str, folder: Path, place: dict[str, Any]) -> None:
        port = free_port()
        self.health = f"http://127.0.0.1:{port}"
        argv = [
            str(Path(sys.executable).with_name("headspring")), "run", name, "--config", place["config"],
            "--data", str(folder / "roles" / name), "--health-port", str(port),
        ]  # fmt: skip
        super().__init__(
            argv, env={"HEADSPRING_BOOTSTRAP_KEY": place["key"]}, log=folder / f"{name}.log",
            health=f"{self.health}/readyz", name=name,
        )  # fmt: skip


@dataclass
class Site:
    """The stack, and all who use it."""

    asked: Headspring
    roles: dict[str, Role]
    load: Load
    desks: Desks
    people: People
    operations: Operations
    chance: random.Random
    began: float = field(default_factory=time.time)

    def use(self) -> None:
        """Asks for a run where one is missing, approves one that waits, looks at all of them."""
        with contextlib.suppress(httpx2.HTTPError):
            for service in self.desks.told():
                if service not in self.people.asked:
                    self.people.ask(service)
                    break
            undecided = self.people.undecided()
            if undecided:
                self.people.approve(undecided[0])

    def use_until(self, over: Callable[[], bool]) -> None:
        while not over():
            self.use()
            time.sleep(0.5)

    def check(self) -> str:
        """All that was acknowledged is there, and every step was done once; what there was of it, in words."""
        self.load.stop()
        self.desks.no_more()
        assert not self.load.sent.refused
        check_samples(self.asked, self.load, seconds=round(time.time() - self.began) + 60)
        eventually(lambda: _holds(lambda: check_alerts(self.asked, self.load)), lambda wrong: not wrong, seconds=60)
        runs = eventually(
            lambda: self.people.look(self.operations),
            lambda found: all(found[run]["state"] == "succeeded" for run in self.people.approved), seconds=120,
        )  # fmt: skip
        check_audit(self.asked, self.people.approved)
        assert [runs[run]["state"] for run in self.people.kept()] == [WAITING] * HELD
        steps = {f"{run}/{step['step_id']}" for run in self.people.approved for step in runs[run]["plan"]["steps"]}
        assert set(self.operations.requests) == steps, "a step is missing, or something was done that nobody approved"
        assert max(self.operations.effects.values()) == 1, "one step had two keys"
        samples = sum(map(len, self.load.sent.samples.values()))
        return (
            f"{samples} samples, {len(self.load.sent.alerts)} alerts, {len(self.people.approved)} approvals, "
            f"{sum(self.operations.requests.values())} requests for {len(self.operations.requests)} operations"
        )


def _holds(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as wrong:
        return str(wrong)
    return ""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    desks: list[Desks] = []
    operations = Operations(delay_s=STEP_S, restarted=lambda service: desks[0].restarted(service))
    with stack.servers(tmp_path / "servers", print) as settings:
        place = stack.configure(tmp_path, {**settings, "runbook_settings": RUNBOOK_SETTINGS})
        config = Path(place["config"])
        kept = [line for line in config.read_text().splitlines() if not line.startswith("ops_url")]
        config.write_text("\n".join([*kept, f'ops_url = "{operations.url}"']) + "\n")
        asked = Headspring(url=place["url"], otlp_url=place["otlp"], grpc_target=place["grpc"], api_key=place["key"])
        roles = {shape.name: Role(shape.name, tmp_path, place) for shape in SHAPE}
        desks.append(Desks(asked, every_s=2.5))
        chains = [Chain((f"front-{name}", f"middle-{name}", f"back-{name}"), per_s=8.0) for name in "abcd"]
        load = Load(asked, chains=chains)
        made = Site(asked, roles, load, desks[0], People(asked, held=HELD), operations, random.Random(seed))
        try:
            for role in roles.values():
                role.launch()
            for role in roles.values():
                role.await_ready(_READY_S)
            made.people.join()
            load.start()
            desks[0].start()
            deadline = time.monotonic() + 120
            made.use_until(lambda: len(made.people.digests) > HELD or time.monotonic() > deadline)
            assert len(made.people.digests) > HELD, f"no runs to begin with: {made.people.put_off}"
            yield made
        finally:
            load.stop()
            desks[0].stop()
            for role in roles.values():
                role.stop()
            operations.close()


def test_what_was_acknowledged_survives_every_role_killed_over_and_over(site: Site) -> None:
    starts_s: dict[str, list[float]] = {name: [] for name in site.roles}

    def life(role: Role, at_s: float) -> None:
        time.sleep(at_s)
        role.kill()
        if role.name == "act":
            site.operations.killed()
        began = time.monotonic()
        role.launch()
        role.await_ready(_READY_S)
        starts_s[role.name].append(time.monotonic() - began)

    for number in range(ROUNDS):
        lives = [
            threading.Thread(target=life, args=(role, site.chance.uniform(0.0, 20.0))) for role in site.roles.values()
        ]
        for one in lives:
            one.start()
        site.use_until(lambda lives=lives: not any(one.is_alive() for one in lives))  # type: ignore[misc]
        assert all(len(found) == number + 1 for found in starts_s.values()), "a role did not come back"
    print(f"{ROUNDS} kills of each of {len(site.roles)} roles: {site.check()}")
    for name, found in starts_s.items():
        print(f"{name}: ready again after {sorted(found)[len(found) // 2]:.1f} s, at most {max(found):.1f} s")


def test_stores_that_stand_still_for_a_minute_cost_what_was_promised_and_nothing_more(site: Site) -> None:
    own = psutil.Process().children(recursive=True)
    for store, word in STORES.items():
        processes = [one for one in own if one.is_running() and word in " ".join(one.cmdline())]
        assert processes, f"no process of {store}"
        before = len(site.load.sent.alerts), sum(map(len, site.load.sent.samples.values()))
        began = time.monotonic()
        for one in processes:
            one.suspend()
        try:
            told_s = 0.0
            while time.monotonic() - began < STILL_S:
                if not told_s and store in SEEN and store in _down(site):
                    told_s = time.monotonic() - began
                time.sleep(1.0)
        finally:
            for one in processes:
                one.resume()
        taken = len(site.load.sent.alerts) - before[0], sum(map(len, site.load.sent.samples.values())) - before[1]
        assert taken[1] > STILL_S * 300, f"telemetry waited for {store}: {taken[1]} samples in {STILL_S:.0f} s"
        assert store not in SEEN or told_s, f"nobody told that {store} is away"
        back = time.monotonic()
        eventually(lambda: _down(site), lambda down: not down, seconds=120)
        print(f"{store} stood still: told after {told_s:.0f} s; {taken[1]} samples and {taken[0]} alerts taken "
              f"meanwhile; all well {time.monotonic() - back:.0f} s after it was back")  # fmt: skip
        deadline = time.monotonic() + 10
        site.use_until(lambda deadline=deadline: time.monotonic() > deadline)  # type: ignore[misc]
    print(site.check())


def _down(site: Site) -> set[str]:
    """Servers that some role says are away, as its health tells."""
    down: set[str] = set()
    for role in site.roles.values():
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            answer = httpx2.get(f"{role.health}/readyz", timeout=5.0, trust_env=False).json()
            down |= {name for name, state in answer.get("backends", {}).items() if not state["up"]}
    return down
