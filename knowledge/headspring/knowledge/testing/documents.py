"""The document store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from headspring.knowledge.documents.port import DocumentStore
from headspring.proto.detection import Alert, AlertStatus
from headspring.proto.errors import QueryError
from headspring.proto.incident import Diagnosis, Incident, IncidentState, Member
from headspring.proto.telemetry import Change, LogBatch, LogRecord

OpenDocuments = Callable[[], DocumentStore]


def incident(key: str, *, opened_ns: int = 0, version: int = 1, title: str = "Trouble", tenant: str = "t") -> Incident:
    return Incident(
        incident_id=key, tenant=tenant, version=version, title=title, opened_ns=opened_ns,
        entities=("service:d/a", "service:d/b"), members=(Member(alert=alert("al", name="HighLatency")),),
    )  # fmt: skip


def alert(key: str, *, starts_ns: int = 0, updated_ns: int = 0, name: str = "Load", tenant: str = "t") -> Alert:
    return Alert(
        alert_id=key, tenant=tenant, fingerprint="f", entity="service:d/a", name=name, starts_ns=starts_ns,
        updated_ns=updated_ns,
    )  # fmt: skip


def logs(*bodies: str, time_ns: int = 0, severity: int = 9, entity: str = "service:d/a", tenant: str = "t") -> LogBatch:
    records = tuple(
        LogRecord(time_ns=time_ns + one, severity_number=severity, body=body, attributes={"k": f"v{one}"})
        for one, body in enumerate(bodies)
    )
    return LogBatch(tenant=tenant, entity=entity, records=records)


class DocumentStoreContract:
    """Subclass it and give it an `open_documents` fixture."""

    @pytest.fixture
    def open_documents(self) -> OpenDocuments:
        raise NotImplementedError("the binding gives a fixture open_documents")

    @pytest.fixture
    def store(self, open_documents: OpenDocuments) -> Iterator[DocumentStore]:
        store = open_documents()
        yield store
        store.close()

    def test_everything_is_there_after_opening_again(self, open_documents: OpenDocuments) -> None:
        store = open_documents()
        diagnosis = Diagnosis(incident_id="in-1", tenant="t", method="m")
        change = Change(change_id="c", tenant="t", time_ns=5)
        store.put_incident(incident("in-1"))
        store.put_diagnosis(diagnosis)
        store.put_alert(alert("al-1"))
        store.put_change(change)
        store.put_logs(logs("hello"))
        store.close()
        store = open_documents()
        assert store.incident("t", "in-1") == incident("in-1")
        assert store.diagnosis("t", "in-1") == diagnosis
        assert store.alert("t", "al-1") == alert("al-1")
        assert store.changes("t", start_ns=0, end_ns=10) == [change]
        assert [hit.record for hit in store.search_logs("t", "").items] == list(logs("hello").records)
        assert store.counts("t") == {"incidents": 1, "diagnoses": 1, "alerts": 1, "changes": 1, "logs": 1}
        store.close()

    def test_a_replayed_older_version_changes_nothing(self, store: DocumentStore) -> None:
        store.put_incident(incident("in-1", version=2, title="new words"))
        store.put_incident(incident("in-1", version=1, title="old"))
        found = store.incident("t", "in-1")
        assert found is not None
        assert found.version == 2
        assert store.incidents("t", text="old").items == ()
        store.put_diagnosis(Diagnosis(incident_id="in-1", tenant="t", version=3))
        store.put_diagnosis(Diagnosis(incident_id="in-1", tenant="t", version=2))
        diagnosis = store.diagnosis("t", "in-1")
        assert diagnosis is not None
        assert diagnosis.version == 3

    def test_a_newer_version_replaces_state_entities_and_words(self, store: DocumentStore) -> None:
        store.put_incident(incident("in-1"))
        store.put_incident(
            replace(incident("in-1", version=2, title="Calm"), state=IncidentState.RESOLVED, entities=("service:d/c",))
        )
        assert store.incidents("t", states=["open"]).items == ()
        assert len(store.incidents("t", states=["resolved", "open"]).items) == 1
        assert store.incidents("t", entity="service:d/a").items == ()
        assert len(store.incidents("t", entity="service:d/c").items) == 1
        assert store.incidents("t", text="trouble").items == ()
        assert len(store.incidents("t", text="calm").items) == 1

    def test_a_merged_incident_is_found_by_its_alias(self, store: DocumentStore) -> None:
        store.put_incident(replace(incident("in-2"), aliases=("in-1",)))
        found = store.incident("t", "in-1")
        assert found is not None
        assert found.incident_id == "in-2"

    def test_incidents_are_searched_by_title_entity_and_alert(self, store: DocumentStore) -> None:
        store.put_incident(incident("in-1", title="Checkout is slow"))
        store.put_incident(incident("in-2", title="Other"))
        assert [one.incident_id for one in store.incidents("t", text="slow checkout").items] == ["in-1"]
        assert len(store.incidents("t", text="highlatency").items) == 2
        assert store.incidents("t", text="slow nothing").items == ()

    def test_pages_are_whole_while_new_documents_arrive(self, store: DocumentStore) -> None:
        for one in range(7):
            store.put_incident(incident(f"in-{one}", opened_ns=one // 2))
        seen: list[str] = []
        cursor = ""
        for page in range(10):
            got = store.incidents("t", limit=2, cursor=cursor)
            seen += [one.incident_id for one in got.items]
            store.put_incident(incident(f"in-new{page}", opened_ns=100 + page))
            store.put_incident(incident("in-0", opened_ns=50, version=2 + page))  # updated, not moved
            cursor = got.next_cursor
            if not cursor:
                break
        assert seen == [f"in-{one}" for one in (6, 5, 4, 3, 2, 1, 0)]

    def test_alerts_are_listed_newest_first_by_status_and_entity(self, store: DocumentStore) -> None:
        store.put_alert(alert("al-1", starts_ns=1))
        store.put_alert(replace(alert("al-2", starts_ns=2), status=AlertStatus.RESOLVED))
        store.put_alert(replace(alert("al-3", starts_ns=3), entity="service:d/b"))
        assert [one.alert_id for one in store.alerts("t").items] == ["al-3", "al-2", "al-1"]
        assert [one.alert_id for one in store.alerts("t", status="resolved").items] == ["al-2"]
        assert [one.alert_id for one in store.alerts("t", entity="service:d/b").items] == ["al-3"]
        first = store.alerts("t", limit=2)
        assert [one.alert_id for one in store.alerts("t", limit=2, cursor=first.next_cursor).items] == ["al-1"]

    def test_changes_are_listed_by_time_and_entity(self, store: DocumentStore) -> None:
        for one in range(5):
            store.put_change(Change(change_id=f"c{one}", tenant="t", time_ns=one, entity=f"service:d/{one % 2}"))
        assert [one.change_id for one in store.changes("t", start_ns=1, end_ns=4)] == ["c3", "c2", "c1"]
        assert [one.change_id for one in store.changes("t", start_ns=0, end_ns=9, entity="service:d/1")] == ["c3", "c1"]
        assert [one.change_id for one in store.changes("t", start_ns=0, end_ns=9, limit=1)] == ["c4"]

    def test_logs_are_found_by_all_words_newest_first(self, store: DocumentStore) -> None:
        store.put_logs(logs("connection refused by payment", "connection ok", "payment refused"))
        bodies = [hit.record.body for hit in store.search_logs("t", "refused PAYMENT").items]
        assert bodies == ["payment refused", "connection refused by payment"]
        assert store.search_logs("t", "refused nothing").items in ([], ())

    @pytest.mark.parametrize("text", ['"', "a OR", "NEAR(", "x:y", "*", "-x", "'; DROP TABLE logs; --", "()", "\0"])
    def test_no_search_text_is_syntax(self, store: DocumentStore, text: str) -> None:
        store.put_logs(logs("plain words"))
        assert len(store.search_logs("t", text).items) == 0
        assert len(store.incidents("t", text=text).items) == 0

    def test_logs_are_filtered_and_paged(self, store: DocumentStore) -> None:
        store.put_logs(logs("a", "b", time_ns=10))
        store.put_logs(logs("c", time_ns=20, severity=17, entity="service:d/b"))
        store.put_logs(logs("d", time_ns=10))  # at the same time as another
        assert [hit.record.body for hit in store.search_logs("t", "", min_severity=17).items] == ["c"]
        assert [hit.entity for hit in store.search_logs("t", "", entity="service:d/b").items] == ["service:d/b"]
        assert [hit.record.body for hit in store.search_logs("t", "", start_ns=11, end_ns=20).items] == ["b"]
        seen: list[str] = []
        cursor = ""
        while True:
            page = store.search_logs("t", "", limit=1, cursor=cursor)
            seen += [hit.record.body for hit in page.items]
            cursor = page.next_cursor
            if not cursor:
                break
        assert sorted(seen) == ["a", "b", "c", "d"]
        assert seen[0] == "c"

    def test_a_replayed_log_batch_is_there_once_and_true_repeats_stay(self, store: DocumentStore) -> None:
        line = LogRecord(time_ns=1, body="tick")
        twice = LogBatch(tenant="t", entity="service:d/a", records=(line, line))
        store.put_logs(twice)
        store.put_logs(twice)
        assert len(store.search_logs("t", "tick").items) == 2

    def test_dropped_logs_are_not_found_any_more(self, store: DocumentStore) -> None:
        store.put_logs(logs("old word", time_ns=1))
        store.put_logs(logs("new word", time_ns=100))
        assert store.drop_logs_before(100) == 1
        assert [hit.record.body for hit in store.search_logs("t", "word").items] == ["new word"]
        assert store.counts("t")["logs"] == 1
        store.put_logs(logs("third word", time_ns=101))
        assert len(store.search_logs("t", "old").items) == 0
        assert len(store.search_logs("t", "third").items) == 1

    def test_tenants_do_not_see_each_other(self, store: DocumentStore) -> None:
        store.put_incident(replace(incident("in-1"), aliases=("in-0",)))
        store.put_alert(alert("al-1"))
        store.put_logs(logs("secret"))
        assert store.incident("other", "in-1") is None
        assert store.incident("other", "in-0") is None
        assert store.incidents("other", text="trouble").items == ()
        assert store.alert("other", "al-1") is None
        assert len(store.search_logs("other", "secret").items) == 0
        store.put_incident(incident("in-1", tenant="other", title="theirs"))
        mine = store.incident("t", "in-1")
        assert mine is not None
        assert mine.title == "Trouble"

    @pytest.mark.parametrize("cursor", ["nonsense", "AAAA", "é", "x" * 2000])
    def test_a_foreign_cursor_is_refused(self, store: DocumentStore, cursor: str) -> None:
        with pytest.raises(QueryError):
            store.incidents("t", cursor=cursor)
        with pytest.raises(QueryError):
            store.search_logs("t", "", cursor=cursor)
