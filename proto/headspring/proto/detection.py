"""Windows' features and detectors' alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Severity(StrEnum):
    UNSPECIFIED = "unspecified"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for unspecified up to 4 for critical; for comparing."""
        return _SEVERITY_RANK[self]


_SEVERITY_RANK = {
    Severity.UNSPECIFIED: 0,
    Severity.INFO: 1,
    Severity.WARNING: 2,
    Severity.ERROR: 3,
    Severity.CRITICAL: 4,
}


class AlertStatus(StrEnum):
    UNSPECIFIED = "unspecified"
    FIRING = "firing"
    RESOLVED = "resolved"


class Direction(StrEnum):
    UNSPECIFIED = "unspecified"
    UP = "up"
    DOWN = "down"
    ABSENT = "absent"
    """Data stopped coming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBatch:
    """One sliding window's features: one row a series, columns of equal length.

    Counters have been turned into per-second rates; gauges are as they came. A series without a
    sample in the window has no row.
    """

    tenant: str
    shard: int = 0
    window_end_ns: int
    """Exclusive end of the window, event time."""
    window_ns: int
    emitted_ns: int = 0
    series_id: NDArray[np.uint64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Population standard deviation."""
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    last_time_ns: NDArray[np.int64]
    recent_mean: NDArray[np.float64]
    """Mean of the newest pane that has data: what is happening now, against the window's mean."""
    recent_count: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.series_id.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Why an alert is held back, deduplicated or suppressed. Marks are added, nothing is deleted."""

    stage: str
    reason: str
    rule: str = ""
    time_ns: int = 0
    expires_ns: int = 0
    """0: does not lapse by time."""
    components: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An anomaly found here, or an alert received from elsewhere; one form for both."""

    alert_id: str
    """One firing episode: a repeat, and the end, carry the same id."""
    tenant: str
    fingerprint: str
    """Identity of the definition over episodes; the source's own when it gives one."""
    entity: str
    name: str
    severity: Severity = Severity.WARNING
    status: AlertStatus = AlertStatus.FIRING
    starts_ns: int = 0
    ends_ns: int = 0
    updated_ns: int = 0
    source: str = ""
    """`detect.basic`, `alertmanager`, …"""
    summary: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    series_id: int = 0
    metric: str = ""
    direction: Direction = Direction.UNSPECIFIED
    score: float = 0.0
    """More than 1 means anomaly, for every detector; 0 for alerts from elsewhere."""
    value: float = 0.0
    expected_low: float = 0.0
    expected_high: float = 0.0
    count: int = 1
    marks: tuple[Mark, ...] = ()
