"""Loki push requests to log records, as Promtail, Alloy, Fluent Bit and Docker's driver send them.

Source: grafana/loki docs, "Ingest logs"; pkg/push/push.proto. Stream labels name the entity and become
attributes; a level is taken from the labels or the entry's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from headspring.ingestion.admit.json_text import kind_of
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.logs import severity_number
from headspring.ingestion.normalize.spans import UNKNOWN_ENTITY
from headspring.ingestion.normalize.values import MAX_TIME_NS, cut
from headspring.ingestion.wire.lokipb import PushRequest
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import LogRecord

_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)')
_LEVELS = ("level", "detected_level", "severity", "severity_text")


def parse_push(body: bytes) -> Any:
    """A PushRequest of decompressed protobuf. Raises `ContractError` where the bytes are none."""
    request = PushRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise ContractError(f"{len(body)} bytes are not a Loki push request: {error}") from error
    return request


def protobuf_logs(request: Any, limits: Limits) -> Iterator[tuple[str, LogRecord]]:
    """(entity, record) of every entry. Raises `ContractError` where a stream's labels cannot be read."""
    for stream in request.streams:
        labels = parse_labels(stream.labels)
        for entry in stream.entries:
            stamp = entry.timestamp.seconds * NS_PER_S + entry.timestamp.nanos
            metadata = {pair.name: pair.value for pair in entry.structured_metadata}
            yield _record(labels, stamp, entry.line, metadata, limits)


def json_push_logs(payload: Any, limits: Limits) -> Iterator[tuple[str, LogRecord]]:
    """(entity, record) of every value of `{"streams": [{"stream": {}, "values": [["<ns>", "line", {}]]}]}`.

    Raises:
        ContractError: another shape; a timestamp that is no text is one, as Loki has it.
    """
    streams = payload.get("streams") if isinstance(payload, Mapping) else None
    if not isinstance(streams, list):
        raise ContractError(
            f'got {kind_of(payload)}, wanted {{"streams": [{{"stream": {{…}}, "values": [["<ns>", "line"]]}}]}}'
        )
    for index, stream in enumerate(streams):
        where = f"streams[{index}]"
        if not isinstance(stream, Mapping) or not isinstance(stream.get("values"), list):
            raise ContractError(f"{where} needs a list `values`")
        labels = _texts(stream.get("stream"), f"{where}.stream")
        for value in stream["values"]:
            if (
                not isinstance(value, list)
                or not 2 <= len(value) <= 3
                or not all(isinstance(v, str) for v in value[:2])
            ):
                raise ContractError(f'{where}.values holds something else than ["<ns>", "line", {{…}}]')
            if not (value[0].isascii() and value[0].isdigit() and len(value[0]) < 20):
                raise ContractError(f"{where}.values: timestamp {value[0][:40]!r} is not nanoseconds")
            metadata = _texts(value[2], f"{where}.values metadata") if len(value) == 3 else {}
            yield _record(labels, int(value[0]), value[1], metadata, limits)


def parse_labels(text: str) -> dict[str, str]:
    """Labels in LogQL's spelling.

    Raises:
        ContractError: the text is not `{name="value", …}`.

    >>> parse_labels('{app="cart", path="a\\\\"b"}')
    {'app': 'cart', 'path': 'a"b'}
    """
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        raise ContractError(f'stream labels are {text[:60]!r}, wanted {{name="value"}}')
    inner = inner[1:-1].strip()
    labels, position = {}, 0
    while position < len(inner):
        match = _LABEL.match(inner, position)
        if match is None:
            raise ContractError(f"stream labels cannot be read at {inner[position : position + 40]!r}")
        try:
            labels[match[1]] = str(json.loads(match[2], strict=False))
        except ValueError:  # an escape that Go knows and JSON does not
            labels[match[1]] = match[2][1:-1]
        position = match.end()
    return labels


def _record(
    labels: Mapping[str, str], stamp: int, line: str, metadata: Mapping[str, str], limits: Limits
) -> tuple[str, LogRecord]:
    if not 0 < stamp <= MAX_TIME_NS:
        raise ContractError(f"an entry's timestamp is {stamp} ns")
    attributes = {cut(name, 512): cut(value, limits.max_text_bytes) for name, value in {**labels, **metadata}.items()}
    level = next((attributes[name] for name in _LEVELS if attributes.get(name)), "")
    return entities.of_labels(labels) or UNKNOWN_ENTITY, LogRecord(
        time_ns=stamp,
        severity_number=severity_number(level),
        severity_text=cut(level, 64),
        body=cut(line, limits.max_text_bytes),
        trace_id=metadata.get("trace_id", "") if len(metadata.get("trace_id", "")) == 32 else "",
        span_id=metadata.get("span_id", "") if len(metadata.get("span_id", "")) == 16 else "",
        attributes=attributes,
    )


def _texts(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ContractError(f"{where} is not an object of texts")
    return dict(value)
