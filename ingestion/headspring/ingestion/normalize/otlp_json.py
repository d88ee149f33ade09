"""OTLP's JSON form to the same protobuf messages as its binary form.

Differs from protobuf's own JSON mapping in that trace and span ids are hex, not base64
(opentelemetry-proto, specification.md, "JSON Protobuf Encoding"). Unknown fields are ignored.
"""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import json_format

from headspring.ingestion.admit.json_text import parse_json
from headspring.proto.errors import ContractError

_HEX_FIELDS = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})


def parse_otlp_json(body: bytes, message: Any, *, max_depth: int) -> Any:
    """Fills and returns `message`.

    Raises:
        LimitExceeded: nested deeper than `max_depth`.
        ContractError: not JSON, or not of this message's shape.
    """
    value = parse_json(body, max_depth=max_depth)
    if not isinstance(value, dict):
        raise ContractError(f"wanted a JSON object, got {type(value).__name__}")
    try:
        return json_format.ParseDict(_hex_to_base64(value), message, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise ContractError(f"JSON is not {message.DESCRIPTOR.name}: {str(error)[:300]}") from error


def _hex_to_base64(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _id(key, value) if key in _HEX_FIELDS and isinstance(value, str) else _hex_to_base64(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_hex_to_base64(item) for item in node]
    return node


def _id(name: str, text: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(text)).decode()
    except ValueError as error:
        raise ContractError(f"{name} is {text[:40]!r}, wanted hex digits") from error
