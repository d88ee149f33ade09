"""Acting sides of one installation as processes over one PostgreSQL, each of which can be stopped, cut off or killed.

Run as a program it is one of them. What each publishes goes to a file of its own, one event a line.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from headspring.action.execute.http import HttpExecutor
from headspring.action.service import ActionService
from headspring.action.views import RunView, Validation
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.proto.action import Plan, RunState
from headspring.proto.clock import SystemClock
from headspring.proto.detection import Alert
from headspring.proto.ids import entity_id
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident, Member

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("proto", "streaming", "knowledge", "models", "ingestion", "analytics", "action", "gateway")
INCIDENTS = 12
LEASE_S = 3.0
RUNBOOK = "drain-and-restart"
"""Three steps, each with an effect that can be told from the others'."""
_START_S = 120.0


def target(number: int) -> str:
    return f"billing-{number}"


def incident(number: int) -> Incident:
    entity = entity_id("service", target(number))
    alert = Alert(alert_id=f"al-{number}", tenant="default", fingerprint="f", entity=entity, name="latency high")
    return Incident(
        incident_id=f"inc-{number}", tenant="default", title=f"{target(number)} is slow", opened_ns=number * 10**9,
        entities=(entity,), members=(Member(alert=alert, representative=True),),
    )  # fmt: skip


def diagnosis(number: int) -> Diagnosis:
    cause = Hypothesis(
        entity=entity_id("service", target(number)), kind=CauseKind.LATENCY, probability=0.9,
        status=DiagnosisStatus.LIKELY, summary="it is slow",
    )  # fmt: skip
    return Diagnosis(incident_id=f"inc-{number}", tenant="default", status=DiagnosisStatus.LIKELY, hypotheses=(cause,))


class _Passes:
    def validate(self, plan: Plan) -> Validation:
        return Validation(verdict="pass", text="told to pass")


def acting_side(
    folder: Path, *, database_url: str, secrets: Path, ops_url: str, acts: bool,
    emit: Callable[[str, bytes, bytes, int], None],
) -> ActionService:  # fmt: skip
    """One process's acting side, not started. Incidents and topology are the same for all."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = SqliteDocumentStore(folder / "documents.db")
    for number in range(INCIDENTS):
        documents.put_incident(incident(number))
        documents.put_diagnosis(diagnosis(number))
    return ActionService(
        database_url=database_url, state_dir=folder, secrets=secrets, acts=acts, lease_s=LEASE_S, clock=SystemClock(),
        topology=EmbeddedTopology(folder / "topology.db"), documents=documents, validator=_Passes(),
        executors=[HttpExecutor(ops_url=ops_url)], notifiers=[], emit=emit,
        settings={"ops_url": ops_url, "scale_out_replicas": "4", "scale_base_replicas": "2"},
    )  # fmt: skip


@dataclass
class Orchestrator:
    """A process that acts."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def published(self) -> list[str]:
        """Ids of the events that it put on their topic."""
        file = self.folder / "published"
        return [json.loads(line)["id"] for line in file.read_text().splitlines()] if file.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def cut_off(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def come_back(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill9(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """A graceful end."""
        self.process.terminate()
        self.process.wait(60)


@dataclass
class Estate:
    """Several orchestrators of one database, and a gateway in this process that only decides."""

    folder: Path
    database_url: str
    ops_url: str
    orchestrators: list[Orchestrator] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    """Events of the gateway."""

    def __post_init__(self) -> None:
        self.secrets = self.folder / "secrets"
        self.secrets.mkdir()
        self.gateway = acting_side(
            self.folder / "gateway", database_url=self.database_url, secrets=self.secrets, ops_url=self.ops_url,
            acts=False, emit=lambda topic, key, value, time_ns: self.published.append(value),
        )  # fmt: skip
        self.gateway.start()

    def start(self, count: int = 2) -> None:
        """Starts so many orchestrators more, all at once."""
        started: list[Orchestrator] = []
        for _ in range(count):
            folder = self.folder / f"orchestrator-{len(self.orchestrators) + len(started)}"
            folder.mkdir()
            argv = [
                sys.executable, "-m", "tests.faults.orchestrators", str(folder), self.database_url, str(self.secrets),
                self.ops_url,
            ]  # fmt: skip
            path = os.pathsep.join([*(str(ROOT / room) for room in ROOMS), str(ROOT)])
            with (folder / "log").open("w") as log:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": path},
                )  # fmt: skip
            started.append(Orchestrator(process, folder))
        for one in started:
            assert one.process.stdout is not None
            assert one.process.stdout.readline().strip() == "ready", one.log()[-3000:]
        self.orchestrators += started

    def requested(self, number: int = 0) -> RunView:
        """A run that waits for approval."""
        return self.gateway.request(f"inc-{number}", RUNBOOK, "ann", f"key-{number}", tenant="default")

    def approve(self, run: RunView) -> None:
        self.gateway.approve(run.run_id, "bob", "operator", run.plan.digest, tenant="default")

    def run(self, run_id: str) -> RunView:
        found = self.gateway.run(run_id, tenant="default")
        assert found is not None
        return found

    def ended(self, run_id: str, *, within_s: float = 60.0) -> RunView:
        """The run once it has ended and said so."""
        deadline = time.monotonic() + within_s
        while True:
            run = self.run(run_id)
            if run.state.final and any(event.state is run.state for event in run.events):
                return run
            assert time.monotonic() < deadline, f"run {run_id} is {run.state} after {within_s:.0f} s: {run.steps}"
            time.sleep(0.05)

    def owner(self, run_id: str) -> Orchestrator:
        """Who has the lease of a run."""
        holder = self.owners()[run_id]
        (found,) = (one for one in self.orchestrators if f"-{one.pid}-" in holder)
        return found

    def owners(self) -> Mapping[str, str]:
        """Last owner of each run, by name."""
        from sqlalchemy import text

        from headspring.proto.relational.database import ALL_TENANTS

        with self.gateway._store.database.reading(tenant=ALL_TENANTS) as connection:
            return {row.name: row.owner for row in connection.execute(text("SELECT name, owner FROM leases"))}

    def close(self) -> None:
        for one in self.orchestrators:
            if one.process.poll() is None:
                one.come_back()
                one.kill9()
            assert one.process.stdout is not None
            one.process.stdout.close()
        self.gateway.stop()


def until(holds: Callable[[], bool], *, within_s: float = 60.0, what: str) -> None:
    """Waits for something to hold."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.01)


def done(run: RunView) -> bool:
    return run.state is RunState.SUCCEEDED


def main(folder: Path, database_url: str, secrets: Path, ops_url: str) -> None:
    """One orchestrator until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    stopped, lock = threading.Event(), threading.Lock()

    def on_term(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, on_term)
    from headspring.proto import codec
    from headspring.proto.action import ActionEvent
    from headspring.proto.topics import ACTIONS

    def emit(topic: str, key: bytes, value: bytes, time_ns: int) -> None:
        if topic == ACTIONS.name:
            event = codec.decode(ActionEvent, value)
            with lock, (folder / "published").open("a") as file:
                file.write(json.dumps({"id": event.event_id, "state": event.state.value}) + "\n")

    acting = acting_side(
        folder, database_url=database_url, secrets=secrets, ops_url=ops_url, acts=True, emit=emit
    )  # fmt: skip
    acting.start()
    print("ready", flush=True)
    stopped.wait()
    acting.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
