"""No effect without consent; one decision; recovery verified, undone, or handed to a person."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.action.acting import Operations, Verdicts, diagnosis, incident, service, wait_for

from headspring.action.service import ATTEMPTS, ActionService
from headspring.proto import codec
from headspring.proto.action import ActionEvent, Feedback, RunState
from headspring.proto.clock import ManualClock
from headspring.proto.errors import Conflict, Forbidden, NotFound, PreconditionFailed
from headspring.proto.incident import DiagnosisStatus, IncidentState
from headspring.proto.topics import ACTIONS, FEEDBACK


@pytest.fixture
def operations() -> Iterator[Operations]:
    found = Operations()
    yield found
    found.close()


@pytest.fixture
def verdicts() -> Verdicts:
    return Verdicts()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=1_700_000_000 * 10**9)


@pytest.fixture
def published() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture
def database_url() -> str:
    """Where `test_acting_postgres` puts a server's; "" for files."""
    return ""


@pytest.fixture
def another(
    tmp_path: Path, operations: Operations, verdicts: Verdicts, clock: ManualClock, published: list[tuple[str, bytes]],
    database_url: str,
) -> Callable[[], ActionService]:  # fmt: skip
    """The acting side over the same stores each time, not started."""
    return lambda: service(
        tmp_path, operations.url, clock=clock, verdicts=verdicts, database_url=database_url,
        emit=lambda topic, key, value, time_ns: published.append((topic, value)),
    )  # fmt: skip


@pytest.fixture
def acting(another: Callable[[], ActionService]) -> Iterator[ActionService]:
    made = another()
    made.start()
    yield made
    made.stop()


def _proposed(acting: ActionService, number: int = 1) -> tuple[str, str]:
    run = acting.propose(incident(number), diagnosis(number))
    assert run is not None
    return run.run_id, run.plan.digest


def test_an_approved_plan_runs_is_verified_and_published(
    acting: ActionService, operations: Operations, published: list[tuple[str, bytes]]
) -> None:
    run_id, digest = _proposed(acting)
    acting.approve(run_id, "ann", "operator", digest, "go", tenant="default")
    run = wait_for(acting, run_id, RunState.SUCCEEDED)
    assert operations.posts() == ["/services/billing/restart"]
    assert run.validation.startswith("pass")
    deadline = time.monotonic() + 10
    while published[-1][0] != FEEDBACK.name and time.monotonic() < deadline:
        time.sleep(0.05)  # it is published after it is in the store
    states = [codec.decode(ActionEvent, value).state for topic, value in published if topic == ACTIONS.name]
    assert states[0] is RunState.WAITING_APPROVAL
    assert states[-1] is RunState.SUCCEEDED
    outcomes = [codec.decode(Feedback, value).verdict for topic, value in published if topic == FEEDBACK.name]
    assert outcomes == ["outcome-success"]
    assert acting.verify_audit().ok


def test_nothing_is_posted_before_approval(acting: ActionService, operations: Operations) -> None:
    _proposed(acting)
    assert operations.posts() == []
    assert ("GET", "/services/billing") in operations.requests  # the dry-run


def test_a_rejected_plan_never_runs(acting: ActionService, operations: Operations) -> None:
    run_id, digest = _proposed(acting)
    acting.reject(run_id, "ann", "operator", digest, tenant="default")
    with pytest.raises(Conflict, match="ann"):
        acting.approve(run_id, "bob", "operator", digest, tenant="default")
    assert operations.posts() == []


def test_an_approval_of_another_plan_is_refused(acting: ActionService) -> None:
    run_id, digest = _proposed(acting)
    with pytest.raises(PreconditionFailed, match="digest"):
        acting.approve(run_id, "ann", "operator", digest[::-1], tenant="default")


@pytest.mark.parametrize("role", ["viewer", "ingest", "nobody", ""])
def test_roles_below_operator_cannot_approve(acting: ActionService, role: str) -> None:
    run_id, digest = _proposed(acting)
    with pytest.raises(Forbidden):
        acting.approve(run_id, "ann", role, digest, tenant="default")


def test_whoever_asked_cannot_approve(acting: ActionService) -> None:
    run = acting.request("inc-1", "restart-service", "ann", "key-1", tenant="default")
    with pytest.raises(Forbidden, match="somebody else"):
        acting.approve(run.run_id, "ann", "admin", run.plan.digest, tenant="default")
    acting.approve(run.run_id, "bob", "operator", run.plan.digest, tenant="default")
    wait_for(acting, run.run_id, RunState.SUCCEEDED)


def test_the_same_request_twice_is_one_run_and_a_key_is_for_one_request(acting: ActionService) -> None:
    first = acting.request("inc-1", "restart-service", "ann", "key-1", tenant="default")
    assert acting.request("inc-1", "restart-service", "ann", "key-1", tenant="default").run_id == first.run_id
    with pytest.raises(Conflict, match="Idempotency-Key"):
        acting.request("inc-2", "restart-service", "ann", "key-1", tenant="default")


def test_other_tenants_runs_are_not_found(acting: ActionService) -> None:
    run_id, digest = _proposed(acting)
    assert acting.run(run_id, tenant="other") is None
    with pytest.raises(NotFound):
        acting.approve(run_id, "eve", "admin", digest, tenant="other")


def test_expiry_means_no(acting: ActionService, clock: ManualClock, operations: Operations) -> None:
    run_id, digest = _proposed(acting)
    clock.advance(4000)
    with pytest.raises(PreconditionFailed, match="expired"):
        acting.approve(run_id, "ann", "operator", digest, tenant="default")
    acting.expire()
    run = acting.run(run_id, tenant="default")
    assert run is not None
    assert run.state is RunState.EXPIRED
    assert operations.posts() == []


def test_a_plan_that_does_not_help_ends_with_a_person(
    acting: ActionService, verdicts: Verdicts, clock: ManualClock
) -> None:
    verdicts.verdict = "inconclusive"
    run_id, digest = _proposed(acting)
    acting._execution.within_s = lambda plan: 1.0  # type: ignore[method-assign]  # the library waits minutes
    acting.approve(run_id, "ann", "operator", digest, tenant="default")
    run = wait_for(acting, run_id, RunState.ESCALATED)
    assert run.validation.startswith("inconclusive")


def test_a_refused_step_is_not_called_a_success(acting: ActionService, operations: Operations) -> None:
    operations.status = 500
    run_id, digest = _proposed(acting)
    acting.approve(run_id, "ann", "operator", digest, tenant="default")
    run = wait_for(acting, run_id, RunState.ESCALATED, RunState.ROLLED_BACK)
    assert any(step.state == "failed" for step in run.steps)


def test_the_kill_switch_stops_steps_and_outlives_a_restart(
    acting: ActionService, operations: Operations, another: Callable[[], ActionService]
) -> None:
    acting.set_frozen(True, actor="ann", tenant="default")
    run_id, digest = _proposed(acting)
    acting.approve(run_id, "bob", "operator", digest, tenant="default")
    wait_for(acting, run_id, RunState.ESCALATED)
    assert operations.posts() == []
    later = another()
    assert later.frozen
    later.stop()


def test_a_second_run_on_the_same_target_waits_its_turn(acting: ActionService, operations: Operations) -> None:
    operations.delay_s = 1.0
    run_id, digest = _proposed(acting)
    other_id, other_digest = _proposed(acting, 2)
    acting.approve(run_id, "ann", "operator", digest, tenant="default")
    with pytest.raises(Conflict, match="is acting on"):
        acting.approve(other_id, "ann", "operator", other_digest, tenant="default")
    wait_for(acting, run_id, RunState.SUCCEEDED)


def test_one_of_many_simultaneous_decisions_counts(acting: ActionService, operations: Operations) -> None:
    run_id, digest = _proposed(acting)
    barrier = threading.Barrier(12)
    outcomes: list[str] = []

    def decide(number: int) -> None:
        barrier.wait()
        try:
            verb = acting.approve if number % 2 else acting.reject
            verb(run_id, f"person-{number}", "operator", digest, tenant="default")
            outcomes.append("counted")
        except Conflict:
            outcomes.append("too late")

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["counted"] + ["too late"] * 11
    wait_for(acting, run_id, RunState.SUCCEEDED, RunState.REJECTED)
    assert len(operations.posts()) <= 1


def test_a_replayed_diagnosis_asks_once(acting: ActionService) -> None:
    assert _proposed(acting) == _proposed(acting)
    assert len(acting.runs("default").items) == 1


@pytest.mark.parametrize("status", [DiagnosisStatus.INCONCLUSIVE, DiagnosisStatus.UNSPECIFIED])
def test_an_unsure_diagnosis_proposes_nothing(acting: ActionService, status: DiagnosisStatus) -> None:
    assert acting.propose(incident(), diagnosis(status=status)) is None


def test_automation_gives_up_after_some_attempts(acting: ActionService, clock: ManualClock) -> None:
    for number in range(1, ATTEMPTS + 1):
        run_id, digest = _proposed(acting, number)
        acting.approve(run_id, "ann", "operator", digest, tenant="default")
        wait_for(acting, run_id, RunState.SUCCEEDED)
    third = acting.propose(incident(3), diagnosis(3))
    assert third is None or third.runbook != "restart-service"


def test_an_approval_is_void_when_the_incident_is_over(acting: ActionService, operations: Operations) -> None:
    from dataclasses import replace

    run_id, digest = _proposed(acting)
    acting._documents.put_incident(replace(incident(), version=9, state=IncidentState.RESOLVED))
    acting.approve(run_id, "ann", "operator", digest, tenant="default")
    wait_for(acting, run_id, RunState.VOIDED)
    assert operations.posts() == []
