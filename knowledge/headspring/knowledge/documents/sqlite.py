"""The embedded document store: SQLite in WAL mode with full-text search.

Every document is stored as its protobuf bytes beside the few columns that lists filter and sort by. A
list's sort key never changes after the first write, which is what keeps its pages whole while
documents are updated.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from headspring.knowledge.database import Database
from headspring.knowledge.documents.cursors import cursor_of, position_of
from headspring.knowledge.documents.fts import match_expression
from headspring.knowledge.documents.port import Document, LogHit, Page
from headspring.knowledge.documents.words import MAX_INDEXED_CHARS, incident_words, log_lines
from headspring.proto.codec import decode, encode
from headspring.proto.detection import Alert
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch, LogRecord

_MAX_PAGE = 1_000
"""Items in one page at most, whatever a caller asks for."""
_MAX_CHANGES = 10_000
_DELETE_STEP = 20_000
"""Log rows deleted in one transaction: other writers wait for about a tenth of a second at most."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS incidents (
    row INTEGER PRIMARY KEY, tenant TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, state TEXT NOT NULL,
    sort_ns INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (tenant, id)
);
CREATE INDEX IF NOT EXISTS incidents_order ON incidents (tenant, sort_ns DESC, id DESC);
CREATE TABLE IF NOT EXISTS incident_entities (
    tenant TEXT NOT NULL, entity TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (tenant, entity, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS incident_entities_id ON incident_entities (tenant, id);
CREATE TABLE IF NOT EXISTS incident_aliases (
    tenant TEXT NOT NULL, alias TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (tenant, alias)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS incident_text USING fts5(text);
CREATE TABLE IF NOT EXISTS diagnoses (
    tenant TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (
    tenant TEXT NOT NULL, id TEXT NOT NULL, status TEXT NOT NULL, entity TEXT NOT NULL, sort_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alerts_order ON alerts (tenant, sort_ns DESC, id DESC);
CREATE INDEX IF NOT EXISTS alerts_entity ON alerts (tenant, entity, sort_ns DESC, id DESC);
CREATE TABLE IF NOT EXISTS changes (
    tenant TEXT NOT NULL, id TEXT NOT NULL, entity TEXT NOT NULL, time_ns INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS changes_order ON changes (tenant, time_ns DESC, id DESC);
CREATE TABLE IF NOT EXISTS logs (
    row INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, id BLOB NOT NULL, entity TEXT NOT NULL,
    time_ns INTEGER NOT NULL, severity INTEGER NOT NULL, severity_text TEXT NOT NULL, body TEXT NOT NULL,
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, attributes TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS logs_id ON logs (tenant, id);
CREATE INDEX IF NOT EXISTS logs_order ON logs (tenant, time_ns DESC, row DESC);
CREATE INDEX IF NOT EXISTS logs_age ON logs (time_ns);
CREATE VIRTUAL TABLE IF NOT EXISTS log_text USING fts5(
    body, attributes, content='logs', content_rowid='row', columnsize=0
);
"""


class SqliteDocumentStore:
    """`DocumentStore` (see the port for the contract) on one file; `path=None` keeps documents in memory."""

    def __init__(self, path: Path | None) -> None:
        self._db = Database(path, _SCHEMA, synchronous="FULL")

    def put_all(self, documents: Sequence[Document]) -> None:
        """One transaction: one fsync, all or nothing."""
        with self._db.write():
            for document in documents:
                match document:
                    case Incident():
                        self.put_incident(document)
                    case Diagnosis():
                        self.put_diagnosis(document)
                    case Alert():
                        self.put_alert(document)
                    case Change():
                        self.put_change(document)
                    case LogBatch():
                        self.put_logs(document)

    # -- incidents and diagnoses

    def put_incident(self, incident: Incident) -> None:
        tenant, key = incident.tenant, incident.incident_id
        with self._db.write() as db:
            row = db.execute(
                "INSERT INTO incidents (tenant, id, version, state, sort_ns, data) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (tenant, id) DO UPDATE SET version = excluded.version, state = excluded.state, "
                "data = excluded.data WHERE excluded.version >= version RETURNING row",
                (tenant, key, incident.version, incident.state.value, incident.opened_ns, encode(incident)),
            ).fetchone()
            if row is None:
                return  # an older version, replayed
            db.execute("DELETE FROM incident_entities WHERE tenant = ? AND id = ?", (tenant, key))
            db.executemany(
                "INSERT OR IGNORE INTO incident_entities VALUES (?, ?, ?)",
                [(tenant, entity, key) for entity in incident.entities],
            )
            db.executemany(
                "INSERT OR REPLACE INTO incident_aliases VALUES (?, ?, ?)",
                [(tenant, alias, key) for alias in incident.aliases if alias != key],
            )
            db.execute("DELETE FROM incident_text WHERE rowid = ?", row)
            db.execute("INSERT INTO incident_text (rowid, text) VALUES (?, ?)", (row[0], incident_words(incident)))

    def incident(self, tenant: str, incident_id: str) -> Incident | None:
        with self._db.read() as db:
            row = db.execute(
                "SELECT data FROM incidents WHERE tenant = ? AND id = ?", (tenant, incident_id)
            ).fetchone() or db.execute(
                "SELECT data FROM incident_aliases AS a JOIN incidents AS i ON i.tenant = a.tenant AND i.id = a.id "
                "WHERE a.tenant = ? AND a.alias = ?",
                (tenant, incident_id),
            ).fetchone()  # fmt: skip
        return decode(Incident, row[0]) if row else None

    def incidents(
        self, tenant: str, *, states: Sequence[str] = (), entity: str = "", text: str = "", limit: int = 50,
        cursor: str = "",
    ) -> Page[Incident]:  # fmt: skip
        """Newest opened first.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        where: list[str] = []
        values: list[object] = []
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if entity:
            where.append("id IN (SELECT id FROM incident_entities WHERE tenant = ? AND entity = ?)")
            values += (tenant, entity)
        if text:
            words = match_expression(text)
            if not words:
                return Page(items=())
            where.append("row IN (SELECT rowid FROM incident_text WHERE incident_text MATCH ?)")
            values.append(words)
        rows, next_cursor = self._page("incidents", tenant, where, values, limit, cursor)
        return Page(items=tuple(decode(Incident, data) for data in rows), next_cursor=next_cursor)

    def put_diagnosis(self, diagnosis: Diagnosis) -> None:
        with self._db.write() as db:
            db.execute(
                "INSERT INTO diagnoses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version, "
                "data = excluded.data WHERE excluded.version >= version",
                (diagnosis.tenant, diagnosis.incident_id, diagnosis.version, encode(diagnosis)),
            )

    def diagnosis(self, tenant: str, incident_id: str) -> Diagnosis | None:
        data = self._one("diagnoses", tenant, incident_id)
        return decode(Diagnosis, data) if data is not None else None

    def diagnoses(self, tenant: str, incident_ids: Sequence[str]) -> Mapping[str, Diagnosis]:
        with self._db.read() as db:
            rows = db.execute(
                "SELECT data FROM diagnoses WHERE tenant = ? AND id IN (SELECT value FROM json_each(?))",
                (tenant, json.dumps(list(incident_ids))),
            ).fetchall()
        return {found.incident_id: found for found in (decode(Diagnosis, data) for (data,) in rows)}

    # -- alerts and changes

    def put_alert(self, alert: Alert) -> None:
        """An older report of the same episode (lower `updated_ns`) is ignored, like an older version."""
        with self._db.write() as db:
            db.execute(
                "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET status = excluded.status, "
                "entity = excluded.entity, updated_ns = excluded.updated_ns, data = excluded.data "
                "WHERE excluded.updated_ns >= updated_ns",
                (
                    alert.tenant, alert.alert_id, alert.status.value, alert.entity, alert.starts_ns, alert.updated_ns,
                    encode(alert),
                ),
            )  # fmt: skip

    def alert(self, tenant: str, alert_id: str) -> Alert | None:
        data = self._one("alerts", tenant, alert_id)
        return decode(Alert, data) if data is not None else None

    def alerts(
        self, tenant: str, *, status: str = "", entity: str = "", limit: int = 50, cursor: str = ""
    ) -> Page[Alert]:
        """Newest start first."""
        where, values = _equal(status=status, entity=entity)
        rows, next_cursor = self._page("alerts", tenant, where, values, limit, cursor)
        return Page(items=tuple(decode(Alert, data) for data in rows), next_cursor=next_cursor)

    def put_change(self, change: Change) -> None:
        with self._db.write() as db:
            db.execute(
                "INSERT INTO changes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET entity = excluded.entity, "
                "time_ns = excluded.time_ns, data = excluded.data",
                (change.tenant, change.change_id, change.entity, change.time_ns, encode(change)),
            )

    def changes(
        self, tenant: str, *, start_ns: int, end_ns: int, entity: str = "", limit: int = 200
    ) -> Sequence[Change]:
        where, values = _equal(entity=entity)
        with self._db.read() as db:
            rows = db.execute(
                f"SELECT data FROM changes WHERE {' AND '.join(['tenant = ?', 'time_ns >= ?', 'time_ns < ?', *where])} "  # noqa: S608
                "ORDER BY time_ns DESC, id DESC LIMIT ?",
                (tenant, start_ns, end_ns, *values, max(1, min(limit, _MAX_CHANGES))),
            ).fetchall()
        return [decode(Change, data) for (data,) in rows]

    # -- logs

    def put_logs(self, batch: LogBatch) -> None:
        with self._db.write() as db:
            for line in log_lines(batch):
                record = line.record
                row = db.execute(
                    "INSERT OR IGNORE INTO logs (tenant, id, entity, time_ns, severity, severity_text, body, trace_id, "
                    "span_id, attributes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING row",
                    (
                        batch.tenant, line.key, batch.entity, record.time_ns, record.severity_number,
                        record.severity_text, record.body, record.trace_id, record.span_id, line.attributes,
                    ),
                ).fetchone()  # fmt: skip
                if row is not None:
                    db.execute(
                        "INSERT INTO log_text (rowid, body, attributes) VALUES (?, substr(?, 1, ?), ?)",
                        (row[0], record.body, MAX_INDEXED_CHARS, line.attributes),
                    )

    def search_logs(
        self, tenant: str, text: str, *, entity: str = "", min_severity: int = 0, start_ns: int = 0,
        end_ns: int = 2**63 - 1, limit: int = 100, cursor: str = "",
    ) -> Page[LogHit]:  # fmt: skip
        """Words are looked for in bodies and attributes.

        Raises:
            QueryError: the cursor is not one of this list.
        """
        where, values = _equal(entity=entity)
        where += ["severity >= ?", "time_ns >= ?", "time_ns < ?"]
        values += (min_severity, start_ns, end_ns)
        if text.strip():
            words = match_expression(text)
            if not words:
                return Page(items=())
            where.append("row IN (SELECT rowid FROM log_text WHERE log_text MATCH ?)")
            values.append(words)
        before_ns, before_row = position_of(cursor)
        limit = max(1, min(limit, _MAX_PAGE))
        with self._db.read() as db:
            rows = db.execute(
                "SELECT row, entity, time_ns, severity, severity_text, body, trace_id, span_id, attributes FROM logs "  # noqa: S608
                f"WHERE {' AND '.join(['tenant = ?', '(time_ns, row) < (?, ?)', *where])} "
                "ORDER BY time_ns DESC, row DESC LIMIT ?",
                (tenant, before_ns, int(before_row) if before_row.isdecimal() else 2**63 - 1, *values, limit + 1),
            ).fetchall()
        hits = [
            LogHit(
                entity=row[1],
                record=LogRecord(
                    time_ns=row[2], severity_number=row[3], severity_text=row[4], body=row[5], trace_id=row[6],
                    span_id=row[7], attributes=json.loads(row[8]),
                ),
            )
            for row in rows[:limit]
        ]  # fmt: skip
        more = len(rows) > limit
        return Page(items=hits, next_cursor=cursor_of(rows[limit - 1][2], str(rows[limit - 1][0])) if more else "")

    def drop_logs_before(self, time_ns: int) -> int:
        return self._delete_logs("SELECT row FROM logs WHERE time_ns < ? ORDER BY time_ns, row LIMIT ?", time_ns)

    def _delete_logs(self, rows: str, value: object) -> int:
        """`rows` picks what to delete, by `value` and a limit; it is ours, never a caller's text."""
        dropped = 0
        while True:
            with self._db.write() as db:
                # The text index keeps no content of its own: it must be told what it indexed.
                db.execute(
                    "INSERT INTO log_text (log_text, rowid, body, attributes) "  # noqa: S608
                    f"SELECT 'delete', row, substr(body, 1, ?), attributes FROM logs WHERE row IN ({rows})",
                    (MAX_INDEXED_CHARS, value, _DELETE_STEP),
                )
                count = db.execute(f"DELETE FROM logs WHERE row IN ({rows})", (value, _DELETE_STEP)).rowcount  # noqa: S608
            dropped += count
            if count < _DELETE_STEP:
                return dropped

    # -- all kinds

    def delete_tenant(self, tenant: str) -> int:
        deleted = self._delete_logs("SELECT row FROM logs WHERE tenant = ? LIMIT ?", tenant)
        with self._db.write() as db:
            db.execute(
                "DELETE FROM incident_text WHERE rowid IN (SELECT row FROM incidents WHERE tenant = ?)", (tenant,)
            )
            for table in ("incident_entities", "incident_aliases"):
                db.execute(f"DELETE FROM {table} WHERE tenant = ?", (tenant,))  # noqa: S608
            for table in ("incidents", "diagnoses", "alerts", "changes"):
                deleted += db.execute(f"DELETE FROM {table} WHERE tenant = ?", (tenant,)).rowcount  # noqa: S608
        return deleted

    def settle(self) -> None:
        """What was put is listed at once."""

    def counts(self, tenant: str) -> Mapping[str, int]:
        with self._db.read() as db:
            return {
                kind: int(db.execute(f"SELECT count(*) FROM {kind} WHERE tenant = ?", (tenant,)).fetchone()[0])  # noqa: S608
                for kind in ("incidents", "diagnoses", "alerts", "changes", "logs")
            }

    def close(self) -> None:
        self._db.close()

    def _one(self, table: str, tenant: str, key: str) -> bytes | None:
        with self._db.read() as db:
            row = db.execute(f"SELECT data FROM {table} WHERE tenant = ? AND id = ?", (tenant, key)).fetchone()  # noqa: S608
        return row[0] if row else None

    def _page(
        self, table: str, tenant: str, where: list[str], values: list[object], limit: int, cursor: str
    ) -> tuple[list[bytes], str]:
        """Documents of one page and the cursor of the next; `table` and `where` are ours, never a caller's text."""
        limit = max(1, min(limit, _MAX_PAGE))
        with self._db.read() as db:
            rows: list[sqlite3.Row] = db.execute(
                f"SELECT data, sort_ns, id FROM {table} "  # noqa: S608
                f"WHERE {' AND '.join(['tenant = ?', '(sort_ns, id) < (?, ?)', *where])} "
                "ORDER BY sort_ns DESC, id DESC LIMIT ?",
                (tenant, *position_of(cursor), *values, limit + 1),
            ).fetchall()
        more = len(rows) > limit
        return [row[0] for row in rows[:limit]], cursor_of(rows[limit - 1][1], rows[limit - 1][2]) if more else ""


def _equal(**conditions: str) -> tuple[list[str], list[object]]:
    """`column = ?` for each condition that is not "", and the values."""
    given = {column: value for column, value in conditions.items() if value}
    return [f"{column} = ?" for column in given], list(given.values())
