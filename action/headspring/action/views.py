"""What the acting side shows of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from headspring.proto.action import ActionEvent, Plan, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person said about a plan. Each person speaks once; one rejection ends it."""

    verdict: str
    """`approve` or `reject`."""
    actor: str
    role: str
    digest: str
    time_ns: int
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    step_id: str
    state: str
    """`started`, `done` or `failed`; `started` after a crash means: nobody knows."""
    started_ns: int
    ended_ns: int = 0
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run: its plan, what was decided, what was done, what came of it."""

    run_id: str
    tenant: str
    incident_id: str
    runbook: str
    state: RunState
    plan: Plan
    requested_by: str
    created_ns: int
    updated_ns: int
    validation: str = ""
    """What validation found, in words."""
    decisions: tuple[Decision, ...] = ()
    """Oldest first; an approved run has as many approvals as its runbook asks for."""
    steps: tuple[StepResult, ...] = ()
    events: tuple[ActionEvent, ...] = field(default=())

    @property
    def decision(self) -> Decision | None:
        """The newest decision; None while nobody spoke."""
        return self.decisions[-1] if self.decisions else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Three values: what could not be measured is neither good nor bad."""

    verdict: str
    """`pass`, `fail` or `inconclusive`."""
    text: str


class Validator(Protocol):
    """Says whether what a plan promised holds now. Called about once a second; may block for a second."""

    def validate(self, plan: Plan) -> Validation: ...
