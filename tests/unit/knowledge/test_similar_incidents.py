"""Earlier incidents of like shape are found, with the reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.memory.similar import similar_incidents
from headspring.proto.detection import Alert
from headspring.proto.incident import (
    CauseKind,
    Diagnosis,
    DiagnosisStatus,
    Hypothesis,
    Incident,
    IncidentState,
    Member,
)  # fmt: skip


def incident(key: str, entities: str, alerts: str, *, opened_ns: int = 1) -> Incident:
    members = tuple(
        Member(alert=Alert(alert_id=name, tenant="t", fingerprint=name, entity="e", name=name))
        for name in alerts.split()
    )
    return Incident(
        incident_id=key, tenant="t", state=IncidentState.RESOLVED, opened_ns=opened_ns,
        entities=tuple(entities.split()), members=members,
    )  # fmt: skip


def blaming(key: str, entity: str, kind: CauseKind, status: DiagnosisStatus = DiagnosisStatus.LIKELY) -> Diagnosis:
    return Diagnosis(incident_id=key, tenant="t", status=status, hypotheses=(Hypothesis(entity=entity, kind=kind),))


@pytest.fixture
def documents() -> SqliteDocumentStore:
    return SqliteDocumentStore(None)


def test_the_same_trouble_of_before_comes_first(documents: SqliteDocumentStore) -> None:
    documents.put_incident(incident("same", "a b", "Latency Errors"))
    documents.put_incident(incident("half", "a c", "Latency"))
    documents.put_incident(incident("other", "x y", "DiskFull"))
    found = similar_incidents(incident("now", "a b", "Latency Errors", opened_ns=9), None, documents)
    assert [(one.incident.incident_id, round(one.likeness, 2)) for one in found] == [("same", 1.0), ("half", 0.42)]
    assert found[1].components == {"entities": 1 / 3, "alerts": 0.5}


def test_the_same_cause_counts_and_an_inconclusive_one_does_not(documents: SqliteDocumentStore) -> None:
    for key in ("right", "wrong", "open-question"):
        documents.put_incident(incident(key, "a b", "Latency"))
    documents.put_diagnosis(blaming("right", "a", CauseKind.CHANGE))
    documents.put_diagnosis(blaming("wrong", "b", CauseKind.CRASH))
    documents.put_diagnosis(blaming("open-question", "b", CauseKind.CRASH, DiagnosisStatus.INCONCLUSIVE))
    now = incident("now", "a b", "Latency Errors", opened_ns=9)
    found = similar_incidents(now, blaming("now", "a", CauseKind.CHANGE), documents)
    assert [one.incident.incident_id for one in found] == ["right", "open-question", "wrong"]
    assert found[0].components["cause"] == 1.0
    assert "cause" not in found[1].components


def test_neither_itself_nor_open_nor_later_incidents_are_listed(documents: SqliteDocumentStore) -> None:
    now = incident("now", "a", "Latency", opened_ns=5)
    documents.put_incident(now)
    documents.put_incident(replace(incident("open", "a", "Latency"), state=IncidentState.OPEN))
    documents.put_incident(incident("later", "a", "Latency", opened_ns=6))
    documents.put_incident(incident("alias", "a", "Latency"))
    assert similar_incidents(replace(now, aliases=("alias",)), None, documents) == ()
    documents.put_incident(incident("before", "a", "Latency", opened_ns=4))
    assert [one.incident.incident_id for one in similar_incidents(now, None, documents)] == ["before", "alias"]


def test_the_limit_holds(documents: SqliteDocumentStore) -> None:
    for one in range(8):
        documents.put_incident(incident(f"in-{one}", "a", "Latency", opened_ns=one))
    found = similar_incidents(incident("now", "a", "Latency", opened_ns=99), None, documents, limit=3)
    assert [one.incident.incident_id for one in found] == ["in-7", "in-6", "in-5"]
