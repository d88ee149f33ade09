"""When a diagnosis becomes a question to people: once it has stood, sooner when it is confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.action.acting import CALLER, Operations, diagnosis, incident, service

from headspring.action.service import ActionService
from headspring.action.stage import ActStage
from headspring.action.store import RunStore
from headspring.proto import codec
from headspring.proto.action import RunState
from headspring.proto.clock import ManualClock
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Incident, IncidentState
from headspring.proto.topics import DIAGNOSES, INCIDENTS
from headspring.streaming.log.port import Record, StoredRecord


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=1_700_000_000 * 10**9)


@pytest.fixture
def acting(tmp_path: Path, clock: ManualClock) -> Iterator[ActionService]:
    operations = Operations()
    made = service(tmp_path, operations.url, clock=clock)  # proposals need no workflow runtime
    yield made
    operations.close()


def _stored(topic: str, message: Incident | Diagnosis) -> StoredRecord:
    return StoredRecord(
        topic=topic, partition=0, offset=0, record=Record(key=b"k", value=codec.encode(message), time_ns=1)
    )


async def _feed(stage: ActStage, *messages: Incident | Diagnosis) -> None:
    for message in messages:
        topic = INCIDENTS.name if isinstance(message, Incident) else DIAGNOSES.name
        await stage.process(topic, [_stored(topic, message)])


def _states(acting: ActionService) -> list[RunState]:
    return [run.state for run in acting.runs("default").items]


async def test_a_confirmed_cause_is_asked_about_after_a_second_look(acting: ActionService, clock: ManualClock) -> None:
    stage = ActStage(acting, clock)
    await _feed(stage, incident(), diagnosis(status=DiagnosisStatus.CONFIRMED))
    assert _states(acting) == []
    clock.advance(4)
    await stage.tick(clock.now_ns())
    assert _states(acting) == [RunState.WAITING_APPROVAL]


async def test_what_is_to_be_done_may_change_though_the_entity_does_not(
    acting: ActionService, clock: ManualClock
) -> None:
    stage = ActStage(acting, clock)
    first = diagnosis(status=DiagnosisStatus.CONFIRMED)
    await _feed(stage, incident(), first)
    clock.advance(3)
    deployed = replace(first.hypotheses[0], kind=CauseKind.CHANGE, change_id="ch-1")
    await _feed(stage, replace(first, version=2, hypotheses=(deployed,)))
    clock.advance(3)
    await stage.tick(clock.now_ns())
    assert _states(acting) == [], "the second answer has not stood yet"
    clock.advance(1)
    await stage.tick(clock.now_ns())
    assert len(_states(acting)) == 1


async def test_what_is_found_while_a_run_acts_is_asked_about_afterwards(
    acting: ActionService, clock: ManualClock, tmp_path: Path
) -> None:
    stage = ActStage(acting, clock)
    await _feed(stage, incident(), diagnosis(status=DiagnosisStatus.CONFIRMED))
    clock.advance(4)
    await stage.tick(clock.now_ns())
    (first,) = acting.runs("default").items
    store = RunStore(f"sqlite:///{tmp_path / 'actions.db'}")
    store.move(first.run_id, RunState.EXECUTING, clock.now_ns())
    other = replace(diagnosis().hypotheses[0], entity=CALLER)
    await _feed(stage, replace(diagnosis(status=DiagnosisStatus.CONFIRMED), version=2, hypotheses=(other,)))
    clock.advance(10)
    await stage.tick(clock.now_ns())
    assert len(_states(acting)) == 1
    store.move(first.run_id, RunState.SUCCEEDED, clock.now_ns())
    await stage.tick(clock.now_ns())
    assert {run.plan.cause_entity for run in acting.runs("default").items} == {CALLER, first.plan.cause_entity}
    store.close()


async def test_a_likely_cause_must_stand_for_some_seconds(acting: ActionService, clock: ManualClock) -> None:
    stage = ActStage(acting, clock)
    await _feed(stage, incident(), diagnosis())
    assert _states(acting) == []
    clock.advance(6)
    await stage.tick(clock.now_ns())
    assert _states(acting) == [RunState.WAITING_APPROVAL]


async def test_a_cause_that_changes_starts_its_time_again(acting: ActionService, clock: ManualClock) -> None:
    stage = ActStage(acting, clock)
    other = replace(diagnosis().hypotheses[0], entity=CALLER)
    await _feed(stage, incident(), replace(diagnosis(), hypotheses=(other,)))
    clock.advance(4)
    await _feed(stage, replace(diagnosis(), version=2))
    clock.advance(4)
    await stage.tick(clock.now_ns())
    assert _states(acting) == []
    clock.advance(2)
    await stage.tick(clock.now_ns())
    assert [run.plan.cause_entity for run in acting.runs("default").items] == [diagnosis().hypotheses[0].entity]


async def test_a_resolved_incident_takes_its_question_back(acting: ActionService, clock: ManualClock) -> None:
    stage = ActStage(acting, clock)
    await _feed(stage, incident(), diagnosis(status=DiagnosisStatus.CONFIRMED))
    clock.advance(4)
    await stage.tick(clock.now_ns())
    await _feed(stage, replace(incident(), version=2, state=IncidentState.RESOLVED))
    assert _states(acting) == [RunState.VOIDED]


async def test_a_restart_goes_on_asking(acting: ActionService, clock: ManualClock) -> None:
    stage = ActStage(acting, clock)
    await _feed(stage, incident(), diagnosis())
    again = ActStage(acting, clock)
    again.restore(stage.snapshot())
    clock.advance(6)
    await again.tick(clock.now_ns())
    assert _states(acting) == [RunState.WAITING_APPROVAL]
