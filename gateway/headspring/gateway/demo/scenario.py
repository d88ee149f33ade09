"""The scenarios: what is broken, what must be found, what must mend it. And the judge of what happened.

Data and pure logic: the judge takes what the REST API answered and says what became true, what is wrong and
what is still missing. `command` does the talking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headspring.gateway.demo.estate import entity

SURE = ("likely", "confirmed")
"""Statuses with which a diagnosis commits itself; `inconclusive` is honest but is not what these faults deserve."""

ENDED = ("resolved", "merged")
"""States of an incident in which nothing is done about it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One call of the supervisor's fault API."""

    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Faults put in at once, and the causes that must be found: one incident for each."""

    name: str
    summary: str
    faults: tuple[Fault, ...]
    causes: tuple[str, ...]
    """Entity ids."""
    operation: str
    """The operation that really mends it; the shop must have been asked for it."""


def _one(name: str, summary: str, kind: str, service: str, operation: str, **body: Any) -> Scenario:
    return Scenario(
        name=name, summary=summary, faults=(Fault(kind=kind, body={"service": service, **body}),),
        causes=(entity(service),), operation=operation,
    )  # fmt: skip


SCENARIOS: tuple[Scenario, ...] = (
    _one("payment-delay", "payment answers 0.6 s late", "delay", "payment", "restart", delay_ms=600),
    _one("inventory-error", "half of inventory's answers are errors", "error", "inventory", "restart", ratio=0.5),
    _one("payment-crash", "payment's process is killed", "crash", "payment", "restart"),
    _one("bad-deploy", "a new version of checkout is slow and fails", "deploy", "checkout", "rollback"),
    _one("database-slow", "orders-db answers 0.4 s late", "delay", "orders-db", "restart", delay_ms=400),
    Scenario(
        name="two-faults", summary="catalogue fails while payment is slow",
        faults=(
            Fault(kind="delay", body={"service": "payment", "delay_ms": 600}),
            Fault(kind="error", body={"service": "catalogue", "ratio": 0.5}),
        ),
        causes=(entity("payment"), entity("catalogue")), operation="restart",
    ),
)  # fmt: skip
BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}


@dataclass(slots=True, kw_only=True)
class Found:
    """What is known about one expected cause so far."""

    cause: str
    incident_id: str = ""
    title: str = ""
    incident_state: str = ""
    alerts: int = 0
    probability: float = 0.0
    status: str = ""
    evidence: tuple[str, ...] = ()
    run_id: str = ""
    runbook: str = ""
    digest: str = ""
    run_state: str = ""
    run_cause: str = ""
    steps: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """The cause was named, with commitment."""
        return bool(self.incident_id) and self.status in SURE

    @property
    def approvable(self) -> bool:
        return self.right and self.run_state == "waiting_approval" and self.run_cause in ("", self.cause)

    @property
    def done(self) -> bool:
        return self.right and self.run_state == "succeeded" and self.incident_state == "resolved"


@dataclass(slots=True)
class Past:
    """What there was before the faults. An incident of then may relapse: then it is about these faults too."""

    incidents: frozenset[str]
    runs: frozenset[str]
    relapsed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, details: Sequence[Mapping[str, Any]]) -> Past:
        """Of everything there is now."""
        return cls(
            frozenset(detail["incident"]["incident_id"] for detail in details),
            frozenset(run["run_id"] for detail in details for run in detail.get("runs") or ()),
        )

    def ended(self, incidents: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        """Those of then that have not come back."""
        self.relapsed |= {
            one["incident_id"]
            for one in incidents
            if one["incident_id"] in self.incidents and one["state"] not in ENDED
        }
        return self.incidents - self.relapsed

    def since(self, details: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The same without runs of then."""
        return [
            {**detail, "runs": [run for run in detail.get("runs") or () if run["run_id"] not in self.runs]}
            for detail in details
        ]


@dataclass(slots=True)
class Judge:
    """Compares what the platform says with what a scenario expects."""

    scenario: Scenario
    found: dict[str, Found] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    """Incident id → its top cause, for incidents that blame something else (so far)."""

    def __post_init__(self) -> None:
        self.found = {cause: Found(cause=cause) for cause in self.scenario.causes}

    def see(self, details: Sequence[Mapping[str, Any]]) -> None:
        """Takes the details (`incident`, `diagnosis`, `runs`) of every incident since the faults were put in."""
        self.wrong = {}
        for detail in details:
            incident = detail["incident"]
            if incident["state"] == "merged":
                continue
            top = top_hypothesis(detail)
            cause = top.get("entity", "")
            # What was blamed first may have been the right cause of this very incident before it was mended.
            held = next((found for found in self.found.values() if found.incident_id == incident["incident_id"]), None)
            if cause in self.found and (held is None or held.cause == cause or not held.right):
                if held is not None and held.cause != cause:
                    self.found[held.cause] = Found(cause=held.cause)
                _fill(self.found[cause], detail, top)
            else:
                self.wrong[incident["incident_id"]] = cause or "nothing"

    @property
    def done(self) -> bool:
        return all(found.done for found in self.found.values())

    def shortcomings(self, operations: Sequence[Mapping[str, Any]], faulty: Sequence[str]) -> list[str]:
        """Every expectation that does not hold, in words; empty when all is right."""
        problems = []
        for cause, found in self.found.items():
            if not found.incident_id:
                problems.append(f"no incident names {cause} as its top cause")
                continue
            where = f"incident {found.incident_id}"
            if not found.right:
                problems.append(f"{where} blames {cause} only with status {found.status or 'none'}, wanted likely or "
                                "confirmed")  # fmt: skip
            if not found.run_id:
                problems.append(f"{where} has no proposed run")
            elif found.run_state != "succeeded":
                problems.append(f"{where}: run {found.run_id} ({found.runbook}) is {found.run_state}, wanted succeeded")
            if found.incident_state != "resolved":
                problems.append(f"{where} is {found.incident_state}, wanted resolved")
            name = cause.rpartition("/")[2]
            wanted = self.scenario.operation
            done = [entry["operation"] for entry in operations if entry["service"] == name]
            if found.run_state == "succeeded" and wanted not in done:
                problems.append(f"the shop was asked for {done or 'nothing'} on {name}, wanted {wanted}")
        problems += [
            f"incident {key} blames {cause}, wanted {' or '.join(self.found)}" for key, cause in self.wrong.items()
        ]
        if faulty:
            problems.append(f"the shop is still faulty: {', '.join(faulty)}")
        return problems


def top_hypothesis(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first hypothesis of an incident's diagnosis; empty when there is none yet."""
    hypotheses = (detail.get("diagnosis") or {}).get("hypotheses") or [{}]
    top: Mapping[str, Any] = hypotheses[0]
    return top


def _fill(found: Found, detail: Mapping[str, Any], top: Mapping[str, Any]) -> None:
    incident = detail["incident"]
    found.incident_id, found.title = incident["incident_id"], incident.get("title", "")
    found.incident_state = incident["state"]
    found.alerts = len(incident.get("members", ()))
    found.probability = float(top.get("probability", 0.0))
    # The diagnosis as a whole and its first hypothesis each have a status: both must commit.
    statuses = [top.get("status", ""), (detail.get("diagnosis") or {}).get("status", "")]
    found.status = next((status for status in statuses if status not in SURE), statuses[0])
    found.evidence = tuple(item["summary"] for item in top.get("evidence", ()))
    runs = detail.get("runs") or ()
    chosen = next((run for run in runs if run.get("run_id") == found.run_id), None) or _best(runs)
    if chosen is None:
        return
    plan = chosen.get("plan") or chosen
    found.run_id, found.run_state = chosen["run_id"], chosen["state"]
    found.runbook, found.digest = plan.get("runbook", ""), plan.get("digest", "")
    found.run_cause = plan.get("cause_entity", "")
    found.steps = tuple(step.get("preview") or step.get("name", "") for step in plan.get("steps", ()))


def _best(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The run to follow: one that succeeded, else one that waits for consent, else the latest."""
    for state in ("succeeded", "waiting_approval"):
        for run in runs:
            if run["state"] == state:
                return run
    return runs[-1] if runs else None
