"""Settings of detection: every threshold has its unit and its reason here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectConfig:
    """Thresholds and times. A score above 1 means anomaly whatever the judge."""

    min_updates: int = 20
    """Values a series needs before it is judged: quantiles of fewer say little about its tails."""
    min_observed_s: float = 30.0
    """Event time a series needs before it is judged, seconds."""
    latency_spreads: float = 5.0
    """Distance from the usual level, in spreads of the series' own values."""
    latency_ratio: float = 1.5
    """A latency must also be so many times its usual level: users do not feel less."""
    latency_least_s: float = 0.020
    """And higher by so much, seconds."""
    error_points: float = 0.05
    """Rise of an error ratio, as a share of requests."""
    error_evidence: float = 3.0
    """Failed requests that must have been seen, where the request rate is known."""
    silence_share: float = 0.2
    """Requests below this share of the usual rate are silence."""
    silence_least_per_s: float = 0.5
    """Services with fewer requests per second are not watched for silence."""
    silence_evidence: float = 12.0
    """Requests that should have come and did not; for Poisson arrivals exp(-12) is 6e-6."""
    surge_ratio: float = 3.0
    """Request rate, as a multiple of the usual one, that is worth a warning."""
    no_data_s: float = 15.0
    """A service's series that reported regularly and stops for so long, and for three intervals, has no data."""
    resume_s: float = 60.0
    """After a start on an earlier life's knowledge, nothing is called silent for so long: senders wait before they try
    again, and OpenTelemetry's export metrics once a minute."""
    level_spreads: float = 6.0
    """For series whose meaning is not known."""
    level_hold_s: float = 30.0
    resource_spreads: float = 8.0
    """For gauges of processes, runtimes and pools: a healthy busy machine must stay quiet."""
    resource_hold_s: float = 120.0
    saturation: float = 0.95
    """Share of a limited resource that counts as full."""
    saturation_hold_s: float = 60.0
    hold_s: float = 2.0
    """A service's anomaly must last so long before it becomes an alert; up to six times as long when it is weak."""
    release: float = 0.7
    """A score below this is calm again."""
    recover_s: float = 15.0
    """Calm must last so long before the alert ends, seconds."""
    update_s: float = 30.0
    """A firing alert is told again this often, seconds."""
    adopt_s: float = 1800.0
    """A new level that lasts so long is the usual one from then on; not for errors or silence."""
    learn_every_s: float = 10.0
    """Once a baseline is full it takes a value this often: 64 values are then about ten minutes."""
    max_series: int = 100_000
    """Series judged per tenant; about 600 bytes of memory each."""
    resources: bool = True
    """Whether gauges of resources are judged at all."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; wanted {low} to {high}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DetectConfig:
        """Settings from a JSON object; what it does not name keeps its default.

        Raises:
            ValueError: an unknown name, a wrong type or a value out of range; the message names it.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"detection settings are a {type(values).__name__}; wanted an object")
        known = {item.name: item.default for item in dataclasses.fields(cls)}
        wanted: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"{name} is no detection setting; there are {', '.join(known)}")
            wanted[name] = _typed(name, value, known[name])
        return cls(**wanted)


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; wanted true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise ValueError(f"{name} is {repr(value)[:60]}; wanted a finite number")
    if isinstance(default, int):
        if value != int(value):
            raise ValueError(f"{name} is {value!r}; wanted a whole number")
        return int(value)
    return float(value)


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits, which JSON may hold
        return False


_RANGES: dict[str, tuple[float, float]] = {
    "min_updates": (5, 64),
    "min_observed_s": (1, 86_400),
    "latency_spreads": (1, 100),
    "latency_ratio": (1, 100),
    "latency_least_s": (0, 3600),
    "error_points": (0.001, 1),
    "error_evidence": (1, 1e6),
    "silence_share": (0.01, 0.9),
    "silence_least_per_s": (0.01, 1e6),
    "silence_evidence": (1, 1e6),
    "surge_ratio": (1.1, 1000),
    "no_data_s": (5, 86_400),
    "resume_s": (0, 3600),
    "level_spreads": (1, 100),
    "level_hold_s": (1, 86_400),
    "resource_spreads": (1, 100),
    "resource_hold_s": (1, 86_400),
    "saturation": (0.5, 1),
    "saturation_hold_s": (1, 86_400),
    "hold_s": (0, 3600),
    "release": (0.1, 1),
    "recover_s": (1, 86_400),
    "update_s": (1, 86_400),
    "adopt_s": (60, 604_800),
    "learn_every_s": (0.1, 3600),
    "max_series": (1, 10_000_000),
}
