"""Pages over real embedded stores, filled with one incident of a small shop; for tests of the web UI.

Detection and the acting side's runner are not started: `StillDetection` and `StoredActions` stand in their
places, the latter over the real store of runs, so that decisions follow the real rules of that store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastapi import FastAPI

from headspring.action.audit.chain import AuditLog, Entry, Verdict
from headspring.action.store import RunStore
from headspring.action.views import Decision, RunView
from headspring.gateway.auth.keys import KeyStore, Role
from headspring.gateway.auth.requests import Authenticator
from headspring.gateway.events import Events
from headspring.gateway.runtime.config import resolve
from headspring.gateway.services import Services
from headspring.gateway.ui.routes import mount
from headspring.knowledge.documents.port import Page
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge, EdgeType
from headspring.proto.action import ActionEvent, BlastRadius, Feedback, Plan, PlannedStep, RunState
from headspring.proto.clock import NS_PER_S, Clock, ManualClock
from headspring.proto.detection import Alert, Mark, Severity
from headspring.proto.errors import NotFound, PreconditionFailed
from headspring.proto.incident import (
    CauseKind,
    Diagnosis,
    DiagnosisStatus,
    Evidence,
    Hypothesis,
    Incident,
    IncidentState,
    Member,
    TimelineEntry,
)
from headspring.proto.semantics import SERVICE_ERROR_RATIO, SERVICE_LATENCY_P95, SERVICE_REQUEST_RATE
from headspring.proto.telemetry import Change, ChangeKind, MetricBatch, MetricKind, SeriesDescriptor

NOW_NS = 1_760_000_000 * NS_PER_S
OPENED_NS = NOW_NS - 240 * NS_PER_S
INCIDENT = "inc-0199c8a1d2e3aabbccddeeff"
RUN = "run-0199c8a1d2e3001122334455"
DIGEST = "5f0c" * 16
_CALLS = (
    ("storefront", "checkout"), ("storefront", "catalogue"), ("checkout", "inventory"), ("checkout", "payment"),
    ("inventory", "orders-db"), ("payment", "orders-db"), ("catalogue", "orders-db"),
)  # fmt: skip


def service(name: str) -> str:
    """Entity of a service of the shop."""
    return f"service:default/{name}"


class StillDetection:
    """In place of the detection stage: scores as they are given."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores

    def health_scores(self, tenant: str) -> Mapping[str, float]:
        return self.scores if tenant == "default" else {}


class StoredActions:
    """In place of the acting side: the real store of runs and audit trail, no runner behind them."""

    def __init__(self, store: RunStore, trail: AuditLog, clock: Clock) -> None:
        self.store, self.trail, self.clock = store, trail, clock
        self.needed = 1
        """People who must approve."""

    frozen = False

    def set_frozen(self, frozen: bool, *, actor: str, tenant: str) -> None:
        self.frozen = frozen

    def run(self, run_id: str, *, tenant: str) -> RunView | None:
        return self.store.run(run_id, tenant=tenant)

    def runs(self, tenant: str, incident_id: str | None = None, *, limit: int = 50, cursor: str = "") -> Page[RunView]:
        return self.store.runs(tenant, incident_id, limit=limit, cursor=cursor)

    def approve(self, run_id: str, actor: str, role: str, digest: str, comment: str = "", *, tenant: str) -> RunView:
        return self._decide("approve", run_id, actor, role, digest, comment, tenant)

    def reject(self, run_id: str, actor: str, role: str, digest: str, comment: str = "", *, tenant: str) -> RunView:
        return self._decide("reject", run_id, actor, role, digest, comment, tenant)

    def request(self, incident_id: str, runbook: str, actor: str, idempotency_key: str, *, tenant: str) -> RunView:
        known = self.store.by_idempotency_key(tenant, actor, idempotency_key)
        run_id = known or f"run-{idempotency_key}"
        made = plan(incident_id=incident_id, runbook=runbook, requested_by=actor)
        self.store.add(run_id, made, idempotency_key=idempotency_key)
        found = self.store.run(run_id, tenant=tenant)
        assert found is not None
        return found

    def runbooks(self) -> Sequence[Any]:
        return (
            SimpleNamespace(name="rollback-deployment", title="Roll back the last deployment", version="1",
                            description="Puts the version before the last one back in place."),
            SimpleNamespace(name="restart-service", title="Restart a service", version="1",
                            description="Rolling restart, one replica after the other."),
        )  # fmt: skip

    def audit(self, tenant: str, *, limit: int = 50, cursor: str = "") -> Page[Entry]:
        entries, following = self.trail.entries(tenant, limit, cursor)
        return Page(items=entries, next_cursor=following)

    def verify_audit(self) -> Verdict:
        return self.trail.verify()

    def _decide(
        self, verdict: str, run_id: str, actor: str, role: str, digest: str, comment: str, tenant: str
    ) -> RunView:
        found = self.store.run(run_id, tenant=tenant)
        if found is None:
            raise NotFound(f"there is no run {run_id}")
        if found.plan.digest != digest:
            raise PreconditionFailed("the plan is not the one that was read; read it again and decide")
        now_ns = self.clock.now_ns()
        self.store.decide(
            run_id,
            Decision(verdict=verdict, actor=actor, role=role, digest=digest, time_ns=now_ns, comment=comment),
            needed=self.needed,
        )
        self.trail.append(actor, f"run.{verdict}", run_id, {"text": comment, "digest": digest}, now_ns, tenant)
        decided = self.store.run(run_id, tenant=tenant)
        assert decided is not None
        return decided


@dataclass(slots=True)
class Site:
    """Pages, what is behind them and keys to sign in with."""

    app: FastAPI
    services: Services
    keys: dict[str, str]
    store: RunStore
    actions: StoredActions
    parts: Sequence[Any]
    """Stores to close."""
    feedback: list[Feedback] = field(default_factory=list)

    def close(self) -> None:
        self.store.close()
        for part in self.parts:
            part.close()


def site(folder: Path, *, clock: Clock | None = None, hostile: str = "", start_ns: int = NOW_NS) -> Site:
    """A site with one incident; `hostile` is put wherever text from outside is shown."""
    clock = clock or ManualClock(start_ns=start_ns)
    keys = KeyStore(folder, clock=clock)
    documents, series = SqliteDocumentStore(folder / "documents.db"), DuckDbSeriesStore(folder / "series.duckdb")
    topology = EmbeddedTopology(folder / "topology.db")
    store = RunStore(f"sqlite:///{folder / 'actions.db'}")
    feedback: list[Feedback] = []

    async def give_feedback(given: Feedback) -> None:
        feedback.append(given)

    scores = {"storefront": 0.61, "checkout": 0.48, "payment": 0.18, "inventory": 0.97, "catalogue": 0.99,
              "orders-db": 0.93}  # fmt: skip
    unused: Any = None  # pages touch neither the log, the intake nor traces
    trail = AuditLog(folder / "audit.db", folder / "audit.key", folder / "audit.head")
    actions = StoredActions(store, trail, clock)
    acting: Any = actions
    detect: Any = StillDetection({service(name): score for name, score in scores.items()})
    services = Services(
        settings=resolve(environ={}), clock=clock, data=folder, keys=keys, authenticator=Authenticator(keys),
        log=unused, intake=unused, series=series, documents=documents, topology=topology, traces=unused, detect=detect,
        actions=acting, events=Events(), give_feedback=give_feedback, stage_health=dict, ready=lambda: True,
    )  # fmt: skip
    now_ns = clock.now_ns()
    for seen_ns in (now_ns - 900 * NS_PER_S, now_ns):
        topology.observe("default", [_edge(caller, callee, seen_ns) for caller, callee in _CALLS])
    _samples(series, now_ns)
    shift = now_ns - NOW_NS
    documents.put_incident(incident(hostile, shift))
    documents.put_diagnosis(diagnosis(hostile, shift))
    store.add(RUN, plan(hostile=hostile, shift=shift))
    store.add_event(
        ActionEvent(
            event_id="ev-1", tenant="default", run_id=RUN, incident_id=INCIDENT, runbook="rollback-deployment",
            state=RunState.WAITING_APPROVAL, time_ns=OPENED_NS + shift + 9 * NS_PER_S, actor="headspring",
            text="planned from the diagnosis, waits for approval" + hostile,
        )
    )  # fmt: skip
    trail.append("headspring", "run.waiting_approval", RUN, {"text": "asked" + hostile}, now_ns, "default")
    app = FastAPI()
    mount(app, services)
    made = {role.value: keys.create(role.value, role) for role in Role}
    return Site(
        app=app,
        services=services,
        keys=made,
        store=store,
        actions=actions,
        feedback=feedback,
        parts=(documents, series, topology, keys),
    )


def plan(
    *, hostile: str = "", shift: int = 0, incident_id: str = INCIDENT, runbook: str = "rollback-deployment",
    requested_by: str = "headspring",
) -> Plan:  # fmt: skip
    """Rolls the payment service back."""
    return Plan(
        plan_id="plan-1", tenant="default", incident_id=incident_id, runbook=runbook, runbook_version="1.2.0",
        title="Roll payment back to v1" + hostile,
        steps=(
            PlannedStep(step_id="s1", name="Put v1 back" + hostile, executor="http", target=service("payment"),
                        arguments={"version": "v1"}, idempotent=True,
                        preview="POST https://ops.example/payment/rollback\n- version: v2-bad\n+ version: v1"),
            PlannedStep(step_id="s2", name="Wait until the new replicas are ready", executor="http",
                        target=service("payment"), preview="GET https://ops.example/payment until state = running"),
        ),
        rollback=(PlannedStep(step_id="r1", name="Deploy v2-bad again", executor="http", target=service("payment"),
                              preview="POST https://ops.example/payment/deploy\n  version: v2-bad",
                              rollback_of="s1"),),
        validation=('service_error_ratio{service="payment"} < 0.02 for 30s',
                    'service_latency_p95_seconds{service="payment"} < 0.08 for 30s' + hostile),
        blast_radius=BlastRadius(targets=(service("payment"),), upstream=(service("checkout"), service("storefront")),
                                 downstream=(service("orders-db"),), traffic_share=0.47, level="medium"),
        risk="medium", requested_by=requested_by, created_ns=OPENED_NS + shift + 8 * NS_PER_S,
        expires_ns=NOW_NS + shift + 56 * 60 * NS_PER_S, digest=DIGEST, cause_entity=service("payment"),
    )  # fmt: skip


def incident(hostile: str = "", shift: int = 0) -> Incident:
    """Payment drags checkout and storefront along."""
    opened = OPENED_NS + shift

    def alert(
        name: str, who: str, metric: str, value: float, high: float, late_s: int, severity: Severity, **more: Any
    ) -> Alert:
        return Alert(
            alert_id=f"al-{who}-{metric}", tenant="default", fingerprint=f"{who}-{metric}", entity=service(who),
            name=name, severity=severity, starts_ns=opened + late_s * NS_PER_S, updated_ns=opened + 200 * NS_PER_S,
            source="detect.basic", metric=metric, value=value, expected_low=0.0, expected_high=high, score=3.2, **more,
        )  # fmt: skip

    error, slow = "error ratio high" + hostile, "latency p95 high"
    members = (
        Member(alert=alert(error, "payment", SERVICE_ERROR_RATIO, 0.31, 0.01, 0, Severity.CRITICAL,
                           summary="31 % of requests fail" + hostile), representative=True),
        Member(alert=alert(slow, "payment", SERVICE_LATENCY_P95, 0.412, 0.052, 2, Severity.ERROR),
               components={"time": 0.98, "topology": 1.0}),
        Member(alert=alert(error, "checkout", SERVICE_ERROR_RATIO, 0.3, 0.01, 3, Severity.ERROR),
               components={"time": 0.96, "topology": 0.8}),
        Member(alert=alert(slow, "storefront", SERVICE_LATENCY_P95, 0.455, 0.09, 6, Severity.WARNING,
                           marks=(Mark(stage="correlate", reason="explained by payment, two calls down" + hostile,
                                       rule="dynamic-xy"),)),
               suppressed=True, components={"time": 0.92, "topology": 0.6}),
    )  # fmt: skip
    return Incident(
        incident_id=INCIDENT, tenant="default", version=4, state=IncidentState.OPEN,
        title="Payment errors reach the storefront" + hostile, severity=Severity.CRITICAL, opened_ns=opened,
        updated_ns=opened + 60 * NS_PER_S, members=members,
        entities=(service("payment"), service("checkout"), service("storefront")),
        timeline=(
            TimelineEntry(time_ns=opened - 20 * NS_PER_S, kind="change", text="payment deploy: v1 → v2-bad" + hostile,
                          actor="ci", ref="ch-1"),
            TimelineEntry(time_ns=opened, kind="alert", text="payment: error ratio high" + hostile),
            TimelineEntry(time_ns=opened + 3 * NS_PER_S, kind="alert", text="checkout: error ratio high"),
            TimelineEntry(time_ns=opened + 6 * NS_PER_S, kind="state", text="critical: 3 services affected"),
            TimelineEntry(time_ns=opened + 10 * NS_PER_S, kind="notification", text="console: delivered"),
        ),
    )  # fmt: skip


def diagnosis(hostile: str = "", shift: int = 0) -> Diagnosis:
    """Payment's new version, with catalogue ruled out."""
    opened = OPENED_NS + shift

    def evidence(kind: str, summary: str, who: str, metric: str, base: float, value: float, weight: float) -> Evidence:
        return Evidence(
            kind=kind, summary=summary + hostile, entity=service(who), metric=metric,
            query=f'{metric}{{service="{who}"}}', baseline=base, value=value, deviation=9.0, onset_ns=opened,
            weight=weight,
        )  # fmt: skip

    cause = Hypothesis(
        entity=service("payment"), kind=CauseKind.ERRORS, metric=SERVICE_ERROR_RATIO, probability=0.91,
        status=DiagnosisStatus.LIKELY,
        summary="Payment's own requests began to fail 20 s after v2-bad was deployed, before its callers'." + hostile,
        evidence=(
            evidence("metric", "31 % of payment's requests fail, 0.4 % before", "payment", SERVICE_ERROR_RATIO,
                     0.004, 0.31, 2.4),
            evidence("onset", "payment began first, checkout 3 s and storefront 6 s later", "payment",
                     SERVICE_LATENCY_P95, 0.042, 0.412, 1.3),
            Evidence(kind="change", summary="payment was deployed (v1 → v2-bad) 20 s before", weight=1.1,
                     entity=service("payment")),
            evidence("path", "checkout's errors follow its calls to payment", "checkout", SERVICE_ERROR_RATIO,
                     0.003, 0.3, 0.7),
        ),
        path=(service("payment"), service("checkout"), service("storefront")),
        explained=(service("checkout"), service("storefront")), change_id="ch-1",
    )  # fmt: skip
    other = Hypothesis(
        entity=service("checkout"), kind=CauseKind.ERRORS, probability=0.06, summary="fails itself, not through payment"
    )
    ruled = Hypothesis(
        entity=service("orders-db"), kind=CauseKind.SATURATION, probability=0.02,
        why_not="its latency did not move, and catalogue, which calls it too, is well" + hostile,
        evidence=(evidence("metric", "latency of orders-db stayed normal", "orders-db", SERVICE_LATENCY_P95,
                           0.006, 0.006, -1.8),),
    )  # fmt: skip
    return Diagnosis(
        incident_id=INCIDENT, tenant="default", version=3, created_ns=opened + 7 * NS_PER_S,
        status=DiagnosisStatus.LIKELY, hypotheses=(cause, other), ruled_out=(ruled,),
        missing_telemetry=("logs of payment",), method="noisy-OR on the topology", seconds=0.042,
        would_settle="one trace with an error in payment and none below it" + hostile,
        changes=(Change(change_id="ch-1", tenant="default", entity=service("payment"), kind=ChangeKind.DEPLOY,
                        time_ns=opened - 20 * NS_PER_S, version="v2-bad", previous_version="v1", source="ci"),),
    )  # fmt: skip


def _edge(caller: str, callee: str, seen_ns: int) -> Edge:
    kind = EdgeType.DATABASE if callee == "orders-db" else EdgeType.SYNC
    return Edge(
        caller=service(caller), callee=service(callee), type=kind, weight=9.0, source="spans", last_seen_ns=seen_ns
    )


def _samples(store: DuckDbSeriesStore, now_ns: int) -> None:
    """A quarter of an hour every 5 s; payment, checkout and storefront go wrong when the incident opens."""
    rng = np.random.default_rng(7)
    times = now_ns - np.arange(180, -1, -1, dtype=np.int64) * 5 * NS_PER_S
    opened = OPENED_NS + now_ns - NOW_NS
    lateness = {"payment": 0, "checkout": 3, "storefront": 6}
    level = {
        "storefront": 0.07,
        "checkout": 0.055,
        "payment": 0.042,
        "inventory": 0.02,
        "catalogue": 0.018,
        "orders-db": 0.006,
    }
    number = 1
    for name, normal in level.items():
        bad = times >= opened + lateness[name] * NS_PER_S if name in lateness else np.zeros(times.size, dtype=bool)
        for metric, values, unit in (
            (SERVICE_LATENCY_P95, normal * rng.lognormal(0, 0.06, times.size) + 0.36 * bad, "s"),
            (SERVICE_ERROR_RATIO, np.clip(rng.normal(0.004, 0.002, times.size), 0, 1) + 0.3 * bad, "1"),
            (SERVICE_REQUEST_RATE, 15 * rng.lognormal(0, 0.05, times.size) * np.where(bad, 0.8, 1.0), "1/s"),
        ):
            described = SeriesDescriptor(
                series_id=number, tenant="default", name=metric, unit=unit, kind=MetricKind.GAUGE,
                entity=service(name), labels={"service": name},
            )  # fmt: skip
            store.write(
                MetricBatch(
                    tenant="default", received_ns=now_ns, series_id=np.full(times.size, number, dtype=np.uint64),
                    time_ns=times, value=values, kind=np.ones(times.size, dtype=np.uint8), new_series=(described,),
                )
            )  # fmt: skip
            number += 1
