"""The steps of a run, each safe to be called again after a crash. `workflow` puts them in order.

A keyed or idempotent step may be tried again; a step that is neither and was started but never finished is
a question for a person, never a second try. With several orchestrators every call brings the lease of its run and
raises `Fenced`, with nothing done, once somebody else owns the run; a store that is away raises `Unavailable`, and
the call is made again later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from opentelemetry.trace import SpanKind

from headspring.action.execute.port import Executor
from headspring.action.leases import Lease
from headspring.action.patience import Patience
from headspring.action.store import RunStore
from headspring.action.views import RunView, StepResult, Validation, Validator
from headspring.proto import tracing
from headspring.proto.action import Plan, PlannedStep, RunState
from headspring.proto.clock import Clock
from headspring.proto.errors import ActionError, NotFound, PlatformError, Unavailable

_DEFAULT_WITHIN_S = 120.0


class Frozen(ActionError):
    """The kill switch is on: no new effect."""


class Unknown(ActionError):
    """A step was started before a crash and nobody knows whether it took effect."""


class Note(Protocol):
    def __call__(
        self, run: RunView, state: RunState, text: str, *, step_id: str = "", actor: str = "headspring"
    ) -> None: ...


class Execution:
    """See the module."""

    def __init__(
        self,
        *,
        store: RunStore,
        executors: Sequence[Executor],
        validator: Validator,
        clock: Clock,
        note: Note,
        drift: Callable[[Plan], str],
        frozen: Callable[[], bool] = lambda: False,
        patience: Patience | None = None,
    ) -> None:
        """
        Args:
            drift: What changed in the world since the plan was made, in words; "" when the approval still holds.
            frozen: The kill switch, asked before every step: while it is on, no step starts.
            patience: Waits for the store once a step has had its effect.
        """
        self._store = store
        self._executors: Mapping[str, Executor] = {executor.name: executor for executor in executors}
        self._validator = validator
        self._clock = clock
        self._note = note
        self._drift = drift
        self._frozen = frozen
        self._patience = patience or Patience()

    def recheck(self, run_id: str, lease: Lease | None = None) -> bool:
        """Whether the world is still the one that was approved; a run that it has left behind is voided."""
        run = self._owned(run_id, lease)
        if run.state.final:
            return False  # an earlier try ended it, and the world may look as approved again by now
        changed = self._drift(run.plan)
        if changed:
            self._end(run, RunState.VOIDED, f"not executed, the approval is void: {changed}", lease)
            return False
        return True

    def act(self, run_id: str, step: PlannedStep, *, undo: bool, lease: Lease | None = None) -> str:
        """Runs one step once; "" when it succeeded, else what went wrong."""
        run = self._owned(run_id, lease)
        state = RunState.ROLLING_BACK if undo else RunState.EXECUTING
        executor = self._executors.get(step.executor)
        if executor is None:
            return f"there is no executor {step.executor!r}"
        if run.state.final:
            return f"the run is {run.state} already"  # by an earlier try, before a crash
        self._store.move(run_id, state, self._clock.now_ns(), lease=lease)
        try:
            earlier = self._earlier(run_id, step, lease)
        except (Frozen, Unknown) as error:
            self._end(run, RunState.ESCALATED, str(error), lease, step_id=step.step_id)
            return str(error)
        if earlier is not None:
            return self._told(run, state, step, earlier)
        if lease is not None:
            lease.check()  # this process may have stood still since it marked the step
        try:
            with tracing.tracer.start_as_current_span(f"step {step.executor}", kind=SpanKind.CLIENT) as span:
                span.set_attributes({"headspring.run": run_id, "headspring.step": step.step_id})
                output = executor.run(step, idempotency_key=f"{run_id}/{step.step_id}")
        except PlatformError as error:
            if isinstance(error, Unavailable) and not step.idempotent:
                # Before the step is marked: a crash in between must not make it one that may be undone.
                text = f"step {step.name} got no answer and is not safe to repeat ({error}); check its target by hand"
                self._patience.until_available(
                    lambda: self._end(run, RunState.ESCALATED, text, lease, step_id=step.step_id)
                )
            return self._finished(run, state, step, "failed", str(error), lease)
        return self._finished(run, state, step, "done", output, lease)

    def begin_validation(self, run_id: str, lease: Lease | None = None) -> float:
        """How long validation may take, seconds."""
        run = self._owned(run_id, lease)
        within_s = self.within_s(run.plan)
        self._store.move(run_id, RunState.VALIDATING, self._clock.now_ns(), lease=lease)
        self._note(run, RunState.VALIDATING, f"watching for recovery, at most {within_s:.0f} s")
        return within_s

    def check(self, run_id: str, lease: Lease | None = None) -> str:
        """Whether what the plan promised holds now: `pass`, `fail` or `inconclusive`."""
        plan = self._owned(run_id, lease).plan
        if not plan.validation:
            text = "pass: the plan only reads, so there is nothing to verify"
            self._store.note_validation(run_id, text, lease=lease)
            return "pass"
        try:
            found = self._validator.validate(plan)
        except PlatformError as error:
            found = Validation(verdict="inconclusive", text=str(error))
        self._store.note_validation(run_id, f"{found.verdict}: {found.text}", lease=lease)
        return found.verdict

    def within_s(self, plan: Plan) -> float:
        """How long validation may take."""
        from headspring.action.plan.checks import decode_check

        checks = [decode_check(entry) for entry in plan.validation]
        return max([float(check.within_s) for check in checks if check is not None], default=_DEFAULT_WITHIN_S)

    def succeed(self, run_id: str, lease: Lease | None = None) -> None:
        run = self._owned(run_id, lease)
        self._end(run, RunState.SUCCEEDED, f"recovery verified: {run.validation}", lease)

    def finish_rollback(self, run_id: str, reason: str, problem: str, lease: Lease | None = None) -> None:
        """After the undo steps: rolled back, or a person is needed."""
        run = self._owned(run_id, lease)
        state, text = RunState.ESCALATED, f"{reason}; this runbook has nothing to roll back. A person is needed."
        if problem:
            text = f"{reason}; rolling back failed too: {problem}. A person is needed now."
        elif run.plan.rollback:
            state, text = RunState.ROLLED_BACK, f"{reason}; rolled back"
        self._end(run, state, text, lease)

    def escalate(self, run_id: str, text: str, lease: Lease | None = None) -> None:
        self._end(self._owned(run_id, lease), RunState.ESCALATED, text, lease)

    def final(self, run_id: str) -> bool:
        return self._run(run_id).state.final

    def _finished(
        self, run: RunView, state: RunState, step: PlannedStep, how: str, output: str, lease: Lease | None
    ) -> str:
        # Kept in hand until it is written: a second try would ask the other side again, or a person without need.
        self._patience.until_available(
            lambda: self._store.end_step(
                run.run_id, step.step_id, state=how, output=output, now_ns=self._clock.now_ns(), lease=lease
            )
        )
        return self._told(run, state, step, StepResult(step_id=step.step_id, state=how, started_ns=0, output=output))

    def _told(self, run: RunView, state: RunState, step: PlannedStep, result: StepResult) -> str:
        """Writes the end of a step into the trail, once however often it is called; what went wrong, or ""."""
        failed = result.state == "failed"
        if not self.final(run.run_id):
            text = f"step {step.name} failed: {result.output}" if failed else f"step {step.name} done"
            self._note(run, state, text, step_id=step.step_id)
        return result.output if failed else ""

    def _earlier(self, run_id: str, step: PlannedStep, lease: Lease | None) -> StepResult | None:
        """What an earlier try came to; None when the step is to be run now."""
        if self._frozen():
            raise Frozen("automation is frozen; the step was not started")
        earlier = self._store.begin_step(run_id, step.step_id, self._clock.now_ns(), lease=lease)
        if earlier is None or (earlier.state == "started" and step.idempotent):
            return None
        if earlier.state == "started":
            raise Unknown(
                f"step {step.name} was started before a crash and is not safe to repeat; "
                "check its target, then decide by hand"
            )
        return earlier

    def _end(self, run: RunView, state: RunState, text: str, lease: Lease | None, *, step_id: str = "") -> None:
        # A crash between the move and the note has this called again: the note is written once, and never not.
        moved = self._store.move(run.run_id, state, self._clock.now_ns(), lease=lease)
        if moved or self._run(run.run_id).state is state:
            self._note(run, state, text, step_id=step_id)

    def _owned(self, run_id: str, lease: Lease | None) -> RunView:
        if lease is not None:
            lease.check()
        return self._run(run_id)

    def _run(self, run_id: str) -> RunView:
        run = self._store.run(run_id)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run
