"""OTLP log requests and plain JSON logs to log records, each with its entity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from headspring.ingestion.admit.json_text import kind_of
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize import entities
from headspring.ingestion.normalize.metrics import resource_attributes
from headspring.ingestion.normalize.spans import UNKNOWN_ENTITY
from headspring.ingestion.normalize.values import MAX_TIME_NS, any_value_text, attribute_map, cut, time_ns
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import LogRecord

_SEVERITY_NUMBERS = {
    "trace": 1, "debug": 5, "info": 9, "information": 9, "notice": 10, "warn": 13, "warning": 13, "error": 17,
    "err": 17, "critical": 21, "crit": 21, "fatal": 21, "alert": 22, "panic": 22, "emergency": 24, "emerg": 24,
}  # fmt: skip
"""OpenTelemetry's severity number of common level names (logs data model, appendix B)."""
_INSTANCE_ATTRIBUTE = "service.instance.id"
_MESSAGE_FIELDS = ("message", "body", "msg", "log", "line")
_LEVEL_FIELDS = ("severity", "level", "severity_text")
_TIME_FIELDS = ("timestamp_ms", "timestamp", "time", "ts", "@timestamp")
_HEX = frozenset("0123456789abcdef")


def severity_number(text: str) -> int:
    """1..24 of a level's name, 0 unknown.

    >>> severity_number("WARN"), severity_number("whatever")
    (13, 0)
    """
    return _SEVERITY_NUMBERS.get(text.strip().lower(), 0)


def otlp_logs(request: Any, limits: Limits, now_ns: int) -> Iterator[tuple[str, LogRecord]]:
    """(entity, record) of an ExportLogsServiceRequest in wire order; a record without a time gets the time it came."""
    for resource_logs in request.resource_logs:
        resource = resource_attributes(attribute_map(resource_logs.resource.attributes))
        entity = entities.of_resource(resource) or UNKNOWN_ENTITY
        instance = entities.instance_of(resource)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield entity, _otlp_record(record, instance, limits, now_ns)


def _otlp_record(record: Any, instance: str, limits: Limits, now_ns: int) -> LogRecord:
    attributes = {name: cut(value, limits.max_text_bytes) for name, value in attribute_map(record.attributes).items()}
    if instance:
        attributes.setdefault(_INSTANCE_ATTRIBUTE, cut(instance, limits.max_text_bytes))
    if record.event_name:
        attributes.setdefault("event.name", cut(record.event_name, limits.max_text_bytes))
    stamp = record.time_unix_nano or record.observed_time_unix_nano
    return LogRecord(
        time_ns=stamp if 0 < stamp <= MAX_TIME_NS else now_ns,
        severity_number=record.severity_number if 0 <= record.severity_number <= 24 else 0,
        severity_text=cut(record.severity_text, 64),
        body=cut(any_value_text(record.body), limits.max_text_bytes),
        trace_id=record.trace_id.hex() if len(record.trace_id) == 16 and any(record.trace_id) else "",
        span_id=record.span_id.hex() if len(record.span_id) == 8 and any(record.span_id) else "",
        attributes=attributes,
    )


def json_logs(payload: Any, limits: Limits, now_ns: int, rejected: Counter[str]) -> Iterator[tuple[str, LogRecord]]:
    """(entity, record) of `{"logs": [{"service", "message", "severity"?, "timestamp"?, "attributes"?, …}]}`.

    Raises:
        ContractError: the payload has another shape. One bad record is counted in `rejected` instead.
    """
    items = payload.get("logs") if isinstance(payload, Mapping) else payload
    if not isinstance(items, list):
        raise ContractError(f'got {kind_of(payload)}, wanted {{"logs": [...]}} with one object for each record')
    for item in items:
        try:
            yield _json_record(item, limits, now_ns)
        except ContractError as error:
            rejected[str(error)] += 1


def _json_record(item: Any, limits: Limits, now_ns: int) -> tuple[str, LogRecord]:
    if not isinstance(item, Mapping):
        raise ContractError("a log record is not a JSON object")
    body = next((item[name] for name in _MESSAGE_FIELDS if name in item), None)
    if not isinstance(body, str):
        raise ContractError("a log record needs a text in `message`")
    level = next((item[name] for name in _LEVEL_FIELDS if isinstance(item.get(name), str)), "")
    stamp = next((time_ns(item[name], name) for name in _TIME_FIELDS if name in item), 0)
    attributes = item.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise ContractError("`attributes` of a log record is not a JSON object")
    texts = {str(name): cut(_text(value), limits.max_text_bytes) for name, value in attributes.items()}
    about = {
        name: item[name]
        for name in ("entity", "service", "namespace", "host", "pod")
        if isinstance(item.get(name), str)
    }
    entity = entities.of_labels({**texts, **about}) or UNKNOWN_ENTITY
    return entity, LogRecord(
        time_ns=stamp or now_ns,
        severity_number=severity_number(level),
        severity_text=cut(level, 64),
        body=cut(body, limits.max_text_bytes),
        trace_id=_hex_id(item.get("trace_id"), 32),
        span_id=_hex_id(item.get("span_id"), 16),
        attributes=texts,
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


def _hex_id(value: Any, length: int) -> str:
    text = value.lower() if isinstance(value, str) else ""
    return text if len(text) == length and set(text) <= _HEX else ""
