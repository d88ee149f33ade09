"""The documents port: incidents, diagnoses, alerts, changes and logs, for listing and search.

Contract (proved by `headspring.knowledge.testing.DocumentStoreContract` on every backend):

- `put_*` is an upsert by (tenant, id); an incident or diagnosis with a lower version than the stored
  one is ignored, and so is an alert that was updated earlier: a replay never turns time back, whichever
  of several writers it comes from. Log lines are known by their content: a batch put again adds nothing.
- Durable on return. A document is found by its id at once; lists, searches and counts show it within
  `LISTED_WITHIN_S`, logs within `LOGS_LISTED_WITHIN_S`. `settle` waits for that.
- Lists are newest first and paged by opaque cursors that stay valid while new documents arrive: no
  document is listed twice, none that was listed at the first page is left out. A document's place is that
  of its first version.
- Texts are searched by all words, whatever their order; letters' case and accents do not matter, and
  whatever is neither letter nor digit separates words.
- Every read is bound to a tenant; an id of another tenant is not found.
- Calls block; run them in a thread from an event loop. A store may be used by several threads.
- Errors: `Unavailable` when the store cannot answer now, some of a call's documents may have been kept:
  put all of them again. `Rejected` when it will never take a document; the message says which and why, and
  the call's other documents may have been kept. `QueryError` for a cursor that is not of the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from headspring.proto.detection import Alert
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch, LogRecord

T = TypeVar("T")

Document = Incident | Diagnosis | Alert | Change | LogBatch
"""What is put."""
LISTED_WITHIN_S = 1.0
"""From an incident's, diagnosis', alert's or change's put until lists, searches and counts show it."""
LOGS_LISTED_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_cursor: str = ""
    """"" on the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHit:
    entity: str
    record: LogRecord


class DocumentStore(Protocol):
    """See the module's contract."""

    def put_all(self, documents: Sequence[Document]) -> None:
        """Many at once, of any kinds and tenants, as if put one by one in this order; much cheaper than that."""
        ...

    def put_incident(self, incident: Incident) -> None: ...

    def incident(self, tenant: str, incident_id: str) -> Incident | None:
        """By id or by alias of a merged one."""
        ...

    def incidents(
        self, tenant: str, *, states: Sequence[str] = (), entity: str = "", text: str = "", limit: int = 50,
        cursor: str = "",
    ) -> Page[Incident]: ...  # fmt: skip

    def put_diagnosis(self, diagnosis: Diagnosis) -> None: ...

    def diagnosis(self, tenant: str, incident_id: str) -> Diagnosis | None:
        """The newest version."""
        ...

    def diagnoses(self, tenant: str, incident_ids: Sequence[str]) -> Mapping[str, Diagnosis]:
        """The newest version for each incident that has one, by incident id."""
        ...

    def put_alert(self, alert: Alert) -> None: ...

    def alert(self, tenant: str, alert_id: str) -> Alert | None: ...

    def alerts(
        self, tenant: str, *, status: str = "", entity: str = "", limit: int = 50, cursor: str = ""
    ) -> Page[Alert]: ...

    def put_change(self, change: Change) -> None: ...

    def changes(
        self, tenant: str, *, start_ns: int, end_ns: int, entity: str = "", limit: int = 200
    ) -> Sequence[Change]:
        """Newest first."""
        ...

    def put_logs(self, batch: LogBatch) -> None: ...

    def search_logs(
        self, tenant: str, text: str, *, entity: str = "", min_severity: int = 0, start_ns: int = 0,
        end_ns: int = 2**63 - 1, limit: int = 100, cursor: str = "",
    ) -> Page[LogHit]:  # fmt: skip
        """Logs that hold all words of `text` ("" for any), newest first."""
        ...

    def counts(self, tenant: str) -> Mapping[str, int]:
        """Documents by kind, for health pages."""
        ...

    def drop_logs_before(self, time_ns: int) -> int:
        """Log lines older than this are not found any more; how many of them there were. Space comes back later."""
        ...

    def delete_tenant(self, tenant: str) -> int:
        """Everything of a tenant; how many documents. What is put while this runs may stay."""
        ...

    def settle(self) -> None:
        """Returns when lists, searches and counts show everything that this process put before."""
        ...

    def close(self) -> None: ...
