"""Foreign values to ours: attribute values to text, times to nanoseconds."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import ContractError

_RFC3339 = re.compile(
    r"^(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9})\d*)?(?:([Zz])|([+-])(\d{2}):?(\d{2}))$"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_DEPTH = 16
"""Nesting of attribute values that is spelled out; OpenTelemetry sets no limit, protobuf stops at 100."""
_UNIT_NS = ((10**17, 1), (10**14, 1_000), (10**11, 1_000_000), (0, NS_PER_S))
"""A bare number is nanoseconds, microseconds, milliseconds or seconds by its size (years 1973 to 5138)."""
MAX_TIME_NS = 2**63 - 1


def any_value_text(value: Any, depth: int = 0) -> str:
    """Text of an OTLP AnyValue message: scalars plainly, arrays and maps as JSON, bytes as base64."""
    which = value.WhichOneof("value")
    if which == "string_value":
        return str(value.string_value)
    if which is None:
        return ""
    plain = _plain(value, depth)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any, depth: int) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if depth > _MAX_DEPTH:
        return "…"
    if which == "array_value":
        return [_plain(item, depth + 1) for item in value.array_value.values]
    if which == "kvlist_value":
        return {item.key: _plain(item.value, depth + 1) for item in value.kvlist_value.values}
    if which == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if which == "double_value" and not math.isfinite(value.double_value):
        return str(value.double_value)
    return getattr(value, which)


def attribute_map(pairs: Iterable[Any]) -> dict[str, str]:
    """Name to text of OTLP KeyValue messages; a name that comes twice keeps its last value."""
    return {pair.key: any_value_text(pair.value) for pair in pairs}


def cut(text: str, max_bytes: int) -> str:
    """The text, or its beginning and a mark that says how much is missing."""
    if len(text) * 4 <= max_bytes:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return text
    return data[:max_bytes].decode("utf-8", "ignore") + f"… ({len(data) - max_bytes} bytes cut)"


def time_ns(value: Any, name: str) -> int:
    """Unix nanoseconds of an RFC 3339 text or a bare number; 0 for none (null, "", year 1).

    Raises:
        ContractError: it is neither; the message says what `name` held.

    >>> time_ns("1970-01-01T00:00:01.5Z", "startsAt"), time_ns(1_700_000_000, "time")
    (1500000000, 1700000000000000000)
    """
    if value is None or value == "":
        return 0
    if isinstance(value, bool):
        raise ContractError(f"{name} is {value}, wanted an RFC 3339 time or a unix time")
    if isinstance(value, int | float):
        if not math.isfinite(value) or value < 0:
            raise ContractError(f"{name} is {value}, wanted a unix time")
        factor = next(factor for floor, factor in _UNIT_NS if value >= floor)
        return _in_range(int(value) * factor if isinstance(value, int) else round(value * factor), name)
    if isinstance(value, str):
        match = _RFC3339.match(value.strip())
        if match is not None:
            return _rfc3339_ns(match, value, name)
        if value.strip().isascii() and value.strip().isdigit() and len(value) < 25:
            return time_ns(int(value), name)
    raise ContractError(f"{name} is {str(value)[:60]!r}, wanted an RFC 3339 time such as 2026-01-31T12:00:00Z")


def _rfc3339_ns(match: re.Match[str], text: str, name: str) -> int:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if year <= 1:
        return 0  # Go's zero time: "not set"
    offset = timedelta(hours=int(match[10] or 0), minutes=int(match[11] or 0))
    try:
        zone = timezone(-offset if match[9] == "-" else offset)
        # A leap second counts as the one before it.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        since = moment - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ContractError(f"{name} is {text[:60]!r}: {error}") from error
    whole = (since.days * 86_400 + since.seconds) * NS_PER_S
    return _in_range(max(0, whole + int((match[7] or "0").ljust(9, "0"))), name)


def _in_range(value: int, name: str) -> int:
    if value > MAX_TIME_NS:
        raise ContractError(f"{name} is {value} ns, which is after the year 2262")
    return value


def label_name(name: str) -> str:
    """A label's name as PromQL can write it.

    >>> label_name("http.route")
    'http_route'
    """
    text = "".join(char if char.isascii() and (char.isalnum() or char == "_") else "_" for char in name)
    return "_" + text if text[:1].isdigit() else text
