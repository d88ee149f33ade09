"""Runs, decisions, steps and events in one relational database (SQLite when embedded, else PostgreSQL).

Every change is one transaction. What must happen once is a primary key: a second decision about a run, or a
second event of the same id, cannot be written. A change that is part of acting may bring the lease of who acts: it is
refused when somebody else acts by now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from headspring.action.leases import Lease, fence
from headspring.action.views import Decision, RunView, StepResult
from headspring.knowledge.documents.port import Page
from headspring.proto import codec
from headspring.proto.action import ActionEvent, Plan, RunState
from headspring.proto.errors import Conflict, ContractError, NotFound
from headspring.proto.relational.database import ALL_TENANTS, Database, Place, Tenant, insert_new
from headspring.proto.relational.schema import Schema

_ACTING = tuple(
    state.value for state in (RunState.APPROVED, RunState.EXECUTING, RunState.VALIDATING, RunState.ROLLING_BACK)
)
"""One run at a time acts on a target."""
_ENDED_ASIDE = tuple(
    state.value for state in (RunState.REJECTED, RunState.EXPIRED, RunState.VOIDED, RunState.ESCALATED)
)
"""Ends that need not be the last step of a workflow, so that no workflow comes back to them."""
_metadata = sa.MetaData()
_runs = sa.Table(
    "runs", _metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("runbook", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False, default=""),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("updated_ns", sa.BigInteger, nullable=False),
    sa.Column("validation", sa.Text, nullable=False, default=""),
    sa.Index("runs_by_time", "tenant", "created_ns", "run_id"),
    sa.Index("runs_by_incident", "tenant", "incident_id"),
    sa.Index("runs_by_state", "state", "updated_ns"),
)  # fmt: skip
_decisions = sa.Table(
    "decisions", _metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("actor", sa.Text, primary_key=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
)  # fmt: skip
_steps = sa.Table(
    "steps", _metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("step_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False, default=""),
    sa.Column("started_ns", sa.BigInteger, nullable=False),
    sa.Column("ended_ns", sa.BigInteger, nullable=False, default=0),
)  # fmt: skip
_events = sa.Table(
    "events", _metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False, index=True),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("emitted", sa.Boolean, nullable=False, default=False),
)  # fmt: skip


SCHEMA = Schema(
    name="runs", tables=_metadata,
    within={"decisions": ("run_id", "runs"), "steps": ("run_id", "runs"), "events": ("run_id", "runs")},
)  # fmt: skip
_EVER_NS = 2**62


class RunStore:
    """See the module. Calls block and may come from several threads; each may raise `Unavailable`.

    Any backend must pass `headspring.action.testing.RunStoreContract`.
    """

    def __init__(self, place: Place) -> None:
        self.database = Database(place, SCHEMA)

    def close(self) -> None:
        self.database.close()

    def add(self, run_id: str, plan: Plan, *, idempotency_key: str = "") -> bool:
        """Adds a planned run; False when it is there already.

        Raises:
            Conflict: the key of this requester started another run.
        """
        row = {
            "run_id": run_id, "tenant": plan.tenant, "incident_id": plan.incident_id, "runbook": plan.runbook,
            "target": plan.cause_entity, "state": RunState.WAITING_APPROVAL.value, "plan": codec.encode(plan),
            "requested_by": plan.requested_by, "idempotency_key": idempotency_key, "created_ns": plan.created_ns,
            "updated_ns": plan.created_ns, "validation": "",
        }  # fmt: skip
        with self._change(plan.tenant) as connection:
            if idempotency_key:
                self.database.lock(connection, "request", plan.tenant, plan.requested_by, idempotency_key)
                earlier = connection.execute(_by_key(plan.tenant, plan.requested_by, idempotency_key)).scalar()
                if earlier not in (None, run_id):
                    raise Conflict("this Idempotency-Key was used for another request")
            return insert_new(connection, _runs, row)

    def by_idempotency_key(self, tenant: str, actor: str, key: str) -> str | None:
        """Run that this key of this actor started before."""
        if not key:
            return None
        with self.database.reading(tenant=tenant) as connection:
            found: str | None = connection.execute(_by_key(tenant, actor, key)).scalar()
        return found

    def decide(self, run_id: str, decision: Decision, *, needed: int = 1, tenant: str | None = None) -> bool:
        """Writes the decision and the state that follows from it, if the run still waits.

        Args:
            needed: People who must approve; one rejection is enough to end it.
            tenant: Of who decides; another tenant's run is not found. None for any.

        Returns:
            False when more people must approve.

        Raises:
            NotFound: no such run.
            Conflict: it was decided before, the run waits no more, or another run acts on the same target.
        """
        with self._change(_scope(tenant)) as connection:
            mine = sa.select(_runs).where(_runs.c.run_id == run_id)
            row = connection.execute(mine).first()
            if row is None or (tenant is not None and row.tenant != tenant):
                raise NotFound(f"there is no run {run_id}")
            # One decision about a target at a time, and nothing else changes the run meanwhile.
            self.database.lock(connection, "target", row.tenant, row.target)
            row = connection.execute(mine.with_for_update()).one()
            earlier = connection.execute(
                sa.select(_decisions).where(_decisions.c.run_id == run_id).order_by(_decisions.c.time_ns)
            ).all()
            if row.state != RunState.WAITING_APPROVAL.value:
                who = f"; {earlier[-1].actor} was first: {earlier[-1].verdict}" if earlier else ""
                raise Conflict(f"run {run_id} is {row.state}, it waits for no decision{who}")
            if any(one.actor == decision.actor for one in earlier):
                raise Conflict(f"{decision.actor} has decided about run {run_id} already")
            state: RunState | None = RunState.REJECTED
            if decision.verdict == "approve":
                other = connection.execute(
                    sa.select(_runs.c.run_id).where(
                        _runs.c.tenant == row.tenant, _runs.c.target == row.target, _runs.c.state.in_(_ACTING)
                    )
                ).first()
                if other is not None:
                    raise Conflict(f"run {other.run_id} is acting on {row.target}; decide again when it has ended")
                state = RunState.APPROVED if len(earlier) + 1 >= needed else None
            connection.execute(
                sa.insert(_decisions).values(
                    run_id=run_id, verdict=decision.verdict, actor=decision.actor, role=decision.role,
                    digest=decision.digest, comment=decision.comment, time_ns=decision.time_ns,
                )
            )  # fmt: skip
            if state is not None:
                connection.execute(
                    sa.update(_runs)
                    .where(_runs.c.run_id == run_id)
                    .values(state=state.value, updated_ns=decision.time_ns)
                )
        return state is not None

    def move(
        self, run_id: str, state: RunState, now_ns: int, *, only_from: Sequence[RunState] = (),
        lease: Lease | None = None,
    ) -> bool:  # fmt: skip
        """Sets the state; False when the run is not in one of `only_from` or is final already."""
        final = [one.value for one in RunState if one.final]
        condition = [_runs.c.run_id == run_id, _runs.c.state.not_in([*final, state.value])]
        if only_from:
            condition.append(_runs.c.state.in_([one.value for one in only_from]))
        with self._change(ALL_TENANTS, lease) as connection:
            changed = connection.execute(
                sa.update(_runs).where(*condition).values(state=state.value, updated_ns=now_ns)
            ).rowcount
        return changed == 1

    def note_validation(self, run_id: str, text: str, *, lease: Lease | None = None) -> None:
        with self._change(ALL_TENANTS, lease) as connection:
            connection.execute(sa.update(_runs).where(_runs.c.run_id == run_id).values(validation=text))

    def begin_step(self, run_id: str, step_id: str, now_ns: int, *, lease: Lease | None = None) -> StepResult | None:
        """Marks a step as started; what an earlier try left, when there was one."""
        values = {
            "run_id": run_id, "step_id": step_id, "state": "started", "started_ns": now_ns, "output": "", "ended_ns": 0,
        }  # fmt: skip
        with self._change(ALL_TENANTS, lease) as connection:
            if insert_new(connection, _steps, values):
                return None
            row = connection.execute(
                sa.select(_steps).where(_steps.c.run_id == run_id, _steps.c.step_id == step_id)
            ).one()
        return _step(row)

    def end_step(
        self, run_id: str, step_id: str, *, state: str, output: str, now_ns: int, lease: Lease | None = None
    ) -> None:
        with self._change(ALL_TENANTS, lease) as connection:
            connection.execute(
                sa.update(_steps)
                .where(_steps.c.run_id == run_id, _steps.c.step_id == step_id)
                .values(state=state, output=output[:20_000], ended_ns=now_ns)
            )

    def has_event(self, event_id: str) -> bool:
        with self.database.reading(tenant=ALL_TENANTS) as connection:
            query = sa.select(_events.c.event_id).where(_events.c.event_id == event_id)
            return connection.execute(query).first() is not None

    def add_event(self, event: ActionEvent) -> bool:
        """False when an event of that id is there already."""
        with self._change(event.tenant) as connection:
            return put_event(connection, event)

    def mark_emitted(self, event_id: str) -> None:
        with self._change(ALL_TENANTS) as connection:
            connection.execute(sa.update(_events).where(_events.c.event_id == event_id).values(emitted=True))

    def unemitted(self, *, before_ns: int = _EVER_NS) -> Sequence[ActionEvent]:
        """Events that were written before then but perhaps not published, oldest first."""
        return self._told(_events.c.emitted.is_(False), _events.c.time_ns < before_ns)

    def events_between(self, since_ns: int, before_ns: int) -> Sequence[ActionEvent]:
        """All events of that time, oldest first."""
        return self._told(_events.c.time_ns >= since_ns, _events.c.time_ns < before_ns)

    def run(self, run_id: str, *, tenant: str | None = None) -> RunView | None:
        """A run with everything; None when there is none, or it is another tenant's."""
        with self.database.reading(tenant=_scope(tenant)) as connection:
            row = connection.execute(sa.select(_runs).where(_runs.c.run_id == run_id)).first()
            if row is None or (tenant is not None and row.tenant != tenant):
                return None
            return _views(connection, [row])[0]

    def runs(self, tenant: str, incident_id: str | None = None, *, limit: int = 50, cursor: str = "") -> Page[RunView]:
        """Newest first."""
        query = sa.select(_runs).where(_runs.c.tenant == tenant)
        if incident_id:
            query = query.where(_runs.c.incident_id == incident_id)
        if cursor:
            created, _, run_id = cursor.partition("~")
            if not (created.isascii() and created.isdigit() and len(created) < 19):
                raise ContractError(f"{cursor[:40]!r} is not a cursor of a list of runs")
            query = query.where(sa.tuple_(_runs.c.created_ns, _runs.c.run_id) < sa.tuple_(int(created), run_id))
        query = query.order_by(_runs.c.created_ns.desc(), _runs.c.run_id.desc()).limit(limit + 1)
        with self.database.reading(tenant=tenant) as connection:
            rows = connection.execute(query).all()
            items = _views(connection, rows[:limit])
        more = len(rows) > limit
        return Page(items=items, next_cursor=f"{items[-1].created_ns}~{items[-1].run_id}" if more else "")

    def in_states(self, states: Sequence[RunState], *, incident_id: str = "") -> Sequence[RunView]:
        query = sa.select(_runs).where(_runs.c.state.in_([state.value for state in states]))
        if incident_id:
            query = query.where(_runs.c.incident_id == incident_id)
        with self.database.reading(tenant=ALL_TENANTS) as connection:
            return _views(connection, connection.execute(query.order_by(_runs.c.created_ns)).all())

    def untold(self, *, before_ns: int = _EVER_NS) -> Sequence[RunView]:
        """Runs that were asked for, decided about or ended before then without an event that says so: the process
        died between the two. Oldest first; runs whose workflow goes on say the rest themselves."""
        event_ns = sa.select(sa.func.max(_events.c.time_ns)).where(_events.c.run_id == _runs.c.run_id).scalar_subquery()
        decided_ns = (
            sa.select(sa.func.max(_decisions.c.time_ns)).where(_decisions.c.run_id == _runs.c.run_id).scalar_subquery()
        )
        query = sa.select(_runs).where(
            sa.or_(
                sa.and_(event_ns.is_(None), _runs.c.created_ns < before_ns),
                sa.and_(decided_ns > event_ns, decided_ns < before_ns),
                sa.and_(
                    _runs.c.state.in_(_ENDED_ASIDE), _runs.c.updated_ns > event_ns, _runs.c.updated_ns < before_ns
                ),
            )
        )  # fmt: skip
        with self.database.reading(tenant=ALL_TENANTS) as connection:
            return _views(connection, connection.execute(query.order_by(_runs.c.created_ns)).all())

    def acted_since(self, runbook: str, target: str, since_ns: int, *, tenant: str) -> int:
        """Runs of a runbook on a target that acted since then; for cool-downs."""
        query = (
            sa.select(sa.func.count())
            .select_from(_runs)
            .where(
                _runs.c.tenant == tenant, _runs.c.runbook == runbook, _runs.c.target == target,
                _runs.c.updated_ns >= since_ns,
                _runs.c.run_id.in_(sa.select(_steps.c.run_id)),
            )
        )  # fmt: skip
        with self.database.reading(tenant=tenant) as connection:
            return int(connection.execute(query).scalar_one())

    @contextmanager
    def _change(self, tenant: Tenant, lease: Lease | None = None) -> Iterator[sa.Connection]:
        with self.database.transaction(tenant=tenant) as connection:
            if lease is not None:
                fence(connection, lease)
            yield connection

    def _told(self, *conditions: sa.ColumnElement[bool]) -> Sequence[ActionEvent]:
        query = sa.select(_events.c.body).where(*conditions).order_by(_events.c.time_ns)
        with self.database.reading(tenant=ALL_TENANTS) as connection:
            return [codec.decode(ActionEvent, row.body) for row in connection.execute(query)]


def put_event(connection: sa.Connection, event: ActionEvent) -> bool:
    """Adds an event in a transaction that may hold more; False when an event of that id is there already."""
    return insert_new(
        connection, _events,
        {
            "event_id": event.event_id, "run_id": event.run_id, "time_ns": event.time_ns, "body": codec.encode(event),
            "emitted": False,
        },
    )  # fmt: skip


def _scope(tenant: str | None) -> Tenant:
    return ALL_TENANTS if tenant is None else tenant


def _by_key(tenant: str, actor: str, key: str) -> sa.Select[Any]:
    return sa.select(_runs.c.run_id).where(
        _runs.c.tenant == tenant, _runs.c.requested_by == actor, _runs.c.idempotency_key == key
    )


def _views(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[RunView]:
    """Runs with everything, in three queries however many they are."""
    ids = [row.run_id for row in rows]
    if not ids:
        return []
    decisions: dict[str, list[Decision]] = defaultdict(list)
    for one in connection.execute(
        sa.select(_decisions).where(_decisions.c.run_id.in_(ids)).order_by(_decisions.c.time_ns)
    ):
        decisions[one.run_id].append(
            Decision(
                verdict=one.verdict, actor=one.actor, role=one.role, digest=one.digest, time_ns=one.time_ns,
                comment=one.comment,
            )
        )  # fmt: skip
    steps: dict[str, list[StepResult]] = defaultdict(list)
    for one in connection.execute(sa.select(_steps).where(_steps.c.run_id.in_(ids)).order_by(_steps.c.started_ns)):
        steps[one.run_id].append(_step(one))
    events: dict[str, list[ActionEvent]] = defaultdict(list)
    for one in connection.execute(
        sa.select(_events).where(_events.c.run_id.in_(ids)).order_by(_events.c.time_ns, _events.c.event_id)
    ):
        events[one.run_id].append(codec.decode(ActionEvent, one.body))
    return [
        RunView(
            run_id=row.run_id, tenant=row.tenant, incident_id=row.incident_id, runbook=row.runbook,
            state=RunState(row.state), plan=codec.decode(Plan, row.plan), requested_by=row.requested_by,
            created_ns=row.created_ns, updated_ns=row.updated_ns, validation=row.validation,
            decisions=tuple(decisions[row.run_id]), steps=tuple(steps[row.run_id]), events=tuple(events[row.run_id]),
        )
        for row in rows
    ]  # fmt: skip


def _step(row: sa.Row[Any]) -> StepResult:
    return StepResult(
        step_id=row.step_id, state=row.state, started_ns=row.started_ns, ended_ns=row.ended_ns, output=row.output
    )
