"""Plans, runs, feedback, model versions and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class RunState(StrEnum):
    UNSPECIFIED = "unspecified"
    PLANNED = "planned"
    WAITING_APPROVAL = "waiting_approval"
    APPROVED = "approved"
    EXECUTING = "executing"
    VALIDATING = "validating"
    SUCCEEDED = "succeeded"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"
    EXPIRED = "expired"
    FAILED = "failed"
    ESCALATED = "escalated"
    VOIDED = "voided"

    @property
    def final(self) -> bool:
        """No further state follows."""
        return self in _FINAL


_FINAL = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.ROLLED_BACK,
        RunState.REJECTED,
        RunState.EXPIRED,
        RunState.FAILED,
        RunState.ESCALATED,
        RunState.VOIDED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step with everything resolved: what is approved is what runs."""

    step_id: str
    name: str
    executor: str
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    preview: str = ""
    idempotent: bool = False
    rollback_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlastRadius:
    targets: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    """Callers that may notice."""
    downstream: tuple[str, ...] = ()
    traffic_share: float = 0.0
    """Share of observed requests that pass a target, 0..1."""
    level: str = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    plan_id: str
    tenant: str
    incident_id: str
    runbook: str
    runbook_version: str
    title: str
    steps: tuple[PlannedStep, ...] = ()
    rollback: tuple[PlannedStep, ...] = ()
    validation: tuple[str, ...] = ()
    blast_radius: BlastRadius = field(default_factory=BlastRadius)
    risk: str = "low"
    requested_by: str = ""
    created_ns: int = 0
    expires_ns: int = 0
    digest: str = ""
    """sha256 over steps, rollback, validation, blast radius and expiry: what an approval is bound to."""
    cause_entity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionEvent:
    """One thing that happened to a run."""

    event_id: str
    tenant: str
    run_id: str
    incident_id: str
    runbook: str
    state: RunState
    time_ns: int
    actor: str = ""
    text: str = ""
    step_id: str = ""
    digest: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    feedback_id: str
    tenant: str
    subject: str
    subject_kind: str
    """`incident`, `run` or `alert`."""
    verdict: str
    """`right-cause`, `wrong-cause`, `nuisance`, `not-an-incident`, `split`, `merge`, `outcome-success` or
    `outcome-failure`."""
    actor: str
    time_ns: int
    comment: str = ""
    entity: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    model_id: str
    tenant: str
    version: int
    stage: str
    """`candidate`, `shadow`, `champion` or `retired`."""
    artifact_digest: str = ""
    created_ns: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings of a stage that are changed while it runs, whole."""

    name: str
    """What it sets: `detection`."""
    value: str
    """JSON, in the form of that stage."""
    time_ns: int
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message no stage could use, kept as it came."""

    source_topic: str
    stage: str
    reason: str
    time_ns: int
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
