"""The acting side as one service: propose, ask, decide, act, tell.

Nothing here acts without a decision that a person made about exactly the plan that runs. Embedded, one process does
everything over SQLite files. On PostgreSQL some processes act (`acts`) and others only decide: a decision is a row, and
whichever process that acts comes first takes the run (`orchestrator`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from headspring.action.approve.policy import check_decision
from headspring.action.audit.chain import AuditLog, Entry, Verdict
from headspring.action.execute.port import Executor
from headspring.action.execution import Execution
from headspring.action.freeze import FileFreeze, Freeze, RowFreeze
from headspring.action.leases import LEASE_S, Leases
from headspring.action.notify.dispatch import Dispatcher
from headspring.action.notify.port import Notifier
from headspring.action.orchestrator import Orchestrator, executor_id
from headspring.action.patience import Patience
from headspring.action.plan.blast import blast_radius
from headspring.action.plan.build import build_plan, digest_of
from headspring.action.plan.match import candidates
from headspring.action.runbooks.load import load_library
from headspring.action.runbooks.schema import Runbook
from headspring.action.store import RunStore
from headspring.action.trail import PLATFORM, Emit, Trail, told
from headspring.action.views import Decision, RunView, Validator
from headspring.action.workflow import Workflows
from headspring.knowledge.documents.port import DocumentStore, Page
from headspring.knowledge.topology.port import TopologyGraph
from headspring.proto.action import Plan, RunState
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import ConfigError, Conflict, NotFound, PlatformError, PreconditionFailed
from headspring.proto.ids import derived_id
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Hypothesis, Incident, IncidentState

logger = logging.getLogger(__name__)

COOL_DOWN_S = 900.0
ATTEMPTS = 2
"""Approved runs of one runbook on one target within `COOL_DOWN_S`; after that the platform proposes it no more."""
_OVER = (IncidentState.RESOLVED, IncidentState.MERGED)
_ACTIVE = (RunState.APPROVED, RunState.EXECUTING, RunState.VALIDATING, RunState.ROLLING_BACK)
_SURE = (DiagnosisStatus.CONFIRMED, DiagnosisStatus.LIKELY)


class ActionService:
    """See the module. Every call blocks and may come from any thread."""

    def __init__(
        self,
        *,
        database_url: str,
        state_dir: Path,
        clock: Clock,
        topology: TopologyGraph,
        documents: DocumentStore,
        validator: Validator,
        executors: Sequence[Executor],
        notifiers: Sequence[Notifier],
        settings: Mapping[str, str],
        runbooks: Path | None = None,
        emit: Emit,
        expires_s: float = 3600.0,
        page_url: str = "",
        secrets: Path | None = None,
        acts: bool = True,
        lease_s: float = LEASE_S,
    ) -> None:
        """
        Args:
            database_url: Of a SQLite file, beside which the others are kept in `state_dir`; or of a PostgreSQL
                database, which holds everything but secrets.
            settings: What runbooks may read as `settings.NAME`.
            runbooks: Folder of the owner's runbooks, which add to the packaged ones and win by name.
            expires_s: Longest time an approval request stays open; a runbook may ask for less.
            page_url: Base address of incident pages, for notifications.
            secrets: Folder of the audit key, the same for every process of an installation; by default `state_dir`.
            acts: False for a process that decides and never executes; PostgreSQL only.
            lease_s: How long a run of a process that died waits for another one; PostgreSQL only.

        Raises:
            ConfigError: a runbook of the folder, the database or a secret cannot be used; says which, where and why.
            Unavailable: the database does not answer.
        """
        self._clock = clock
        self._topology = topology
        self._documents = documents
        self._settings = dict(settings)
        self._expires_s = expires_s
        self._executors = {executor.name: executor for executor in executors}
        self._runbooks = load_library(runbooks)
        self._workflows: Workflows | None = None
        self._orchestrator: Orchestrator | None = None
        with ExitStack() as opened:
            self._store = RunStore(database_url)
            opened.callback(self._store.close)
            shared = self._store.database.is_server
            if not (acts or shared):
                raise ConfigError("a process that only decides needs a PostgreSQL database, which others act on")
            place = database_url if shared else None
            key = (secrets or state_dir) / "audit.key"
            self._audit = AuditLog(place or state_dir / "audit.db", key, state_dir / "audit.head")
            opened.callback(self._audit.close)
            dispatcher = Dispatcher(notifiers, place or state_dir / "notify.db")
            opened.callback(dispatcher.close)
            self._freeze: Freeze = RowFreeze(database_url) if shared else FileFreeze(state_dir / "automation.frozen")
            opened.callback(self._freeze.close)
            self._trail = Trail(
                store=self._store, audit=self._audit, dispatcher=dispatcher, emit=emit, clock=clock, page_url=page_url
            )
            opened.callback(self._trail.close)
            patience = Patience()
            self._execution = Execution(
                store=self._store, executors=executors, validator=validator, clock=clock, note=self._trail.note,
                drift=self._drift, frozen=self._freeze.now, patience=patience,
            )  # fmt: skip
            if not shared:
                self._workflows = Workflows(
                    f"sqlite:///{state_dir / 'workflows.db'}", execution=self._execution, store=self._store,
                    patience=patience,
                )  # fmt: skip
                opened.callback(self._workflows.stop)
            elif acts:
                leases = Leases(database_url, owner=executor_id(), seconds=lease_s)
                self._orchestrator = Orchestrator(
                    leases=leases, store=self._store, trail=self._trail, execution=self._execution, patience=patience,
                    clock=clock, database_url=database_url, states=_ACTIVE,
                )  # fmt: skip
                opened.callback(self._orchestrator.stop)
            self._opened = opened.pop_all()  # nothing failed: it stays open until `stop`

    def start(self) -> None:
        """Goes on with what an earlier life, or another process, began: untold and unpublished events, approved runs.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        if self._orchestrator is not None:
            self._orchestrator.start()
        if self._workflows is None:
            return
        for run in self._store.untold():  # first, because a workflow that goes on adds events of its own
            self._trail.tell_late(run)
        self._workflows.start()
        for event in self._store.unemitted():
            self._trail.publish(event)
        for run in self._store.in_states(_ACTIVE):
            self._workflows.begin(run.run_id)

    def stop(self) -> None:
        """Runs that are under way end after the step they are in, and go on at the next start or in another process."""
        self._opened.close()

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        self._store.database.ping()

    def runbooks(self) -> Sequence[Runbook]:
        return [self._runbooks[name] for name in sorted(self._runbooks)]

    def acting_on(self, incident_id: str) -> bool:
        """Whether an approved run is under way for an incident."""
        return any(self._store.in_states(_ACTIVE, incident_id=incident_id))

    def propose(self, incident: Incident, diagnosis: Diagnosis) -> RunView | None:
        """Asks for approval of the best runbook for a diagnosis; None when none fits or it was asked before.

        A request of the platform that the diagnosis has moved away from is withdrawn.
        """
        if incident.state in _OVER or diagnosis.status not in _SURE:
            return None
        if self.acting_on(incident.incident_id):
            return None
        for match in candidates(diagnosis, incident, self._runbooks):
            target = match.hypothesis.entity
            run_id = _run_id(incident, match.runbook.name, target)
            since_ns = self._clock.now_ns() - round(COOL_DOWN_S * NS_PER_S)
            if self._store.run(run_id) is None and (
                self._store.acted_since(match.runbook.name, target, since_ns, tenant=incident.tenant) >= ATTEMPTS
            ):
                continue
            try:
                run = self._ask(run_id, match.runbook, match.hypothesis, incident, diagnosis, PLATFORM, "")
            except PlatformError as error:
                logger.info("runbook %s does not fit here: %s", match.runbook.name, error)
                continue
            self._withdraw(incident.incident_id, keep=run_id)
            return run
        return None

    def request(self, incident_id: str, runbook_name: str, actor: str, idempotency_key: str, *, tenant: str) -> RunView:
        """Asks for approval of a runbook that a person chose; somebody else must approve it.

        Raises:
            NotFound: no such runbook or incident.
            PreconditionFailed: the incident is over or has no diagnosis to act on.
            Conflict: the key was used for something else, or that run exists and is not waiting any more.
        """
        if runbook_name not in self._runbooks:
            raise NotFound(f"there is no runbook {runbook_name!r}; wanted one of {', '.join(sorted(self._runbooks))}")
        incident = self._documents.incident(tenant, incident_id)
        if incident is None:
            raise NotFound(f"there is no incident {incident_id}")
        earlier = self._store.by_idempotency_key(tenant, actor, idempotency_key)
        if earlier is not None:
            run = self.run(earlier, tenant=tenant)
            if run is not None and (run.runbook, run.incident_id) == (runbook_name, incident.incident_id):
                return run
            raise Conflict("this Idempotency-Key was used for another request")
        if incident.state in _OVER:
            raise PreconditionFailed(f"incident {incident.incident_id} is {incident.state}; runbooks act on open ones")
        diagnosis = self._documents.diagnosis(tenant, incident.incident_id)
        if diagnosis is None or not diagnosis.hypotheses:
            raise PreconditionFailed(f"incident {incident.incident_id} has no diagnosis yet that names a target")
        run_id = _run_id(incident, runbook_name, diagnosis.hypotheses[0].entity, actor, idempotency_key)
        return self._ask(
            run_id, self._runbooks[runbook_name], diagnosis.hypotheses[0], incident, diagnosis, actor, idempotency_key
        )

    def approve(
        self, run_id: str, actor: str, role: str, plan_digest: str, comment: str = "", *, tenant: str
    ) -> RunView:
        """Approves exactly the plan with this digest, and starts it, or leaves that to a process that acts.

        Raises:
            NotFound: no such run.
            Forbidden: the role may not, or the actor asked for the run.
            PreconditionFailed: the digest is of another plan, or the request is over.
            Conflict: somebody decided before.
        """
        run = self._decide(run_id, "approve", actor, role, plan_digest, comment, tenant)
        if run.state is RunState.APPROVED:
            if self._workflows is not None:
                self._workflows.begin(run_id)
            elif self._orchestrator is not None:
                self._orchestrator.poke()
        return run

    def reject(
        self, run_id: str, actor: str, role: str, plan_digest: str, comment: str = "", *, tenant: str
    ) -> RunView:
        """Refuses the plan; nothing is done. Raises as `approve` does."""
        return self._decide(run_id, "reject", actor, role, plan_digest, comment, tenant)

    def run(self, run_id: str, *, tenant: str) -> RunView | None:
        return self._store.run(run_id, tenant=tenant)

    def runs(self, tenant: str, incident_id: str | None = None, *, limit: int = 50, cursor: str = "") -> Page[RunView]:
        """Newest first."""
        return self._store.runs(tenant, incident_id, limit=limit, cursor=cursor)

    def audit(self, tenant: str, *, limit: int = 50, cursor: str = "") -> Page[Entry]:
        """Newest first."""
        entries, following = self._audit.entries(tenant, limit, cursor)
        return Page(items=entries, next_cursor=following)

    def verify_audit(self) -> Verdict:
        return self._audit.verify()

    @property
    def frozen(self) -> bool:
        """Whether the kill switch is on, as seen within the last second; costs nothing."""
        return self._freeze.frozen

    def set_frozen(self, frozen: bool, *, actor: str, tenant: str) -> None:
        """The kill switch: while on, no step starts anywhere; it stays on over a restart."""
        self._freeze.set(frozen)
        action = "automation.frozen" if frozen else "automation.thawed"
        self._audit.append(actor, action, "automation", {}, self._clock.now_ns(), tenant)

    def expire(self) -> None:
        """Ends requests whose time is over: expiry means no."""
        now_ns = self._clock.now_ns()
        for run in self._store.in_states([RunState.WAITING_APPROVAL]):
            if run.plan.expires_ns <= now_ns and self._store.move(
                run.run_id, RunState.EXPIRED, now_ns, only_from=[RunState.WAITING_APPROVAL]
            ):
                self._trail.note(run, RunState.EXPIRED, "nobody decided in time; that means no")

    def withdraw(self, incident_id: str, reason: str) -> None:
        """Voids requests of an incident that is over."""
        self._withdraw(incident_id, keep="", reason=reason)

    def _ask(
        self, run_id: str, runbook: Runbook, hypothesis: Hypothesis, incident: Incident, diagnosis: Diagnosis,
        actor: str, idempotency_key: str,
    ) -> RunView:  # fmt: skip
        existing = self._store.run(run_id)
        if existing is not None:
            return existing
        now_ns = self._clock.now_ns()
        expires_s = min(self._expires_s, runbook.approval.expires_s)
        topology = self._topology.snapshot(incident.tenant, at_ns=now_ns)

        def plan_with(previews: Mapping[str, str]) -> Plan:
            return build_plan(
                runbook, hypothesis=hypothesis, diagnosis=diagnosis, incident=incident, topology=topology,
                settings=self._settings, requested_by=actor, now_ns=now_ns,
                expires_ns=now_ns + round(expires_s * NS_PER_S), previews=previews,
            )  # fmt: skip

        draft = plan_with({})
        plan = plan_with(self._previews(draft))
        if self._store.add(run_id, plan, idempotency_key=idempotency_key):
            self._trail.note_request(self._found(run_id), f" ({hypothesis.probability:.0%})")
        return self._found(run_id)

    def _previews(self, plan: Plan) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for step in (*plan.steps, *plan.rollback):
            executor = self._executors.get(step.executor)
            try:
                found[step.step_id] = executor.preview(step) if executor else f"no executor {step.executor!r} here"
            except PlatformError as error:
                found[step.step_id] = f"the dry-run failed: {error}"
        return found

    def _decide(
        self, run_id: str, verdict: str, actor: str, role: str, plan_digest: str, comment: str, tenant: str
    ) -> RunView:
        run = self._store.run(run_id, tenant=tenant)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        now_ns = self._clock.now_ns()
        if run.runbook not in self._runbooks:
            raise PreconditionFailed(f"the runbook {run.runbook} is gone; ask again with one that is there")
        said = _untold(run, actor, verdict, plan_digest)
        if said is not None:
            # It was kept and could not be told, for instance on a full disk: who says it again has it told.
            self._trail.note_decision(run, said)
            return self._found(run_id)
        rules = self._runbooks[run.runbook].approval
        check_decision(
            run, verdict=verdict, actor=actor, role=role, roles=rules.roles, digest=plan_digest, now_ns=now_ns
        )
        decision = Decision(
            verdict=verdict, actor=actor, role=role, digest=plan_digest, time_ns=now_ns, comment=comment
        )
        enough = self._store.decide(run_id, decision, needed=rules.min_approvers, tenant=tenant)
        run = self._found(run_id)
        self._trail.note_decision(
            run, decision, count="" if enough else f", {len(run.decisions)} of {rules.min_approvers},"
        )
        return self._found(run_id)

    def _drift(self, plan: Plan) -> str:
        """What changed since the plan was made, in words."""
        if digest_of(plan) != plan.digest:
            return "the stored plan is not the one that was approved"
        runbook = self._runbooks.get(plan.runbook)
        if runbook is None or runbook.version != plan.runbook_version:
            return f"the runbook {plan.runbook} has changed"
        incident = self._documents.incident(plan.tenant, plan.incident_id)
        if incident is None or incident.state in _OVER:
            return "the incident is over"
        now = blast_radius(self._topology.snapshot(plan.tenant, at_ns=self._clock.now_ns()), plan.cause_entity)
        if now.level != plan.blast_radius.level and _LEVELS.index(now.level) > _LEVELS.index(plan.blast_radius.level):
            return f"the blast radius grew from {plan.blast_radius.level} to {now.level}"
        return ""

    def _withdraw(self, incident_id: str, *, keep: str, reason: str = "the diagnosis has changed") -> None:
        for run in self._store.in_states([RunState.WAITING_APPROVAL], incident_id=incident_id):
            ours = run.requested_by == PLATFORM or not keep
            if (
                run.run_id != keep
                and ours
                and self._store.move(
                    run.run_id, RunState.VOIDED, self._clock.now_ns(), only_from=[RunState.WAITING_APPROVAL]
                )
            ):
                self._trail.note(run, RunState.VOIDED, f"withdrawn: {reason}")

    def _found(self, run_id: str) -> RunView:
        run = self._store.run(run_id)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run


_LEVELS = ("low", "medium", "high")


def _untold(run: RunView, actor: str, verdict: str, plan_digest: str) -> Decision | None:
    """A decision that is kept with a run and that no event speaks of, if somebody says the very same again."""
    for decision in run.decisions:
        same = (decision.actor, decision.verdict, decision.digest) == (actor, verdict, plan_digest)
        if same and not told(run, decision):
            return decision
    return None


def _run_id(incident: Incident, runbook: str, target: str, *more: str) -> str:
    """The same request of the same incident has the same id, so a replay asks once."""
    return derived_id("run", incident.opened_ns, incident.tenant, incident.incident_id, runbook, target, *more)
