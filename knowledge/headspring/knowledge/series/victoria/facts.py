"""What a server says of itself in its own metrics: version, when it started, its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from headspring.knowledge.series.victoria.labels import LabelLimits

MIN_VERSION = (1, 79)
"""The oldest that the contract suite is run against."""
WANTED_LABELS = 73
"""What ingestion admits for one series, 64, and ours."""

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_APP = re.compile(r"^vm_app_version\{([^}]*)\}", re.MULTILINE)
_START = re.compile(r"^vm_app_start_timestamp (\S+)$", re.MULTILINE)
_FLAG = re.compile(r'^flag\{name="([^"]+)", ?value="([^"]*)"', re.MULTILINE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy]?)")
_UNIT_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}
_MONTH_S = 31 * 86_400.0
_FLUSH_S = 5.0
"""How long a server keeps samples in memory only, unless it says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """A server, as far as it can be known."""

    version: tuple[int, ...] = ()
    """Empty where it does not say, as distributions' builds."""
    started_s: float = 0.0
    """Unix seconds; 0 unknown."""
    retention: timedelta | None = None
    limits: LabelLimits = field(default_factory=LabelLimits)
    flush_s: float = _FLUSH_S
    """Seconds of samples that it may lose when it is killed."""


def parse(metrics: str) -> ServerFacts | None:
    """Facts from the text of `/metrics`; None if this is not VictoriaMetrics'."""
    app = _APP.search(metrics)
    if app is None:
        return None
    version, start = _VERSION.search(app[1]), _START.search(metrics)
    flags: Mapping[str, str] = dict(_FLAG.findall(metrics))
    retention_s = _duration_s(flags.get("retentionPeriod", ""), bare_s=_MONTH_S)
    defaults = LabelLimits()
    return ServerFacts(
        version=tuple(map(int, version.groups())) if version else (),
        started_s=float(start[1]) if start else 0.0,
        retention=timedelta(seconds=retention_s) if retention_s else None,
        limits=LabelLimits(
            max_labels=_count(flags.get("maxLabelsPerTimeseries"), defaults.max_labels),
            # A longer value is of no use to anybody; what is longer is kept apart.
            max_value_bytes=min(4096, _count(flags.get("maxLabelValueLen"), defaults.max_value_bytes)),
        ),
        flush_s=max(_FLUSH_S, _duration_s(flags.get("inmemoryDataFlushInterval", ""), bare_s=1.0)),
    )


def _count(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default


def _duration_s(text: str, *, bare_s: float) -> float:
    """Seconds of `30d`, `1h30m0s` or a bare number of `bare_s`; 0 for anything else."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return 0.0
    return sum(float(number) * (_UNIT_S[unit] if unit else bare_s) for number, unit in parts)
