"""A process that dies between two writes: what was decided is told after the restart, what has ended stays ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.action.acting import Operations, Verdicts, diagnosis, incident, service, wait_for

from headspring.action.execute.http import HttpExecutor
from headspring.action.execution import Execution
from headspring.action.service import ActionService
from headspring.action.store import RunStore
from headspring.action.views import Decision, RunView
from headspring.proto.action import Plan, RunState
from headspring.proto.clock import SystemClock
from headspring.proto.errors import Conflict, Unavailable

CLOCK = SystemClock()


class Died(BaseException):
    """The process is gone; nothing catches this."""


@pytest.fixture
def operations() -> Iterator[Operations]:
    found = Operations()
    yield found
    found.close()


@pytest.fixture
def plan(tmp_path: Path, operations: Operations) -> Plan:
    """A real plan of a life that is over."""
    acting = service(tmp_path, operations.url)
    run = acting.propose(incident(), diagnosis())
    acting.stop()
    assert run is not None
    return run.plan


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    found = RunStore(f"sqlite:///{tmp_path / 'actions.db'}")
    yield found
    found.close()


def _restarted(folder: Path, operations: Operations) -> Iterator[ActionService]:
    acting = service(folder, operations.url)
    acting.start()
    yield acting
    acting.stop()


def _trail(acting: ActionService) -> list[tuple[str, str]]:
    return [(entry.action, entry.actor) for entry in reversed(acting.audit("default").items)]


def _waiting(store: RunStore) -> RunView:
    return next(iter(store.in_states([RunState.WAITING_APPROVAL])))


def _decide(store: RunStore, plan: Plan, verdict: str) -> RunView:
    run = _waiting(store)
    decision = Decision(
        verdict=verdict, actor="ann", role="operator", digest=plan.digest, time_ns=CLOCK.now_ns(), comment="so be it"
    )
    store.decide(run.run_id, decision)
    return run


def test_a_request_that_nobody_was_told_of_is_told(
    tmp_path: Path, operations: Operations, plan: Plan, store: RunStore
) -> None:
    store.add("run-untold", plan)
    for acting in _restarted(tmp_path, operations):
        run = acting.run("run-untold", tenant="default")
        assert run is not None
        assert [event.state for event in run.events] == [RunState.WAITING_APPROVAL]
        assert _trail(acting) == [("run.waiting_approval", "headspring")] * 2


@pytest.mark.parametrize(
    ("verdict", "end", "after"),
    [("approve", RunState.SUCCEEDED, "run.approved"), ("reject", RunState.REJECTED, "run.rejected")],
)
def test_a_decision_that_was_not_told_is_in_the_trail_before_anything_is_done(
    tmp_path: Path, operations: Operations, plan: Plan, store: RunStore, verdict: str, end: RunState, after: str
) -> None:
    run = _decide(store, plan, verdict)
    for acting in _restarted(tmp_path, operations):
        wait_for(acting, run.run_id, end)
        assert _trail(acting)[1] == (after, "ann")
    for acting in _restarted(tmp_path, operations):  # and only once
        assert _trail(acting).count((after, "ann")) == 1


def test_who_approves_again_after_the_trail_could_not_be_written_has_it_written_and_the_run_begun(
    tmp_path: Path, operations: Operations, plan: Plan, store: RunStore
) -> None:
    for acting in _restarted(tmp_path, operations):
        run_id = _waiting(store).run_id
        with sqlite3.connect(tmp_path / "audit.db") as held:
            held.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable):
                acting.approve(run_id, "ann", "operator", plan.digest, tenant="default")
            held.rollback()
        held.close()
        acting.approve(run_id, "ann", "operator", plan.digest, tenant="default")
        wait_for(acting, run_id, RunState.SUCCEEDED)
        assert _trail(acting).count(("run.approved", "ann")) == 1
        with pytest.raises(Conflict):
            acting.approve(run_id, "ann", "operator", plan.digest, tenant="default")


def test_a_withdrawal_that_was_not_told_is_told(
    tmp_path: Path, operations: Operations, plan: Plan, store: RunStore
) -> None:
    store.move(_waiting(store).run_id, RunState.VOIDED, CLOCK.now_ns())
    for acting in _restarted(tmp_path, operations):
        assert [action for action, _ in _trail(acting)] == ["run.waiting_approval", "run.voided"]


class _Notes:
    """Notes that may die instead of being written."""

    def __init__(self) -> None:
        self.written: list[tuple[RunState, str]] = []
        self.dying = False

    def __call__(self, run: RunView, state: RunState, text: str, *, step_id: str = "", actor: str = "") -> None:
        if self.dying:
            raise Died
        self.written.append((state, text))


def _execution(store: RunStore, operations: Operations, notes: _Notes, **changes: Any) -> Execution:
    return Execution(
        store=store, executors=[HttpExecutor(ops_url=operations.url)], validator=Verdicts(), clock=CLOCK, note=notes,
        **{"drift": lambda plan: "", **changes},
    )  # fmt: skip


def test_an_end_or_a_step_that_was_not_told_is_told_by_the_next_try_and_done_once(
    operations: Operations, plan: Plan, store: RunStore
) -> None:
    run, notes = _decide(store, plan, "approve"), _Notes()
    execution = _execution(store, operations, notes)
    for call in (
        lambda: execution.act(run.run_id, plan.steps[0], undo=False),
        lambda: execution.succeed(run.run_id),
    ):
        notes.dying = True
        with pytest.raises(Died):
            call()
        notes.dying = False
        call()
    assert [state for state, _ in notes.written] == [RunState.EXECUTING, RunState.SUCCEEDED]
    assert len(operations.posts()) == 1


def test_a_run_that_was_voided_does_nothing_when_the_world_has_turned_back(
    operations: Operations, plan: Plan, store: RunStore
) -> None:
    run, notes = _decide(store, plan, "approve"), _Notes()
    changes = iter(["the incident is over"])
    execution = _execution(store, operations, notes, drift=lambda plan: next(changes, ""))
    notes.dying = True
    with pytest.raises(Died):
        execution.recheck(run.run_id)
    assert execution.recheck(run.run_id) is False
    assert "voided" in execution.act(run.run_id, plan.steps[0], undo=False)
    assert operations.posts() == []
