"""The document store on Elasticsearch 8.

Why pages need no point in time, why we compare versions ourselves and why logs lie in indices by their own time is in
`knowledge/decisions/001-documents-on-elasticsearch.md`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from headspring.knowledge.documents.cursors import cursor_of, position_of
from headspring.knowledge.documents.elasticsearch import rows
from headspring.knowledge.documents.elasticsearch.bulk import Operation, Outcome, write
from headspring.knowledge.documents.elasticsearch.connection import Connection, NoIndex
from headspring.knowledge.documents.elasticsearch.install import install
from headspring.knowledge.documents.elasticsearch.logs import Logs
from headspring.knowledge.documents.elasticsearch.schema import KINDS, LOGS, Schema
from headspring.knowledge.documents.elasticsearch.searching import (
    MAX_PAGE,
    Filter,
    Hit,
    between,
    has_words,
    is_one_of,
    search,
    total,
)  # fmt: skip
from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.port import Document, LogHit, Page
from headspring.proto.codec import decode
from headspring.proto.detection import Alert
from headspring.proto.errors import ConfigError, Unavailable
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch

T = TypeVar("T")

_MAX_CHANGES = 10_000
_DELETE_STEP = 5_000
"""Documents found and deleted in one step."""


class ElasticsearchDocumentStore:
    """`DocumentStore` (see the port for the contract) on a server of the 8 line."""

    def __init__(self, settings: ElasticsearchSettings, *, require: bool = True) -> None:
        """
        Args:
            require: the server must be there now. False: while it is away calls are `Unavailable`, and the first that
                reaches it makes what is missing; a process that can do without documents for a while starts anyway.

        Raises:
            ConfigError: the server cannot be used as it is set; one line for the operator.
            Unavailable: it is there and cannot serve now; only where it is required.
        """
        self._connection = Connection(settings)
        self._schema = Schema(settings)
        self._logs = Logs(self._connection, self._schema)
        self._lock = threading.Lock()
        self._installed = False
        if require:
            try:
                self._install()
            except (ConfigError, Unavailable):
                self._connection.close()
                raise

    # -- writing

    def put_all(self, documents: Sequence[Document]) -> None:
        batches: list[LogBatch] = []
        by_kind: dict[str, list[rows.Row]] = {}
        for document in documents:
            if isinstance(document, LogBatch):
                batches.append(document)
            else:
                kind, row = rows.row_of(document)
                by_kind.setdefault(kind, []).append(row)
        self._ready()
        for kind, of_kind in by_kind.items():
            if not rows.put(self._connection, self._schema.alias(kind), of_kind):
                self._ready(again=True)  # somebody deleted our index, or the server's disk is a new one
                if not rows.put(self._connection, self._schema.alias(kind), of_kind):
                    raise Unavailable(f"the index behind {self._schema.alias(kind)} is deleted as often as it is made")
        if batches:
            self._logs.put(batches)

    def put_incident(self, incident: Incident) -> None:
        self.put_all((incident,))

    def put_diagnosis(self, diagnosis: Diagnosis) -> None:
        self.put_all((diagnosis,))

    def put_alert(self, alert: Alert) -> None:
        self.put_all((alert,))

    def put_change(self, change: Change) -> None:
        self.put_all((change,))

    def put_logs(self, batch: LogBatch) -> None:
        self.put_all((batch,))

    # -- reading

    def incident(self, tenant: str, incident_id: str) -> Incident | None:
        found = self._fetch(Incident, "incidents", tenant, (incident_id,))
        if found:
            return found[0]
        of_alias = is_one_of(tenant=tenant, aliases=incident_id)
        hits = self._search("incidents", of_alias, size=1, sort=("updated_ns",)) if incident_id else []
        return decode(Incident, rows.data_of(hits[0])) if hits else None

    def incidents(
        self, tenant: str, *, states: Sequence[str] = (), entity: str = "", text: str = "", limit: int = 50,
        cursor: str = "",
    ) -> Page[Incident]:  # fmt: skip
        """Newest opened first.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        filters = is_one_of(tenant=tenant, state=states, entities=entity)
        if text:
            words = has_words(text, "words")
            if words is None:
                return Page(items=())
            filters += words
        return self._page(Incident, "incidents", filters, limit, cursor)

    def diagnosis(self, tenant: str, incident_id: str) -> Diagnosis | None:
        found = self._fetch(Diagnosis, "diagnoses", tenant, (incident_id,))
        return found[0] if found else None

    def diagnoses(self, tenant: str, incident_ids: Sequence[str]) -> Mapping[str, Diagnosis]:
        found = self._fetch(Diagnosis, "diagnoses", tenant, incident_ids)
        return {diagnosis.incident_id: diagnosis for diagnosis in found}

    def alert(self, tenant: str, alert_id: str) -> Alert | None:
        found = self._fetch(Alert, "alerts", tenant, (alert_id,))
        return found[0] if found else None

    def alerts(
        self, tenant: str, *, status: str = "", entity: str = "", limit: int = 50, cursor: str = ""
    ) -> Page[Alert]:
        """Newest start first.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        filters = is_one_of(tenant=tenant, status=status, entity=entity)
        return self._page(Alert, "alerts", filters, limit, cursor)

    def changes(
        self, tenant: str, *, start_ns: int, end_ns: int, entity: str = "", limit: int = 200
    ) -> Sequence[Change]:
        filters = [*is_one_of(tenant=tenant, entity=entity), between("time_ns", start_ns, end_ns)]
        hits = self._search("changes", filters, size=max(1, min(limit, _MAX_CHANGES)), sort=("time_ns", "id"))
        return [decode(Change, rows.data_of(hit)) for hit in hits]

    def search_logs(
        self, tenant: str, text: str, *, entity: str = "", min_severity: int = 0, start_ns: int = 0,
        end_ns: int = 2**63 - 1, limit: int = 100, cursor: str = "",
    ) -> Page[LogHit]:  # fmt: skip
        """Words are looked for in bodies and attributes.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        self._ready()
        return self._logs.search(
            tenant, text, entity=entity, min_severity=min_severity, start_ns=start_ns, end_ns=end_ns, limit=limit,
            cursor=cursor,
        )  # fmt: skip

    def counts(self, tenant: str) -> Mapping[str, int]:
        self._ready()
        of_tenant = is_one_of(tenant=tenant)
        return {kind: total(self._connection, self._schema.alias(kind), of_tenant) for kind in (*KINDS, LOGS)}

    # -- keeping house

    def drop_logs_before(self, time_ns: int) -> int:
        self._ready()
        return self._logs.drop_before(time_ns)

    def delete_tenant(self, tenant: str) -> int:
        """In small steps: after an error, say it again to go on. Hidden log lines are deleted and counted too."""
        self._ready()
        deleted = 0
        for kind in (LOGS, *KINDS):
            deleted += self._delete(self._schema.pattern(kind), is_one_of(tenant=tenant))
        return deleted

    def settle(self) -> None:
        self._ready()
        self._refresh(",".join(self._schema.alias(kind) for kind in (*KINDS, LOGS)))

    def ping(self) -> None:
        """
        Raises:
            Unavailable: the server does not answer, or cannot be used.
        """
        self._ready()
        with self._connection.reading() as client:
            client.cluster.health(timeout="2s")

    def close(self) -> None:
        self._connection.close()

    # -- parts

    def _install(self) -> None:
        with self._lock:
            if not self._installed:
                self._logs.lifecycle = install(self._connection, self._schema)
                self._installed = True

    def _ready(self, *, again: bool = False) -> None:
        """Makes what is missing before the first call that reaches the server."""
        if again:
            with self._lock:
                self._installed = False
        if not self._installed:
            try:
                self._install()
            except ConfigError as error:
                # While we run, documents wait for the operator; nothing of them is set aside.
                raise Unavailable(str(error), retry_after_s=5.0) from error

    def _fetch(self, message: type[T], kind: str, tenant: str, ids: Sequence[str]) -> list[T]:
        """Those that are there; sees what was just put."""
        if not ids:
            return []
        keys = [rows.key_of(tenant, one) for one in ids]
        found = self._again(lambda: rows.fetch(self._connection, self._schema.alias(kind), keys))
        return [decode(message, data) for data in found.values()]

    def _search(
        self, kind: str, filters: Sequence[Filter], *, size: int, sort: Sequence[str], after: Sequence[object] = ()
    ) -> list[Hit]:
        return self._again(
            lambda: search(
                self._connection, self._schema.alias(kind), filters, size=size, sort=sort, after=after, fields=("data",)
            )
        )[0]

    def _page(self, message: type[T], kind: str, filters: Sequence[Filter], limit: int, cursor: str) -> Page[T]:
        limit = max(1, min(limit, MAX_PAGE))
        after = position_of(cursor) if cursor else ()
        hits = self._search(kind, filters, size=limit + 1, sort=("sort_ns", "id"), after=after)
        items = tuple(decode(message, rows.data_of(hit)) for hit in hits[:limit])
        return Page(items=items, next_cursor=cursor_of(*hits[limit - 1]["sort"]) if len(hits) > limit else "")

    def _again(self, work: Callable[[], T]) -> T:
        """A second time where an index was deleted under us: an empty one is made."""
        self._ready()
        try:
            return work()
        except NoIndex:
            self._ready(again=True)
            return work()

    def _refresh(self, indices: str) -> None:
        with self._connection.writing() as client:
            shards = client.indices.refresh(index=indices, ignore_unavailable=True).body["_shards"]
        if shards["failed"]:
            raise Unavailable(f"{shards['failed']} shards of {indices} cannot show what was put")

    def _delete(self, pattern: str, filters: Sequence[Filter]) -> int:
        deleted = 0
        while True:
            self._refresh(pattern)
            hits, _ = search(self._connection, pattern, filters, size=_DELETE_STEP)
            if not hits:
                return deleted
            operations = [_deletion(hit) for hit in hits]
            deleted += write(self._connection, operations).count(Outcome.DONE)


def _deletion(hit: Hit) -> Operation:
    head = b'{"delete":{"_index":"%b","_id":"%b"}}\n' % (hit["_index"].encode(), hit["_id"].encode())
    return Operation(head, b"", f"document {hit['_id']} of {hit['_index']}")
