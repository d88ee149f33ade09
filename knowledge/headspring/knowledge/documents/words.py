"""What every backend makes of a document: the words it is searched by, and what makes a log line itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from headspring.proto.ids import digest
from headspring.proto.incident import Incident
from headspring.proto.telemetry import LogBatch, LogRecord

MAX_INDEXED_CHARS = 32_768
"""Of an incident's words and of a log body, what search must see; the whole is kept."""
_to_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class LogLine:
    """A record as it is stored."""

    key: bytes
    """20 bytes: digest of the content, and the how-manieth of its like in the batch. The same on every replay."""
    record: LogRecord
    attributes: str
    """JSON, keys in order."""


def log_lines(batch: LogBatch) -> Iterator[LogLine]:
    """The batch's lines in order.

    A line may honestly repeat within a batch; counting makes each its own.
    """
    seen: dict[bytes, int] = {}
    for record in batch.records:
        attributes = _to_json(dict(record.attributes))
        content = bytes.fromhex(
            digest(
                batch.entity, str(record.time_ns), str(record.severity_number), record.body, record.trace_id,
                record.span_id, attributes,
            )
        )  # fmt: skip
        seen[content] = seen.get(content, 0) + 1
        yield LogLine(content + seen[content].to_bytes(4, "big"), record, attributes)


def incident_words(incident: Incident) -> str:
    """What a person may search an incident by."""
    words = [incident.incident_id, incident.title, *incident.entities, *incident.aliases]
    for member in incident.members:
        words += (member.alert.name, member.alert.summary, member.alert.metric)
    return "\n".join(dict.fromkeys(word for word in words if word))[:MAX_INDEXED_CHARS]
