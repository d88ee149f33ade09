"""An approved run as a durable workflow (DBOS): every step's outcome is kept, so a restart goes on where it stopped.

The wait for approval is not part of it: that is a row in the run store, which costs no thread however many
runs wait. DBOS repeats a step whose outcome it had not yet kept; `execution` makes that repetition harmless.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headspring.action.execution import Execution
from headspring.proto.errors import Unavailable

if TYPE_CHECKING:
    from dbos import DBOS

    from headspring.action.store import RunStore

APPLICATION_VERSION = "1"
"""Raise it when the order of steps below changes: DBOS resumes a workflow only in the version that began it."""
_EXECUTOR_ID = "embedded"
_CHECK_EVERY_S = 1.0
_THREADS = 16
"""Runs that may act or be validated at once."""


class Workflows:
    """Starts approved runs. One per process: DBOS is a process-wide runtime."""

    def __init__(self, database: Path, *, execution: Execution, store: RunStore) -> None:
        self._database = database
        self._execution = execution
        self._store = store
        self._dbos: type[DBOS] | None = None  # the class is its own singleton; its import takes over a second
        self._workflow: Callable[[str], str] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Launches the runtime; unfinished runs go on."""
        from dbos import DBOS, DBOSConfig

        config: DBOSConfig = {
            "name": "headspring",
            "application_version": APPLICATION_VERSION,
            "executor_id": _EXECUTOR_ID,
            "system_database_url": f"sqlite:///{self._database}",
            "enable_otlp": False,
            "log_level": "ERROR",
            "max_executor_threads": _THREADS,
        }
        DBOS.destroy(destroy_registry=True)
        DBOS(config=config)
        self._dbos = DBOS
        self._workflow = self._define(DBOS)
        DBOS.launch()

    def stop(self) -> None:
        """Ends the runtime; unfinished runs go on at the next start."""
        if self._dbos is not None:
            self._dbos.destroy(workflow_completion_timeout_sec=2)
            self._dbos = None

    def begin(self, run_id: str) -> None:
        """Starts an approved run's workflow; harmless when it is started already."""
        from dbos import SetWorkflowID

        if self._dbos is None or self._workflow is None:
            raise Unavailable("the workflow runtime is not running; try again when the platform is up")
        with self._lock, SetWorkflowID(run_id):
            self._dbos.start_workflow(self._workflow, run_id)

    def _define(self, dbos: type[DBOS]) -> Callable[[str], str]:
        execution, store = self._execution, self._store
        step = dbos.step

        @step(name="recheck")
        def recheck(run_id: str) -> bool:
            return execution.recheck(run_id)

        @step(name="act")
        def act(run_id: str, number: int, undo: bool) -> str:
            run = store.run(run_id)
            assert run is not None  # noqa: S101  # the workflow exists because the run does
            steps = run.plan.rollback if undo else run.plan.steps
            return execution.act(run_id, steps[number], undo=undo)

        @step(name="begin-validation")
        def begin_validation(run_id: str) -> float:
            return execution.begin_validation(run_id)

        @step(name="check")
        def check(run_id: str) -> str:
            return execution.check(run_id)

        @step(name="finish")
        def finish(run_id: str, how: str, reason: str, problem: str) -> None:
            if how == "succeed":
                execution.succeed(run_id)
            elif how == "escalate":
                execution.escalate(run_id, reason)
            else:
                execution.finish_rollback(run_id, reason, problem)

        @step(name="shape")
        def shape(run_id: str) -> list[int]:
            run = store.run(run_id)
            assert run is not None  # noqa: S101
            return [len(run.plan.steps), len(run.plan.rollback)]

        @step(name="final")
        def final(run_id: str) -> bool:
            return execution.final(run_id)

        @dbos.workflow(name="run")
        def run_workflow(run_id: str) -> str:
            forward, backward = shape(run_id)
            if not recheck(run_id):
                return "voided"
            problem = ""
            for number in range(forward):
                problem = act(run_id, number, False)
                if problem:
                    break
            if not problem:
                # Short steps: a process that ends in between goes on from here at its next start.
                tries = max(1, round(begin_validation(run_id) / _CHECK_EVERY_S))
                outcome = check(run_id)
                while outcome != "pass" and tries > 1:
                    dbos.sleep(_CHECK_EVERY_S)
                    outcome = check(run_id)
                    tries -= 1
                if outcome == "pass":
                    finish(run_id, "succeed", "", "")
                    return "succeeded"
                if outcome == "inconclusive":
                    finish(run_id, "escalate", "the steps ran, but whether they helped could not be measured", "")
                    return "escalated"
                problem = "the steps ran, but what fired has not recovered"
            if final(run_id):
                return "escalated"
            undone = ""
            for number in range(backward):
                undone = act(run_id, number, True)
                if undone:
                    break
            finish(run_id, "rollback", problem, undone)
            return "rolled back"

        return run_workflow
