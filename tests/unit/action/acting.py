"""A small estate to act on: a real HTTP operations service, real embedded stores, one incident with its cause.

Run as a program it is a platform's acting side that can be killed: see `test_crash_while_acting`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from headspring.action.execute.http import HttpExecutor
from headspring.action.execute.process import ProcessExecutor
from headspring.action.leases import LEASE_S
from headspring.action.service import ActionService
from headspring.action.views import RunView, Validation
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge
from headspring.proto.action import Plan, RunState
from headspring.proto.clock import Clock, SystemClock
from headspring.proto.detection import Alert
from headspring.proto.ids import entity_id
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident, Member

CAUSE = entity_id("service", "billing")
CALLER = entity_id("service", "front")


@dataclass
class Operations:
    """The operations API of an estate: counts effects by Idempotency-Key."""

    delay_s: float = 0.0
    status: int = 200
    effects: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        operations = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                operations.requests.append(("GET", self.path))
                self._answer(200, {"state": "running"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                operations.requests.append(("POST", self.path))
                key = self.headers.get("Idempotency-Key", "")
                operations.effects[key] = operations.effects.get(key, 0) + 1
                time.sleep(operations.delay_s)
                self._answer(operations.status, {"done": self.path})

            def _answer(self, status: int, body: dict[str, str]) -> None:
                data = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the caller was killed: that is what some tests do

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def posts(self) -> list[str]:
        return [path for method, path in self.requests if method == "POST"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Verdicts:
    """A validator that says what it is told; the real one asks alerts and metrics."""

    verdict: str = "pass"

    def validate(self, plan: Plan) -> Validation:
        return Validation(verdict=self.verdict, text=f"told to {self.verdict}")


def incident(number: int = 1, *, tenant: str = "default") -> Incident:
    alert = Alert(alert_id=f"al-{number}", tenant=tenant, fingerprint="f", entity=CAUSE, name="latency high")
    return Incident(
        incident_id=f"inc-{number}", tenant=tenant, title="billing is slow", opened_ns=number * 10**9,
        entities=(CAUSE, CALLER), members=(Member(alert=alert, representative=True),),
    )  # fmt: skip


def diagnosis(
    number: int = 1, *, kind: CauseKind = CauseKind.CRASH, status: DiagnosisStatus = DiagnosisStatus.LIKELY
) -> Diagnosis:
    cause = Hypothesis(entity=CAUSE, kind=kind, probability=0.9, status=status, summary="it does not answer")
    return Diagnosis(incident_id=f"inc-{number}", tenant="default", status=status, hypotheses=(cause,))


def service(
    folder: Path, ops_url: str, *, clock: Clock | None = None, verdicts: Verdicts | None = None,
    emit: Callable[[str, bytes, bytes, int], None] | None = None, database_url: str = "", secrets: Path | None = None,
    acts: bool = True, lease_s: float = LEASE_S,
) -> ActionService:  # fmt: skip
    """The acting side over stores in a folder, or over a PostgreSQL database; not started."""
    topology = EmbeddedTopology(folder / "topology.db")
    now_ns = (clock or SystemClock()).now_ns()
    topology.observe("default", [Edge(caller=CALLER, callee=CAUSE, weight=10.0, source="spans", last_seen_ns=now_ns)])
    documents = SqliteDocumentStore(folder / "documents.db")
    for number in (1, 2, 3):
        documents.put_incident(incident(number))
        documents.put_diagnosis(diagnosis(number))
    return ActionService(
        database_url=database_url or f"sqlite:///{folder / 'actions.db'}", state_dir=folder,
        clock=clock or SystemClock(),
        topology=topology, documents=documents, validator=verdicts or Verdicts(),
        executors=[HttpExecutor(ops_url=ops_url), ProcessExecutor()], notifiers=[], settings={"ops_url": ops_url},
        emit=emit or (lambda topic, key, value, time_ns: None), secrets=secrets, acts=acts, lease_s=lease_s,
    )  # fmt: skip


def wait_for(acting: ActionService, run_id: str, *states: RunState, within_s: float = 20.0) -> RunView:
    """The run once it is in one of the states, and has told so if it ended."""
    deadline = time.monotonic() + within_s
    while True:
        run = acting.run(run_id, tenant="default")
        told = run is not None and any(event.state is run.state for event in run.events)
        if run is not None and run.state in states and (told or not run.state.final):
            return run
        if time.monotonic() > deadline:
            raise AssertionError(f"run {run_id} is {run.state if run else 'gone'}, wanted {states}")
        time.sleep(0.05)


if __name__ == "__main__":
    # Arguments: folder, operations address, what to do first. Then it lives until it is killed.
    acting = service(Path(sys.argv[1]), sys.argv[2])
    acting.start()
    if sys.argv[3] in ("propose", "approve"):
        proposed = acting.propose(incident(), diagnosis())
        assert proposed is not None
        print(proposed.run_id, flush=True)
        if sys.argv[3] == "approve":
            acting.approve(proposed.run_id, "ann", "operator", proposed.plan.digest, tenant="default")
    print("ready", flush=True)
    time.sleep(600)
