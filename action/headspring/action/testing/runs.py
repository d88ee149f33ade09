"""The contract of the store of runs."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from headspring.action.store import RunStore
from headspring.action.views import Decision
from headspring.proto.action import ActionEvent, Plan, PlannedStep, RunState
from headspring.proto.errors import Conflict, ContractError, NotFound

OpenStore = Callable[[], RunStore]


def plan(
    *, tenant: str = "t", incident: str = "inc-1", target: str = "service:default/billing", requested_by: str = "ann",
    created_ns: int = 1_000,
) -> Plan:  # fmt: skip
    step = PlannedStep(step_id="s1", name="restart", executor="http", idempotent=True)
    return Plan(
        plan_id="p", tenant=tenant, incident_id=incident, runbook="restart-service", runbook_version="1",
        title="Restart", steps=(step,), requested_by=requested_by, created_ns=created_ns, digest="d",
        cause_entity=target,
    )  # fmt: skip


def decision(actor: str, verdict: str = "approve", *, time_ns: int = 2_000) -> Decision:
    return Decision(verdict=verdict, actor=actor, role="operator", digest="d", time_ns=time_ns, comment="so be it")


def event(number: int, *, run_id: str = "run-1", tenant: str = "t", time_ns: int = 3_000) -> ActionEvent:
    return ActionEvent(
        event_id=f"ev-{number}", tenant=tenant, run_id=run_id, incident_id="inc-1", runbook="restart-service",
        state=RunState.WAITING_APPROVAL, time_ns=time_ns, actor="ann", text=f"event {number}",
    )  # fmt: skip


class RunStoreContract:
    """Subclass it and give it an `open_store` fixture: the same rows each time, as another process would see them."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("the binding gives a fixture open_store")

    @pytest.fixture
    def store(self, open_store: OpenStore) -> RunStore:
        return open_store()

    def test_a_run_is_added_once_and_read_whole_by_others(self, store: RunStore, open_store: OpenStore) -> None:
        assert store.add("run-1", plan())
        assert not store.add("run-1", plan(target="service:default/other"))
        found = open_store().run("run-1", tenant="t")
        assert found is not None
        assert (found.plan, found.state, found.decisions) == (plan(), RunState.WAITING_APPROVAL, ())

    def test_a_run_of_another_tenant_is_not_there(self, store: RunStore) -> None:
        store.add("run-1", plan())
        assert store.run("run-1", tenant="other") is None
        assert list(store.runs("other").items) == []
        with pytest.raises(NotFound):
            store.decide("run-1", decision("eve"), tenant="other")
        found = store.run("run-1")
        assert found is not None
        assert found.state is RunState.WAITING_APPROVAL

    def test_a_key_of_a_requester_starts_one_run(self, store: RunStore) -> None:
        store.add("run-1", plan(), idempotency_key="k")
        assert store.by_idempotency_key("t", "ann", "k") == "run-1"
        assert store.by_idempotency_key("t", "bob", "k") is None
        assert store.by_idempotency_key("other", "ann", "k") is None
        assert not store.add("run-1", plan(), idempotency_key="k")
        with pytest.raises(Conflict, match="Idempotency-Key"):
            store.add("run-2", plan(), idempotency_key="k")
        assert store.add("run-3", plan(requested_by="bob"), idempotency_key="k")
        assert store.add("run-4", plan())
        assert store.add("run-5", plan())

    def test_the_first_decision_counts_and_later_ones_are_told_so(self, store: RunStore) -> None:
        store.add("run-1", plan())
        assert store.decide("run-1", decision("ann", "reject"))
        with pytest.raises(Conflict, match="ann was first: reject"):
            store.decide("run-1", decision("bob"))
        found = store.run("run-1")
        assert found is not None
        assert (found.state, [one.comment for one in found.decisions]) == (RunState.REJECTED, ["so be it"])
        with pytest.raises(NotFound):
            store.decide("run-9", decision("ann"))

    def test_two_approvals_are_of_two_people(self, store: RunStore) -> None:
        store.add("run-1", plan())
        assert not store.decide("run-1", decision("ann"), needed=2)
        with pytest.raises(Conflict, match="has decided"):
            store.decide("run-1", decision("ann"), needed=2)
        assert store.decide("run-1", decision("bob", time_ns=2_500), needed=2)
        found = store.run("run-1")
        assert found is not None
        assert (found.state, [one.actor for one in found.decisions]) == (RunState.APPROVED, ["ann", "bob"])

    def test_one_run_at_a_time_acts_on_a_target_of_a_tenant(self, store: RunStore) -> None:
        for number, made in enumerate((plan(), plan(), plan(tenant="other"))):
            store.add(f"run-{number}", made)
        assert store.decide("run-0", decision("ann"))
        with pytest.raises(Conflict, match="run-0 is acting"):
            store.decide("run-1", decision("ann"))
        assert store.decide("run-2", decision("ann"))
        store.move("run-0", RunState.SUCCEEDED, 9)
        assert store.decide("run-1", decision("ann"))

    def test_of_many_decisions_at_once_one_counts(self, open_store: OpenStore) -> None:
        stores = [open_store() for _ in range(3)]
        for round_number in range(4):
            run_id = f"run-{round_number}"
            stores[0].add(run_id, plan(target=f"service:default/{round_number}"))
            outcomes = _at_once(
                [
                    partial(stores[number % 3].decide, run_id, decision(f"person-{number}", verdict))
                    for number, verdict in enumerate(("approve", "reject", "approve") * 3)
                ]
            )
            assert [outcome is True for outcome in outcomes].count(True) == 1
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 8
            found = stores[1].run(run_id)
            assert found is not None
            assert len(found.decisions) == 1

    def test_of_many_runs_on_a_target_approved_at_once_one_acts(self, open_store: OpenStore) -> None:
        stores = [open_store() for _ in range(3)]
        for number in range(6):
            stores[0].add(f"run-{number}", plan(incident=f"inc-{number}"))
        outcomes = _at_once(
            [partial(stores[number % 3].decide, f"run-{number}", decision(f"person-{number}")) for number in range(6)]
        )
        assert [outcome is True for outcome in outcomes].count(True) == 1
        assert len(stores[2].in_states([RunState.APPROVED])) == 1

    def test_of_many_that_expire_a_run_one_does_and_a_decided_one_stays(self, open_store: OpenStore) -> None:
        stores = [open_store() for _ in range(3)]
        stores[0].add("run-1", plan())
        move = [
            partial(store.move, "run-1", RunState.EXPIRED, 5, only_from=[RunState.WAITING_APPROVAL]) for store in stores
        ]
        assert sorted(map(str, _at_once(move))) == ["False", "False", "True"]
        stores[0].add("run-2", plan())
        stores[1].decide("run-2", decision("ann"))
        assert not stores[2].move("run-2", RunState.EXPIRED, 5, only_from=[RunState.WAITING_APPROVAL])

    def test_an_end_is_final(self, store: RunStore) -> None:
        store.add("run-1", plan())
        assert store.move("run-1", RunState.EXECUTING, 5)
        assert not store.move("run-1", RunState.EXECUTING, 6)
        assert store.move("run-1", RunState.ESCALATED, 7)
        assert not store.move("run-1", RunState.ROLLING_BACK, 8)
        found = store.run("run-1")
        assert found is not None
        assert (found.state, found.updated_ns) == (RunState.ESCALATED, 7)

    def test_a_step_that_was_begun_is_seen_by_the_next_try(self, store: RunStore, open_store: OpenStore) -> None:
        store.add("run-1", plan())
        assert store.begin_step("run-1", "s1", 5) is None
        again = open_store().begin_step("run-1", "s1", 6)
        assert again is not None
        assert (again.state, again.started_ns) == ("started", 5)
        store.end_step("run-1", "s1", state="done", output="x" * 30_000, now_ns=7)
        ended = open_store().begin_step("run-1", "s1", 8)
        assert ended is not None
        assert (ended.state, ended.ended_ns, len(ended.output)) == ("done", 7, 20_000)
        store.note_validation("run-1", "pass: well")
        found = store.run("run-1")
        assert found is not None
        assert (found.validation, [step.step_id for step in found.steps]) == ("pass: well", ["s1"])

    def test_an_event_is_written_once_and_stays_until_it_is_published(
        self, store: RunStore, open_store: OpenStore
    ) -> None:
        store.add("run-1", plan())
        stores = [open_store() for _ in range(3)]
        added = _at_once([partial(one.add_event, event(1)) for one in stores])
        assert sorted(map(str, added)) == ["False", "False", "True"]
        assert store.add_event(event(2, time_ns=2_000))
        assert store.has_event("ev-1")
        assert not store.has_event("ev-3")
        assert list(store.unemitted()) == [event(2, time_ns=2_000), event(1)]
        assert list(store.unemitted(before_ns=3_000)) == [event(2, time_ns=2_000)]
        store.mark_emitted("ev-2")
        assert list(store.unemitted()) == [event(1)]
        assert list(store.events_between(2_000, 3_000)) == [event(2, time_ns=2_000)]
        found = store.run("run-1")
        assert found is not None
        assert found.events == (event(2, time_ns=2_000), event(1))

    def test_pages_are_newest_first_by_tenant_and_incident(self, store: RunStore) -> None:
        for number in range(7):
            made = plan(tenant=f"t{number % 2}", incident=f"inc-{number % 3}", created_ns=number // 2)
            store.add(f"run-{number}", made)
        first = store.runs("t0", limit=2)
        second = store.runs("t0", limit=2, cursor=first.next_cursor)
        assert [run.run_id for run in (*first.items, *second.items)] == ["run-6", "run-4", "run-2", "run-0"]
        assert second.next_cursor == ""
        assert [run.run_id for run in store.runs("t0", "inc-0").items] == ["run-6", "run-0"]
        with pytest.raises(ContractError):
            store.runs("t0", cursor="1; DROP")

    def test_what_nobody_was_told_of_is_found(self, store: RunStore) -> None:
        """A request, a decision, and an end beside the workflow; each without the event that says so."""
        for number in range(4):
            store.add(f"run-{number}", plan(target=f"service:default/{number}", created_ns=1_000 + number))
        for number in (1, 2, 3):
            store.add_event(event(number, run_id=f"run-{number}", time_ns=1_500))
        store.decide("run-1", decision("ann", time_ns=2_000))
        store.move("run-2", RunState.EXPIRED, 2_500)
        assert [run.run_id for run in store.untold()] == ["run-0", "run-1", "run-2"]
        assert [run.run_id for run in store.untold(before_ns=2_000)] == ["run-0"]
        store.add_event(event(9, run_id="run-1", time_ns=2_100))
        assert [run.run_id for run in store.untold()] == ["run-0", "run-2"]

    def test_what_acted_lately_is_counted_by_tenant(self, store: RunStore) -> None:
        for number, tenant in enumerate(("t", "t", "other")):
            store.add(f"run-{number}", plan(tenant=tenant))
            if number:
                store.begin_step(f"run-{number}", "s1", 5)
                store.move(f"run-{number}", RunState.SUCCEEDED, 5_000)
        about = ("restart-service", "service:default/billing")
        assert store.acted_since(*about, 4_000, tenant="t") == 1
        assert store.acted_since(*about, 6_000, tenant="t") == 0
        assert store.acted_since("other", about[1], 0, tenant="t") == 0

    def test_runs_in_states_are_oldest_first(self, store: RunStore) -> None:
        for number in (2, 1, 3):
            store.add(f"run-{number}", replace(plan(created_ns=number), incident_id=f"inc-{number % 2}"))
        found = store.in_states([RunState.WAITING_APPROVAL])
        assert [run.run_id for run in found] == ["run-1", "run-2", "run-3"]
        assert [run.run_id for run in store.in_states([RunState.WAITING_APPROVAL], incident_id="inc-0")] == ["run-2"]
        assert store.in_states([RunState.EXECUTING]) == []


def _at_once(calls: Sequence[Callable[[], object]]) -> list[object]:
    """What each call answered or raised, all begun together."""
    ready = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        ready.wait()
        try:
            return call()
        except Conflict as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))
