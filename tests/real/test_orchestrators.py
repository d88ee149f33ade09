"""Several orchestrators on one PostgreSQL: exactly one acts on a run, and another goes on when it cannot any more."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.operations import Operations
from tests.faults.orchestrators import INCIDENTS, LEASE_S, Estate, target, until
from tests.servers.postgres import Postgres, postgres

from headspring.action.trail import SETTLED_NS
from headspring.action.views import Decision, RunView
from headspring.proto.action import ActionEvent, RunState
from headspring.proto.clock import SystemClock
from headspring.proto.errors import Unavailable

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture
def operations() -> Iterator[Operations]:
    found = Operations(delay_s=0.2, restarted=lambda name: None)
    yield found
    found.close()


@pytest.fixture
def estate(server: Postgres, operations: Operations, tmp_path: Path) -> Iterator[Estate]:
    made = Estate(tmp_path, server.database(), operations.url)
    yield made
    made.close()


def _three_effects(number: int = 0) -> Counter[tuple[str, str]]:
    """What one whole run does, once each."""
    path = f"/services/{target(number)}"
    bodies = (("scale", '{"replicas": "4"}'), ("restart", ""), ("scale", '{"replicas": "2"}'))
    return Counter((f"{path}/{verb}", body) for verb, body in bodies)


def _story(estate: Estate, run_id: str) -> list[str]:
    """The audit trail of a run, oldest first."""
    entries = estate.gateway.audit("default", limit=200).items
    return [f"{entry.action} {entry.detail.get('text', '')}" for entry in reversed(entries) if entry.subject == run_id]


def _whole(estate: Estate, operations: Operations, run: RunView, number: int = 0) -> None:
    """Every step done, its effect had once, and all of it told once."""
    assert run.state is RunState.SUCCEEDED, run.events
    assert [step.state for step in run.steps] == ["done"] * 3
    assert {what: count for what, count in operations.effects.items() if target(number) + "/" in what[0]} == dict(
        _three_effects(number)
    )
    story = _story(estate, run.run_id)
    assert len(story) == len(set(story)), story
    assert [line.split()[0] for line in story] == [
        "run.waiting_approval", "run.approved", *["run.executing"] * 3, "run.validating", "run.succeeded",
    ]  # fmt: skip
    assert estate.gateway.verify_audit().ok


def _in_step(estate: Estate, operations: Operations, number: int) -> RunView:
    """An approved run whose n-th step waits for an answer, which comes with `operations.release`."""
    operations.hold_from = number
    run = estate.requested()
    estate.approve(run)
    until(lambda: len(operations.requests) == number and bool(operations.open), what=f"step {number} is under way")
    return run


def test_what_a_gateway_approves_is_begun_soon_by_one_of_the_orchestrators(
    estate: Estate, operations: Operations
) -> None:
    estate.start()
    run = estate.requested()
    assert operations.effects == Counter()
    estate.approve(run)
    until(lambda: bool(operations.effects), within_s=10, what="a first effect")  # half a second on a quiet machine
    _whole(estate, operations, estate.ended(run.run_id))
    assert set(operations.requests.values()) == {1}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_orchestrator_that_is_cut_off_does_nothing_more_and_another_goes_on(
    estate: Estate, operations: Operations, step: int
) -> None:
    estate.start()
    run = _in_step(estate, operations, step)
    first = estate.owner(run.run_id)
    first.cut_off()
    operations.release()
    _whole(estate, operations, estate.ended(run.run_id))
    second = estate.owner(run.run_id)
    assert second is not first
    requests, told = Counter(operations.requests), _story(estate, run.run_id)
    assert sorted(requests.values()) == [1, 1, 2], "only the step that was under way was asked for again"
    first.come_back()
    time.sleep(2 * LEASE_S)
    assert operations.requests == requests, "it asked the other side again"
    assert _story(estate, run.run_id) == told
    # It is as good as any other afterwards.
    second.kill9()
    again = estate.requested(1)
    estate.approve(again)
    _whole(estate, operations, estate.ended(again.run_id), 1)
    assert estate.owner(again.run_id) is first


def test_wherever_an_orchestrator_is_cut_off_and_comes_back_every_effect_happens_once(
    estate: Estate, operations: Operations
) -> None:
    """Also where nothing waits for an answer: between two writes, or while it asks."""
    estate.start()
    for number in range(6):
        run = estate.requested(number)
        estate.approve(run)
        until(lambda: len(operations.effects) > 3 * number, what="a first effect")  # noqa: B023 - called at once
        time.sleep(0.09 * number)
        owner = estate.owner(run.run_id)
        owner.cut_off()
        if number % 2:
            estate.ended(run.run_id)  # without it
        else:
            time.sleep(LEASE_S / 2)  # before its lease is over
        owner.come_back()
        _whole(estate, operations, estate.ended(run.run_id), number)
    time.sleep(2 * LEASE_S)
    assert set(operations.effects.values()) == {1}


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_of_an_orchestrator_that_was_killed_goes_on_elsewhere(
    estate: Estate, operations: Operations, step: int
) -> None:
    estate.start()
    run = _in_step(estate, operations, step)
    first = estate.owner(run.run_id)
    first.kill9()
    operations.release()
    _whole(estate, operations, estate.ended(run.run_id))
    assert estate.owner(run.run_id) is not first
    # Only the step that was under way was asked for twice, under one key.
    assert sorted(operations.requests.values()) == [1, 1, 2]


def test_a_run_that_nobody_is_left_for_goes_on_when_somebody_comes(estate: Estate, operations: Operations) -> None:
    estate.start(1)
    run = _in_step(estate, operations, 2)
    estate.orchestrators[0].kill9()
    operations.release()
    estate.start(1)
    _whole(estate, operations, estate.ended(run.run_id))


def test_an_orchestrator_that_is_stopped_ends_its_step_and_hands_its_runs_over(
    estate: Estate, operations: Operations
) -> None:
    estate.start()
    run = _in_step(estate, operations, 1)
    first = estate.owner(run.run_id)
    first.process.send_signal(signal.SIGTERM)
    time.sleep(1.5 * LEASE_S)
    assert estate.owner(run.run_id) is first, "the step that is under way has its owner"
    operations.release()
    _whole(estate, operations, estate.ended(run.run_id))
    assert first.process.wait(30) == 0
    assert estate.owner(run.run_id) is not first
    assert set(operations.requests.values()) == {1}


def test_many_runs_are_shared_and_each_has_its_effects_once_while_orchestrators_come_and_go(
    estate: Estate, operations: Operations
) -> None:
    estate.start(3)
    runs = [estate.requested(number) for number in range(INCIDENTS)]
    for run in runs[: INCIDENTS // 2]:
        estate.approve(run)
    until(lambda: len(operations.requests) >= 4, what="some steps under way")
    estate.orchestrators[0].kill9()
    estate.orchestrators[1].cut_off()
    for run in runs[INCIDENTS // 2 :]:
        estate.approve(run)
    estate.start(1)
    time.sleep(LEASE_S)
    estate.orchestrators[1].come_back()
    for number, run in enumerate(runs):
        _whole(estate, operations, estate.ended(run.run_id, within_s=120), number)
    assert set(operations.effects.values()) == {1}
    assert len(operations.effects) == 3 * INCIDENTS


def test_a_database_that_is_away_is_said_to_be_and_everything_goes_on_afterwards(
    estate: Estate, operations: Operations, server: Postgres
) -> None:
    estate.start()
    other = estate.requested(1)
    run = _in_step(estate, operations, 2)
    server.stop()
    operations.release()
    try:
        calls: list[Callable[[], object]] = [
            lambda: estate.gateway.run(run.run_id, tenant="default"),
            lambda: estate.approve(other),
            lambda: estate.gateway.set_frozen(True, actor="ann", tenant="default"),
            estate.gateway.ping,
        ]
        for call in calls:
            with pytest.raises(Unavailable, match="PostgreSQL"):
                call()
        assert estate.gateway.frozen is False
        time.sleep(5)
    finally:
        server.start()
    _whole(estate, operations, estate.ended(run.run_id))
    estate.approve(other)
    _whole(estate, operations, estate.ended(other.run_id), 1)
    assert all(one.process.poll() is None for one in estate.orchestrators)


def test_the_kill_switch_of_a_gateway_stops_the_next_step(estate: Estate, operations: Operations) -> None:
    estate.start()
    run = _in_step(estate, operations, 1)
    estate.gateway.set_frozen(True, actor="ann", tenant="default")
    operations.release()
    ended = estate.ended(run.run_id)
    assert ended.state is RunState.ESCALATED
    assert len(operations.requests) == 1
    assert any("frozen" in event.text for event in ended.events)


def test_what_a_gateway_that_died_decided_is_in_the_trail_before_anything_is_done(
    estate: Estate, operations: Operations
) -> None:
    estate.start()
    run = estate.requested()
    decision = Decision(
        verdict="approve", actor="bob", role="operator", digest=run.plan.digest, time_ns=SystemClock().now_ns()
    )
    estate.gateway._store.decide(run.run_id, decision)  # and dies before it says so
    _whole(estate, operations, estate.ended(run.run_id))


def test_an_event_that_a_process_could_not_publish_any_more_is_published_by_one_other(
    estate: Estate, operations: Operations
) -> None:
    estate.start()
    run = estate.requested()
    event = ActionEvent(
        event_id="ev-left-behind", tenant="default", run_id=run.run_id, incident_id=run.incident_id,
        runbook=run.runbook, state=RunState.WAITING_APPROVAL, time_ns=SystemClock().now_ns(), actor="ann", text="left",
    )  # fmt: skip
    estate.gateway._store.add_event(event)

    def published() -> list[str]:
        return [one for orchestrator in estate.orchestrators for one in orchestrator.published()]

    until(lambda: "ev-left-behind" in published(), within_s=SETTLED_NS / 1e9 + 30, what="it is published")
    time.sleep(12)
    assert published().count("ev-left-behind") == 1
