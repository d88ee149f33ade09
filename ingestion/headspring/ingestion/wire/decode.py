"""Metric requests to columns by the fastest way that is right.

The scanner goes first; whatever it does not take as a plain case goes through the reference, which has
the last word on what is malformed. Both give the same ids, because an id is made from decoded labels:
the scanner's own hash of raw bytes only remembers, per process, which id those bytes stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import Admission, SeriesRegistry
from headspring.ingestion.wire import reference
from headspring.ingestion.wire.columns import Columns, TimeWindow

_MAX_FAMILIES = 100_000
"""Metric families of a tenant whose type is remembered from remote-write metadata."""


class Scanner(Protocol):
    """A faster way for plain bodies. Gives None for what it does not take; then the reference does it."""

    def otlp(self, body: bytes, admission: Admission, window: TimeWindow) -> Columns | None: ...

    def remote_write(
        self, body: bytes, admission: Admission, window: TimeWindow, types: Mapping[str, int]
    ) -> Columns | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    columns: Columns
    admission: Admission


class MetricDecoder:
    """Bytes to columns; used by one event loop."""

    def __init__(self, registry: SeriesRegistry, limits: Limits, scanner: Scanner | None = None) -> None:
        self._registry = registry
        self._limits = limits
        self._scanner = scanner
        # Prometheus sends metadata apart from samples, about once a minute.
        self._types: dict[str, dict[str, int]] = {}

    def otlp(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """An OTLP metrics request in protobuf. Raises `ContractError` where it is none."""
        return self.scan_otlp(tenant, body, now_ns) or self.plain_otlp(tenant, body, now_ns)

    def remote_write(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """A remote-write 1.0 request, decompressed. Raises `ContractError` where it is none."""
        return self.scan_remote_write(tenant, body, now_ns) or self.plain_remote_write(tenant, body, now_ns)

    def scan_otlp(self, tenant: str, body: bytes, now_ns: int) -> Decoded | None:
        """The fast way, None where the plain one must do it. Quick for any body; only on the event loop."""
        if self._scanner is None:
            return None
        admission = self._registry.admission(tenant)
        return _decoded(self._scanner.otlp(body, admission, self.window(now_ns)), admission)

    def plain_otlp(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """The plain way; may run beside the event loop, as it only reads what is shared."""
        return self.parsed_otlp(tenant, reference.parse_otlp(body), now_ns)

    def parsed_otlp(self, tenant: str, request: Any, now_ns: int) -> Decoded:
        """From a message; beside the event loop as above."""
        admission = self._registry.admission(tenant)
        columns = reference.otlp_columns(request, admission, self.window(now_ns))
        return Decoded(columns=columns, admission=admission)

    def scan_remote_write(self, tenant: str, body: bytes, now_ns: int) -> Decoded | None:
        """See `scan_otlp`."""
        if self._scanner is None:
            return None
        admission = self._registry.admission(tenant)
        types = self._types.setdefault(tenant, {})
        return _decoded(self._scanner.remote_write(body, admission, self.window(now_ns), types), admission)

    def plain_remote_write(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """See `plain_otlp`; also learns metric types from metadata."""
        admission = self._registry.admission(tenant)
        types = self._types.setdefault(tenant, {})
        request = reference.parse_remote_write(body)
        self._learn_types(types, request)
        columns = reference.remote_write_columns(request, admission, self.window(now_ns), types)
        return Decoded(columns=columns, admission=admission)

    def _learn_types(self, types: dict[str, int], request: Any) -> None:
        stated = reference.metadata_types(request)
        if len(types) + len(stated) > _MAX_FAMILIES:
            types.clear()
        types.update(stated)

    def window(self, now_ns: int) -> TimeWindow:
        """Event times that are taken now."""
        return TimeWindow.around(now_ns, max_age_s=self._limits.max_age_s, max_future_s=self._limits.max_future_s)


def _decoded(columns: Columns | None, admission: Admission) -> Decoded | None:
    return None if columns is None else Decoded(columns=columns, admission=admission)
