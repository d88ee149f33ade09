"""Incidents (what belongs together) and diagnoses (what is to blame, with evidence)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headspring.proto.detection import Alert, Severity
from headspring.proto.telemetry import Change


class IncidentState(StrEnum):
    UNSPECIFIED = "unspecified"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    MITIGATING = "mitigating"
    """An approved action is under way."""
    SETTLING = "settling"
    """All alerts ended; watched for a relapse before it counts as resolved."""
    RESOLVED = "resolved"
    MERGED = "merged"
    """Lives on under the id in `merged_into`."""


class DiagnosisStatus(StrEnum):
    UNSPECIFIED = "unspecified"
    CONFIRMED = "confirmed"
    LIKELY = "likely"
    INCONCLUSIVE = "inconclusive"


class CauseKind(StrEnum):
    UNSPECIFIED = "unspecified"
    LATENCY = "latency"
    ERRORS = "errors"
    CRASH = "crash"
    SATURATION = "saturation"
    CHANGE = "change"
    TRAFFIC = "traffic"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An alert in an incident, and why it is there."""

    alert: Alert
    representative: bool = False
    suppressed: bool = False
    """Nobody is notified for it on its own; it stays listed with its reason."""
    components: Mapping[str, float] = field(default_factory=dict)
    """`time`, `topology`, `labels`, `severity`: similarity that attached it, each 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    time_ns: int
    kind: str
    """`alert`, `change`, `state`, `action`, `notification` or `comment`."""
    text: str
    actor: str = ""
    ref: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One version of an incident; every change publishes the next version whole."""

    incident_id: str
    tenant: str
    version: int = 1
    state: IncidentState = IncidentState.OPEN
    title: str = ""
    severity: Severity = Severity.WARNING
    opened_ns: int = 0
    updated_ns: int = 0
    resolved_ns: int = 0
    entities: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    aliases: tuple[str, ...] = ()
    merged_into: str = ""
    timeline: tuple[TimelineEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One reason for or against a hypothesis, with the query that shows it."""

    kind: str
    """`metric`, `onset`, `path`, `trace`, `change`, `log` or `rule`."""
    summary: str
    entity: str = ""
    metric: str = ""
    query: str = ""
    """Can be re-run against `/api/v1/metrics/query`; "" where none applies."""
    baseline: float = 0.0
    value: float = 0.0
    deviation: float = 0.0
    """Robust deviations from the baseline, spread floored and result capped."""
    onset_ns: int = 0
    weight: float = 0.0
    """Log-odds that this item added to its hypothesis; negative speaks against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    entity: str
    kind: CauseKind = CauseKind.UNSPECIFIED
    metric: str = ""
    probability: float = 0.0
    status: DiagnosisStatus = DiagnosisStatus.INCONCLUSIVE
    summary: str = ""
    evidence: tuple[Evidence, ...] = ()
    path: tuple[str, ...] = ()
    """From the cause to the alerted entity over edges that exist in the topology."""
    explained: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()
    why_not: str = ""
    change_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    incident_id: str
    tenant: str
    version: int = 1
    created_ns: int = 0
    status: DiagnosisStatus = DiagnosisStatus.INCONCLUSIVE
    none: bool = False
    """True: nothing known here is to blame."""
    hypotheses: tuple[Hypothesis, ...] = ()
    ruled_out: tuple[Hypothesis, ...] = ()
    missing_telemetry: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    method: str = ""
    seconds: float = 0.0
    would_settle: str = ""
