"""Incidents, diagnoses, alerts and changes as documents of Elasticsearch, and their upsert by version.

A newer version keeps the place (`sort_ns`) of the first, so that pages stay whole; hence a write reads the stored
version and place first (by id, which sees every write at once), decides, and writes on condition that nobody wrote
since. Who lost that race reads again: of several writers the highest version stays.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headspring.knowledge.documents.elasticsearch.bulk import Operation, Outcome, write
from headspring.knowledge.documents.elasticsearch.connection import Connection, NoIndex, reason_of
from headspring.knowledge.documents.words import incident_words
from headspring.proto.codec import encode
from headspring.proto.detection import Alert
from headspring.proto.errors import Rejected, Unavailable
from headspring.proto.ids import digest
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change

_ROUNDS = 20
"""Of reading and writing until nobody else was first; each costs every other writer of that document one too."""
_IDS = 1_000
"""Documents read in one request."""
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Row:
    """A document to write."""

    name: str
    """For people."""
    key: str
    version: int | None
    """None: the last one written stays."""
    source: dict[str, Any]


def row_of(document: Incident | Diagnosis | Alert | Change) -> tuple[str, Row]:
    """The kind and the row."""
    match document:
        case Incident():
            return "incidents", _row(
                document, "incident", document.incident_id, document.version,
                state=document.state.value, sort_ns=document.opened_ns, updated_ns=document.updated_ns,
                entities=list(document.entities), words=incident_words(document),
                aliases=[alias for alias in document.aliases if alias != document.incident_id],
            )  # fmt: skip
        case Diagnosis():
            return "diagnoses", _row(
                document, "diagnosis of", document.incident_id, document.version, sort_ns=document.created_ns
            )
        case Alert():
            return "alerts", _row(
                document, "alert", document.alert_id, document.updated_ns,
                status=document.status.value, entity=document.entity, sort_ns=document.starts_ns,
            )  # fmt: skip
        case Change():
            return "changes", _row(
                document, "change", document.change_id, None, entity=document.entity, time_ns=document.time_ns
            )


def key_of(tenant: str, document_id: str) -> str:
    """The id in Elasticsearch: short whatever ours is, and another one for another tenant."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest(tenant, document_id))).decode().rstrip("=")


def source_line(source: Mapping[str, Any], name: str) -> bytes:
    """A document's line in a bulk.

    Raises:
        Rejected: its text is no text: half of a surrogate pair.
    """
    try:
        return _to_json(source).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise Rejected(f"{name}: text that cannot be written as UTF-8: {error.reason}") from error


def put(connection: Connection, alias: str, rows: Sequence[Row]) -> bool:
    """Writes rows of one kind; False: there is no such index.

    Raises:
        Unavailable, Rejected: as of `bulk.write`.
    """
    waiting = _newest(rows)
    for attempt in range(_ROUNDS):
        stored = _stored(connection, alias, [row.key for row in waiting if row.version is not None])
        if stored is None:
            return False
        planned = [(row, _operation(alias, row, stored.get(row.key))) for row in waiting]
        sent = [(row, operation) for row, operation in planned if operation is not None]
        outcomes = write(connection, [operation for _, operation in sent])
        if Outcome.NO_INDEX in outcomes:
            return False
        waiting = [row for (row, _), outcome in zip(sent, outcomes, strict=True) if outcome is Outcome.CONFLICT]
        if not waiting:
            return True
        time.sleep(random.uniform(0.0, 0.002 * 2 ** min(attempt, 6)))  # noqa: S311 — spreads writers, guards nothing
    raise Unavailable(f"{waiting[0].name} is being written by others all the time")


def fetch(connection: Connection, alias: str, keys: Sequence[str]) -> Mapping[str, bytes]:
    """Protobuf bytes by key, of those that are there; sees what was just put."""
    found: dict[str, bytes] = {}
    for start in range(0, len(keys), _IDS):
        for item in _get(connection, alias, keys[start : start + _IDS], ["data"]):
            found[item["_id"]] = data_of(item)
    return found


def data_of(hit: Mapping[str, Any]) -> bytes:
    """The protobuf bytes in a hit."""
    return base64.b64decode(hit["_source"]["data"])


def _row(
    document: Incident | Diagnosis | Alert | Change, what: str, key: str, version: int | None, **source: Any
) -> Row:
    tenant = document.tenant
    source |= {"tenant": tenant, "id": key, "data": base64.b64encode(encode(document)).decode()}
    if version is not None:
        source["version"] = version
    return Row(name=f"{what} {key[:80]}", key=key_of(tenant, key), version=version, source=source)


def _newest(rows: Sequence[Row]) -> list[Row]:
    """One row a document: the newest version at the place of the first."""
    kept: dict[str, Row] = {}
    for row in rows:
        before = kept.get(row.key)
        if before is None or before.version is None or row.version is None:
            kept[row.key] = row
        elif row.version >= before.version:
            row.source["sort_ns"] = before.source["sort_ns"]
            kept[row.key] = row
    return list(kept.values())


def _stored(connection: Connection, alias: str, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]] | None:
    """What is stored of these, by key; None: there is no such index."""
    found: dict[str, Mapping[str, Any]] = {}
    try:
        for start in range(0, len(keys), _IDS):
            for item in _get(connection, alias, keys[start : start + _IDS], ["version", "sort_ns"]):
                found[item["_id"]] = item
    except NoIndex:
        return None
    return found


def _get(connection: Connection, alias: str, keys: Sequence[str], fields: list[str]) -> list[Mapping[str, Any]]:
    with connection.reading() as client:
        items = client.mget(index=alias, ids=list(keys), source_includes=fields).body["docs"]
    for item in items:
        error = item.get("error")
        if error:
            kind = NoIndex if error.get("type") == "index_not_found_exception" else Unavailable
            raise kind(f"Elasticsearch cannot read {alias}: {reason_of(error)}")
    return [item for item in items if item.get("found")]


def _operation(alias: str, row: Row, stored: Mapping[str, Any] | None) -> Operation | None:
    """None: what is stored is newer."""
    target: dict[str, Any] = {"_index": alias, "_id": row.key, "require_alias": True}
    verb = "index"
    if row.version is not None and stored is None:
        verb = "create"
    elif row.version is not None and stored is not None:
        if stored["_source"]["version"] > row.version:
            return None
        row.source["sort_ns"] = stored["_source"]["sort_ns"]
        target |= {"if_seq_no": stored["_seq_no"], "if_primary_term": stored["_primary_term"]}
    return Operation(source_line({verb: target}, row.name), source_line(row.source, row.name), row.name)
