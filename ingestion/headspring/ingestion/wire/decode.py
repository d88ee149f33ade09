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
        self.scanned = 0
        """Bodies that the scanner took."""
        self.fallbacks = 0
        """Bodies that the reference had to do."""

    def otlp(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """An OTLP metrics request in protobuf. Raises `ContractError` where it is none."""
        admission = self._registry.admission(tenant)
        window = self.window(now_ns)
        columns = self._scanner.otlp(body, admission, window) if self._scanner else None
        if columns is None:
            admission = self._registry.admission(tenant)
            columns = reference.otlp_columns(reference.parse_otlp(body), admission, window)
            self.fallbacks += 1
        else:
            self.scanned += 1
        return Decoded(columns=columns, admission=admission)

    def remote_write(self, tenant: str, body: bytes, now_ns: int) -> Decoded:
        """A remote-write 1.0 request, decompressed. Raises `ContractError` where it is none."""
        admission = self._registry.admission(tenant)
        window = self.window(now_ns)
        types = self._types.setdefault(tenant, {})
        columns = self._scanner.remote_write(body, admission, window, types) if self._scanner else None
        if columns is None:
            admission = self._registry.admission(tenant)
            request = reference.parse_remote_write(body)
            self._learn_types(types, request)
            columns = reference.remote_write_columns(request, admission, window, types)
            self.fallbacks += 1
        else:
            self.scanned += 1
        return Decoded(columns=columns, admission=admission)

    def _learn_types(self, types: dict[str, int], request: Any) -> None:
        stated = reference.metadata_types(request)
        if len(types) + len(stated) > _MAX_FAMILIES:
            types.clear()
        types.update(stated)

    def window(self, now_ns: int) -> TimeWindow:
        """Event times that are taken now."""
        return TimeWindow.around(now_ns, max_age_s=self._limits.max_age_s, max_future_s=self._limits.max_future_s)
