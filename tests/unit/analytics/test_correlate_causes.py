"""Two confirmed causes in one incident become two incidents, each with the alerts that it explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.analytics.correlate.stage import CorrelateStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, Direction, Severity
from headspring.proto.ids import entity_id
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis, Incident, IncidentState
from headspring.proto.telemetry import Change
from headspring.proto.topics import ALERTS, DIAGNOSES
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import Record, StoredRecord

START_NS = 1_700_000_000 * NS_PER_S
FRONT, ORDERS, PAY, LIST, STORE = (entity_id("service", name) for name in ("front", "orders", "pay", "list", "store"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=START_NS)


@pytest.fixture
def stage(tmp_path: Path, clock: ManualClock) -> CorrelateStage:
    topology = EmbeddedTopology(tmp_path / "topology.db")
    calls = [(FRONT, ORDERS), (ORDERS, PAY), (FRONT, LIST), (PAY, STORE), (LIST, STORE)]
    topology.observe("default", [Edge(caller=a, callee=b, source="spans", last_seen_ns=START_NS) for a, b in calls])
    return CorrelateStage(clock=clock, topology=topology)


def _alert(entity: str, metric: str, second: float, **labels: str) -> Alert:
    name = f"{entity}|{metric}|{labels.get('callee', '')}"
    return Alert(
        alert_id=name, tenant="default", fingerprint=name, entity=entity, name=metric, metric=metric,
        severity=Severity.CRITICAL, starts_ns=START_NS + round(second * NS_PER_S), direction=Direction.UP,
        labels=labels, source="detect.basic",
    )  # fmt: skip


ALERTS_OF_BOTH = (
    _alert(PAY, semantics.SERVICE_LATENCY_P95, 0),
    _alert(ORDERS, semantics.SERVICE_LATENCY_P95, 0),
    _alert(LIST, semantics.SERVICE_ERROR_RATIO, 2),
    _alert(FRONT, semantics.SERVICE_LATENCY_MEAN, 2),
    _alert(FRONT, semantics.SERVICE_ERROR_RATIO, 2),
    _alert(FRONT, semantics.EDGE_ERROR_RATIO, 2, caller="front", callee="list"),
    _alert(FRONT, semantics.EDGE_LATENCY_MEAN, 2, caller="front", callee="orders"),
)


async def _give(stage: CorrelateStage, topic: str, *messages: Alert | Diagnosis | Change) -> dict[str, Incident]:
    records = [
        StoredRecord(topic=topic, partition=0, offset=0, record=Record(key=b"", value=codec.encode(one), time_ns=1))
        for one in messages
    ]
    return _incidents(await stage.process(topic, records))


def _incidents(outgoing: object) -> dict[str, Incident]:
    assert isinstance(outgoing, list | tuple)
    found = [codec.decode(Incident, out.value) for out in outgoing if isinstance(out, Outgoing)]
    return {incident.incident_id: incident for incident in found}


def _cause(entity: str, kind: CauseKind, status: DiagnosisStatus = DiagnosisStatus.CONFIRMED) -> Hypothesis:
    return Hypothesis(entity=entity, kind=kind, probability=0.99, status=status)


async def test_each_cause_takes_the_alerts_it_explains(stage: CorrelateStage) -> None:
    opened = await _give(stage, ALERTS.name, *ALERTS_OF_BOTH)
    assert len(opened) == 1, "a common callee may be behind both: alerts alone do not part them"
    diagnosis = Diagnosis(
        incident_id=next(iter(opened)), tenant="default",
        hypotheses=(_cause(PAY, CauseKind.LATENCY), _cause(LIST, CauseKind.ERRORS)),
    )  # fmt: skip
    parted = await _give(stage, DIAGNOSES.name, diagnosis)
    members = {frozenset((m.alert.entity, m.alert.metric) for m in incident.members) for incident in parted.values()}
    slow = {
        (PAY, semantics.SERVICE_LATENCY_P95), (ORDERS, semantics.SERVICE_LATENCY_P95),
        (FRONT, semantics.SERVICE_LATENCY_MEAN), (FRONT, semantics.EDGE_LATENCY_MEAN),
    }  # fmt: skip
    failing = {
        (LIST, semantics.SERVICE_ERROR_RATIO), (FRONT, semantics.SERVICE_ERROR_RATIO),
        (FRONT, semantics.EDGE_ERROR_RATIO),
    }  # fmt: skip
    assert members == {frozenset(slow), frozenset(failing)}
    assert all(incident.state is IncidentState.OPEN for incident in parted.values())


async def test_a_later_alert_of_the_second_cause_joins_its_incident(stage: CorrelateStage) -> None:
    first_id = next(iter(await _give(stage, ALERTS.name, *ALERTS_OF_BOTH)))
    both = (_cause(PAY, CauseKind.LATENCY), _cause(LIST, CauseKind.ERRORS))
    diagnosis = Diagnosis(incident_id=first_id, tenant="default", hypotheses=both)
    parted = await _give(stage, DIAGNOSES.name, diagnosis)
    await _give(stage, ALERTS.name, _alert(LIST, semantics.EDGE_ERROR_RATIO, 5, caller="front", callee="list"))
    again = await _give(stage, DIAGNOSES.name, diagnosis)
    assert set(again) <= set(parted), "no third incident"


@pytest.mark.parametrize(
    "second",
    [
        _cause(LIST, CauseKind.ERRORS, DiagnosisStatus.INCONCLUSIVE),
        _cause(ORDERS, CauseKind.LATENCY),  # lies above the first: it may only pass the trouble on
    ],
)
async def test_an_unsure_or_dependent_cause_parts_nothing(stage: CorrelateStage, second: Hypothesis) -> None:
    first_id = next(iter(await _give(stage, ALERTS.name, *ALERTS_OF_BOTH)))
    causes = (_cause(PAY, CauseKind.LATENCY), second)
    assert not await _give(stage, DIAGNOSES.name, Diagnosis(incident_id=first_id, tenant="default", hypotheses=causes))
