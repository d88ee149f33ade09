"""The executor port: one planned step, looked at or carried out."""

from __future__ import annotations

from typing import Protocol

from headspring.proto.action import PlannedStep


class Executor(Protocol):
    """A way to act. Blocking; may be called from several threads."""

    @property
    def name(self) -> str:
        """What a step's `executor` says."""
        ...

    def preview(self, step: PlannedStep) -> str:
        """What the step would do, in words; reads at most, changes nothing.

        Raises:
            PlatformError: the dry-run failed.
        """
        ...

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        """Carries the step out; what came back.

        Raises:
            ExecutionFailed: it was refused or failed, and the other side said so.
            Unavailable: no answer came; whether it took effect is not known.
            Rejected: the step asks for what is not allowed here; nothing was sent.
        """
        ...
