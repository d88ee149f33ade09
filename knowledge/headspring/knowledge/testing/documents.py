"""The document store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from headspring.knowledge.documents.port import LOGS_LISTED_WITHIN_S, DocumentStore
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
        store.settle()
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
        store.settle()
        assert len(store.incidents("t", text="old").items) == 0
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
        store.settle()
        assert len(store.incidents("t", states=["open"]).items) == 0
        assert len(store.incidents("t", states=["resolved", "open"]).items) == 1
        assert len(store.incidents("t", entity="service:d/a").items) == 0
        assert len(store.incidents("t", entity="service:d/c").items) == 1
        assert len(store.incidents("t", text="trouble").items) == 0
        assert len(store.incidents("t", text="calm").items) == 1

    def test_a_merged_incident_is_found_by_its_alias(self, store: DocumentStore) -> None:
        store.put_incident(replace(incident("in-2"), aliases=("in-1",)))
        store.settle()
        found = store.incident("t", "in-1")
        assert found is not None
        assert found.incident_id == "in-2"

    def test_incidents_are_searched_by_title_entity_and_alert(self, store: DocumentStore) -> None:
        store.put_incident(incident("in-1", title="Checkout is slow"))
        store.put_incident(incident("in-2", title="Other"))
        store.settle()
        assert [one.incident_id for one in store.incidents("t", text="slow checkout").items] == ["in-1"]
        assert len(store.incidents("t", text="highlatency").items) == 2
        assert len(store.incidents("t", text="slow nothing").items) == 0

    def test_pages_are_whole_while_new_documents_arrive(self, store: DocumentStore) -> None:
        for one in range(7):
            store.put_incident(incident(f"in-{one}", opened_ns=one // 2))
        store.settle()
        seen: list[str] = []
        cursor = ""
        for page in range(10):
            got = store.incidents("t", limit=2, cursor=cursor)
            seen += [one.incident_id for one in got.items]
            store.put_incident(incident(f"in-new{page}", opened_ns=100 + page))
            store.put_incident(incident("in-0", opened_ns=50, version=2 + page))  # updated, not moved
            store.settle()
            cursor = got.next_cursor
            if not cursor:
                break
        assert seen == [f"in-{one}" for one in (6, 5, 4, 3, 2, 1, 0)]

    def test_many_at_once_are_put_as_one_by_one_in_order(self, store: DocumentStore) -> None:
        store.put_all(
            [
                alert("al-1", starts_ns=5, updated_ns=2),
                incident("in-1", version=1, opened_ns=3),
                incident("in-1", version=3, opened_ns=9, title="third"),
                incident("in-1", version=2, opened_ns=1, title="second"),
                incident("in-2", opened_ns=5),
                Diagnosis(incident_id="in-1", tenant="t", version=2, method="new"),
                Diagnosis(incident_id="in-1", tenant="t", version=1, method="old"),
                Change(change_id="c", tenant="t", time_ns=1),
                Change(change_id="c", tenant="t", time_ns=2),
                alert("al-1", starts_ns=9, updated_ns=1, name="Earlier"),
                incident("in-1", tenant="other"),
                logs("one", "two"),
                logs("three", time_ns=7),
            ]
        )
        store.put_all([])
        store.settle()
        assert [(one.incident_id, one.title) for one in store.incidents("t").items] == [
            ("in-2", "Trouble"),
            ("in-1", "third"),  # at its first version's place
        ]
        assert [one.name for one in store.alerts("t").items] == ["Load"]
        diagnosis = store.diagnosis("t", "in-1")
        assert diagnosis is not None
        assert diagnosis.method == "new"
        assert [one.time_ns for one in store.changes("t", start_ns=0, end_ns=9)] == [2]
        assert store.counts("t") == {"incidents": 2, "diagnoses": 1, "alerts": 1, "changes": 1, "logs": 3}
        assert store.counts("other")["incidents"] == 1

    def test_diagnoses_of_many_incidents_are_read_at_once(self, store: DocumentStore) -> None:
        assert store.diagnoses("t", []) == {}
        store.put_all([Diagnosis(incident_id=f"in-{one}", tenant="t", version=one) for one in range(1, 4)])
        store.put_diagnosis(Diagnosis(incident_id="in-4", tenant="other"))
        found = store.diagnoses("t", ["in-3", "in-1", "in-4", "in-5"])
        assert {key: one.version for key, one in found.items()} == {"in-1": 1, "in-3": 3}

    def test_of_several_writers_the_highest_version_stays(self, open_documents: OpenDocuments) -> None:
        stores = [open_documents() for _ in range(3)]

        def write(number: int) -> None:
            for version in range(1 + number, 31, 3):
                stores[number].put_all(
                    [incident("in-1", version=version, title=f"v{version}"), alert("al", updated_ns=version)]
                )

        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(write, range(len(stores))))
        for store in stores:
            found, raised = store.incident("t", "in-1"), store.alert("t", "al")
            assert found is not None
            assert (found.version, found.title) == (30, "v30")
            assert raised is not None
            assert raised.updated_ns == 30
            store.close()

    def test_what_is_put_is_listed_soon_without_waiting_for_it(self, store: DocumentStore) -> None:
        """The bounds of the port hold on a machine that is not busy; here it is enough that nobody has to ask."""
        store.put_all([incident("in-1"), alert("al-1"), logs("hello")])
        deadline = time.monotonic() + 10 * LOGS_LISTED_WITHIN_S
        while not (store.incidents("t").items and store.alerts("t").items and store.search_logs("t", "hello").items):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_alerts_are_listed_newest_first_by_status_and_entity(self, store: DocumentStore) -> None:
        store.put_alert(alert("al-1", starts_ns=1))
        store.put_alert(replace(alert("al-2", starts_ns=2), status=AlertStatus.RESOLVED))
        store.put_alert(replace(alert("al-3", starts_ns=3), entity="service:d/b"))
        store.settle()
        assert [one.alert_id for one in store.alerts("t").items] == ["al-3", "al-2", "al-1"]
        assert [one.alert_id for one in store.alerts("t", status="resolved").items] == ["al-2"]
        assert [one.alert_id for one in store.alerts("t", entity="service:d/b").items] == ["al-3"]
        first = store.alerts("t", limit=2)
        assert [one.alert_id for one in store.alerts("t", limit=2, cursor=first.next_cursor).items] == ["al-1"]

    def test_changes_are_listed_by_time_and_entity(self, store: DocumentStore) -> None:
        for one in range(5):
            store.put_change(Change(change_id=f"c{one}", tenant="t", time_ns=one, entity=f"service:d/{one % 2}"))
        store.settle()
        assert [one.change_id for one in store.changes("t", start_ns=1, end_ns=4)] == ["c3", "c2", "c1"]
        assert [one.change_id for one in store.changes("t", start_ns=0, end_ns=9, entity="service:d/1")] == ["c3", "c1"]
        assert [one.change_id for one in store.changes("t", start_ns=0, end_ns=9, limit=1)] == ["c4"]

    def test_logs_are_found_by_all_words_newest_first(self, store: DocumentStore) -> None:
        store.put_logs(logs("connection refused by payment", "connection ok", "payment refused"))
        store.settle()
        bodies = [hit.record.body for hit in store.search_logs("t", "refused PAYMENT").items]
        assert bodies == ["payment refused", "connection refused by payment"]
        assert len(store.search_logs("t", "refused nothing").items) == 0

    @pytest.mark.parametrize(
        ("body", "text", "found"),
        [
            ("at java.net.ConnectException: refused", "connectexception", True),
            ("user_id=42 path=/cart/items", "42 items user", True),
            ("payment-service is up", "payment-service", True),
            ("service payment is up", "payment-service", False),  # parts in a row, not anywhere
            ("ZÜRICH-3 antwortet nicht", "zürich", True),
            ("Zürich antwortet nicht", "zurich", True),
            ("10.0.0.17:8080 timed out", "10.0.0.17", True),
            ("10.0.0.17:8080 timed out", "10.0.0.1", False),
            ("timeouts", "timeout", False),
            ("日本語 のログ", "日本語", True),
        ],
    )
    def test_words_are_what_stands_between_separators(
        self, store: DocumentStore, body: str, text: str, found: bool
    ) -> None:
        store.put_logs(logs(body))
        store.put_incident(incident("in-1", title=body))
        store.settle()
        assert len(store.search_logs("t", text).items) == found
        assert len(store.incidents("t", text=text).items) == found

    def test_words_of_attributes_are_found_too_and_together_with_those_of_the_body(self, store: DocumentStore) -> None:
        record = LogRecord(time_ns=1, body="request failed", attributes={"http.route": "/cart", "peer": "redis-0"})
        store.put_logs(LogBatch(tenant="t", entity="service:d/a", records=(record,)))
        store.settle()
        assert len(store.search_logs("t", "failed route cart redis-0").items) == 1
        assert len(store.search_logs("t", "failed kafka").items) == 0

    @pytest.mark.parametrize(
        "body", ["", '\0\n\t"\\\x7f', "🙂" * 5000, "x" * 100_000, " ".join(f"w{one}" for one in range(20_000))]
    )
    def test_what_comes_back_is_exactly_what_was_put(self, store: DocumentStore, body: str) -> None:
        record = LogRecord(
            time_ns=2**62 + 1, severity_number=24, severity_text="FATAL4", body=body, trace_id="ab" * 16,
            span_id="cd" * 8, attributes={"": "empty", "a.b": "1", "a": "2", "ключ": body, "null": "null"},
        )  # fmt: skip
        alerting = replace(
            alert("al-1"), summary=body, labels={"a.b": body}, score=float("inf"), series_id=2**64 - 1, value=0.1
        )
        store.put_logs(LogBatch(tenant="t", entity="service:d/a", records=(record,)))
        store.put_alert(alerting)
        store.settle()
        assert [hit.record for hit in store.search_logs("t", "").items] == [record]
        assert store.alert("t", "al-1") == alerting

    def test_lines_of_one_moment_are_listed_in_the_order_they_came(self, store: DocumentStore) -> None:
        lines = tuple(LogRecord(time_ns=5, body=f"line {one}") for one in range(20))
        for start in range(0, 20, 10):
            store.put_logs(
                LogBatch(tenant="t", entity="service:d/a", received_ns=start, records=lines[start : start + 10])
            )
        store.settle()
        assert [hit.record for hit in store.search_logs("t", "").items] == list(reversed(lines))

    @pytest.mark.parametrize("text", ['"', "a OR", "NEAR(", "x:y", "*", "-x", "'; DROP TABLE logs; --", "()", "\0"])
    def test_no_search_text_is_syntax(self, store: DocumentStore, text: str) -> None:
        store.put_logs(logs("plain words"))
        store.settle()
        assert len(store.search_logs("t", text).items) == 0
        assert len(store.incidents("t", text=text).items) == 0

    def test_logs_are_filtered_and_paged(self, store: DocumentStore) -> None:
        store.put_logs(logs("a", "b", time_ns=10))
        store.put_logs(logs("c", time_ns=20, severity=17, entity="service:d/b"))
        store.put_logs(logs("d", time_ns=10))  # at the same time as another
        store.settle()
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
        store.put_all([twice, twice])
        store.settle()
        assert len(store.search_logs("t", "tick").items) == 2

    def test_dropped_logs_are_not_found_any_more(self, store: DocumentStore) -> None:
        store.put_logs(logs("old word", time_ns=1))
        store.put_logs(logs("new word", time_ns=100))
        store.settle()
        assert store.drop_logs_before(100) == 1
        assert [hit.record.body for hit in store.search_logs("t", "word").items] == ["new word"]
        assert store.counts("t")["logs"] == 1
        store.put_logs(logs("third word", time_ns=101))
        store.settle()
        assert len(store.search_logs("t", "old").items) == 0
        assert len(store.search_logs("t", "third").items) == 1

    def test_tenants_do_not_see_each_other(self, store: DocumentStore) -> None:
        store.put_incident(replace(incident("in-1"), aliases=("in-0",)))
        store.put_alert(alert("al-1"))
        store.put_logs(logs("secret"))
        store.settle()
        assert store.incident("other", "in-1") is None
        assert store.incident("other", "in-0") is None
        assert len(store.incidents("other", text="trouble").items) == 0
        assert store.alert("other", "al-1") is None
        assert len(store.search_logs("other", "secret").items) == 0
        store.put_incident(incident("in-1", tenant="other", title="theirs"))
        mine = store.incident("t", "in-1")
        assert mine is not None
        assert mine.title == "Trouble"

    def test_a_deleted_tenant_leaves_nothing_and_may_come_back(self, store: DocumentStore) -> None:
        for tenant in ("t", "other"):
            store.put_all(
                [
                    replace(incident("in-1", version=7, tenant=tenant), aliases=("in-0",)),
                    Diagnosis(incident_id="in-1", tenant=tenant, version=7),
                    alert("al-1", updated_ns=7, tenant=tenant),
                    Change(change_id="c", tenant=tenant, time_ns=7),
                    logs("secret", "word", tenant=tenant),
                ]
            )
        store.settle()
        assert store.delete_tenant("t") == 6
        assert store.incident("t", "in-1") is None
        assert store.incident("t", "in-0") is None
        assert store.diagnosis("t", "in-1") is None
        assert set(store.counts("t").values()) == {0}
        assert len(store.search_logs("t", "secret").items) == 0
        assert store.counts("other") == {"incidents": 1, "diagnoses": 1, "alerts": 1, "changes": 1, "logs": 2}
        store.put_all([incident("in-1", title="again"), alert("al-1"), logs("secret")])
        store.settle()
        found = store.incident("t", "in-1")
        assert found is not None
        assert (found.version, found.title) == (1, "again")
        assert len(store.incidents("t", text="again").items) == 1
        assert len(store.search_logs("t", "secret").items) == 1
        assert store.counts("t") == {"incidents": 1, "diagnoses": 0, "alerts": 1, "changes": 0, "logs": 1}

    @pytest.mark.parametrize("cursor", ["nonsense", "AAAA", "é", "x" * 2000])
    def test_a_foreign_cursor_is_refused(self, store: DocumentStore, cursor: str) -> None:
        with pytest.raises(QueryError):
            store.incidents("t", cursor=cursor)
        with pytest.raises(QueryError):
            store.search_logs("t", "", cursor=cursor)
