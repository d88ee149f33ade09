"""The steps of a run, each safe to be called again after a crash. `workflow` puts them in order.

A keyed or idempotent step may be tried again; a step that is neither and was started but never finished is
a question for a person, never a second try.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from opentelemetry.trace import SpanKind

from headspring.action.execute.port import Executor
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
    ) -> None:
        """
        Args:
            drift: What changed in the world since the plan was made, in words; "" when the approval still holds.
        """
        self._store = store
        self._executors: Mapping[str, Executor] = {executor.name: executor for executor in executors}
        self._validator = validator
        self._clock = clock
        self._note = note
        self._drift = drift
        self._frozen = threading.Event()

    def freeze(self, frozen: bool) -> None:
        """The kill switch: while on, no step starts."""
        if frozen:
            self._frozen.set()
        else:
            self._frozen.clear()

    @property
    def frozen(self) -> bool:
        return self._frozen.is_set()

    def recheck(self, run_id: str) -> bool:
        """Whether the world is still the one that was approved; a run that it has left behind is voided."""
        run = self._run(run_id)
        if run.state.final:
            return False  # an earlier try ended it, and the world may look as approved again by now
        changed = self._drift(run.plan)
        if changed:
            self._end(run, RunState.VOIDED, f"not executed, the approval is void: {changed}")
            return False
        return True

    def act(self, run_id: str, step: PlannedStep, *, undo: bool) -> str:
        """Runs one step once; "" when it succeeded, else what went wrong."""
        run = self._run(run_id)
        state = RunState.ROLLING_BACK if undo else RunState.EXECUTING
        executor = self._executors.get(step.executor)
        if executor is None:
            return f"there is no executor {step.executor!r}"
        if run.state.final:
            return f"the run is {run.state} already"  # by an earlier try, before a crash
        self._store.move(run_id, state, self._clock.now_ns())
        try:
            earlier = self._earlier(run_id, step)
            if earlier is not None:
                return self._told(run, state, step, earlier)
            with tracing.tracer.start_as_current_span(f"step {step.executor}", kind=SpanKind.CLIENT) as span:
                span.set_attributes({"headspring.run": run_id, "headspring.step": step.step_id})
                output = executor.run(step, idempotency_key=f"{run_id}/{step.step_id}")
        except (Frozen, Unknown) as error:
            self._end(run, RunState.ESCALATED, str(error), step_id=step.step_id)
            return str(error)
        except PlatformError as error:
            if isinstance(error, Unavailable) and not step.idempotent:
                # Before the step is marked: a crash in between must not make it one that may be undone.
                text = f"step {step.name} got no answer and is not safe to repeat ({error}); check its target by hand"
                self._end(run, RunState.ESCALATED, text, step_id=step.step_id)
            return self._finished(run, state, step, "failed", str(error))
        return self._finished(run, state, step, "done", output)

    def begin_validation(self, run_id: str) -> float:
        """How long validation may take, seconds."""
        run = self._run(run_id)
        within_s = self.within_s(run.plan)
        self._store.move(run_id, RunState.VALIDATING, self._clock.now_ns())
        self._note(run, RunState.VALIDATING, f"watching for recovery, at most {within_s:.0f} s")
        return within_s

    def check(self, run_id: str) -> str:
        """Whether what the plan promised holds now: `pass`, `fail` or `inconclusive`."""
        plan = self._run(run_id).plan
        if not plan.validation:
            self._store.note_validation(run_id, "pass: the plan only reads, so there is nothing to verify")
            return "pass"
        try:
            found = self._validator.validate(plan)
        except PlatformError as error:
            found = Validation(verdict="inconclusive", text=str(error))
        self._store.note_validation(run_id, f"{found.verdict}: {found.text}")
        return found.verdict

    def within_s(self, plan: Plan) -> float:
        """How long validation may take."""
        from headspring.action.plan.checks import decode_check

        checks = [decode_check(entry) for entry in plan.validation]
        return max([float(check.within_s) for check in checks if check is not None], default=_DEFAULT_WITHIN_S)

    def succeed(self, run_id: str) -> None:
        run = self._run(run_id)
        self._end(run, RunState.SUCCEEDED, f"recovery verified: {run.validation}")

    def finish_rollback(self, run_id: str, reason: str, problem: str) -> None:
        """After the undo steps: rolled back, or a person is needed."""
        run = self._run(run_id)
        if problem:
            self._end(run, RunState.ESCALATED, f"{reason}; rolling back failed too: {problem}. A person is needed now.")
        elif run.plan.rollback:
            self._end(run, RunState.ROLLED_BACK, f"{reason}; rolled back")
        else:
            self._end(run, RunState.ESCALATED, f"{reason}; this runbook has nothing to roll back. A person is needed.")

    def escalate(self, run_id: str, text: str) -> None:
        self._end(self._run(run_id), RunState.ESCALATED, text)

    def final(self, run_id: str) -> bool:
        return self._run(run_id).state.final

    def _finished(self, run: RunView, state: RunState, step: PlannedStep, how: str, output: str) -> str:
        now_ns = self._clock.now_ns()
        self._store.end_step(run.run_id, step.step_id, state=how, output=output, now_ns=now_ns)
        return self._told(run, state, step, StepResult(step_id=step.step_id, state=how, started_ns=0, output=output))

    def _told(self, run: RunView, state: RunState, step: PlannedStep, result: StepResult) -> str:
        """Writes the end of a step into the trail, once however often it is called; what went wrong, or ""."""
        failed = result.state == "failed"
        if not self.final(run.run_id):
            text = f"step {step.name} failed: {result.output}" if failed else f"step {step.name} done"
            self._note(run, state, text, step_id=step.step_id)
        return result.output if failed else ""

    def _earlier(self, run_id: str, step: PlannedStep) -> StepResult | None:
        """What an earlier try came to; None when the step is to be run now."""
        if self._frozen.is_set():
            raise Frozen("automation is frozen; the step was not started")
        earlier = self._store.begin_step(run_id, step.step_id, self._clock.now_ns())
        if earlier is None or (earlier.state == "started" and step.idempotent):
            return None
        if earlier.state == "started":
            raise Unknown(
                f"step {step.name} was started before a crash and is not safe to repeat; "
                "check its target, then decide by hand"
            )
        return earlier

    def _end(self, run: RunView, state: RunState, text: str, *, step_id: str = "") -> None:
        # A crash between the move and the note has this called again: the note is written once, and never not.
        if self._store.move(run.run_id, state, self._clock.now_ns()) or self._run(run.run_id).state is state:
            self._note(run, state, text, step_id=step_id)

    def _run(self, run_id: str) -> RunView:
        run = self._store.run(run_id)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run
