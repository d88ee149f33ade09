"""The documents port: incidents, diagnoses, alerts, changes and logs, for listing and search.

Contract (proved by `headspring.knowledge.testing.DocumentStoreContract` on every backend):

- `put_*` is an upsert by (tenant, id); an incident or diagnosis with a lower version than the stored
  one is ignored, so a replay never turns time back.
- Durable on return. Lists are newest first and paged by opaque cursors that stay valid while new
  documents arrive: no document is listed twice, none that existed at the first page is left out.
- Every read is bound to a tenant; an id of another tenant is not found.
- Calls block; run them in a thread from an event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from headspring.proto.detection import Alert
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch, LogRecord

T = TypeVar("T")


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

    def drop_logs_before(self, time_ns: int) -> int: ...

    def close(self) -> None: ...
