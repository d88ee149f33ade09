"""An approved run as a durable workflow (DBOS): every step's outcome is kept, so a restart goes on where it stopped.

The wait for approval is not part of it: that is a row in the run store, which costs no thread however many
runs wait. DBOS repeats a step whose outcome it had not yet kept; `execution` makes that repetition harmless.

With several orchestrators a workflow runs where the lease of its run is. Whoever takes over resumes it on a queue of
its own, where DBOS replays the finished steps; what the orchestrator before still runs of it ends at its next step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from headspring.action.execution import Execution
from headspring.action.leases import Fenced, Lease
from headspring.action.patience import Abandoned, Patience
from headspring.proto.errors import Unavailable
from headspring.proto.relational.postgres import CONNECT

if TYPE_CHECKING:
    from dbos import DBOS

    from headspring.action.store import RunStore

logger = logging.getLogger(__name__)

APPLICATION_VERSION = "1"
"""Raise it when the order of steps below changes: DBOS resumes a workflow only in the version that began it."""
THREADS = 16
"""Runs that may act or be validated at once."""
_EMBEDDED = "embedded"
_SCHEMA = "headspring_workflows"
"""DBOS keeps its tables apart from ours."""
_QUEUE_PREFIX = "act-"
_QUEUE_EVERY_S = 0.5
_CHECK_EVERY_S = 1.0
_CONNECTIONS = 10
_IDLE_S = 10.0
_GOING = ("PENDING", "ENQUEUED", "DELAYED")
"""DBOS's states of a workflow that can go on."""
P = ParamSpec("P")
T = TypeVar("T")


class Workflows:
    """Starts approved runs. One per process: DBOS is a process-wide runtime."""

    def __init__(
        self, database_url: str, *, execution: Execution, store: RunStore, patience: Patience,
        executor_id: str = _EMBEDDED, lease_of: Callable[[str], Lease] | None = None,
        ended: Callable[[Lease], None] = lambda lease: None,
    ) -> None:  # fmt: skip
        """
        Args:
            executor_id: The same in every life of the only process there is, or another one in every life of each.
            lease_of: With several orchestrators: this process's lease of a run, once. Raises `Fenced` without one.
            ended: Told when nothing works under a lease any more.
        """
        self._url = database_url
        self._execution = execution
        self._store = store
        self._patience = patience
        self._executor_id = executor_id
        self._lease_of = lease_of
        self._ended = ended
        self._dbos: type[DBOS] | None = None  # the class is its own singleton; its import takes over a second
        self._workflow: Callable[[str], str] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Launches the runtime. The only process there is goes on with unfinished runs; among several, leases say who.

        Raises:
            Unavailable: the database does not answer.
        """
        from dbos import DBOS, DBOSConfig

        config: DBOSConfig = {
            "name": "headspring",
            "application_version": APPLICATION_VERSION,
            "executor_id": self._executor_id,
            "system_database_url": self._url,
            "enable_otlp": False,
            "log_level": "ERROR",
            "max_executor_threads": THREADS,
        }
        if self._lease_of is not None:
            config |= {
                "dbos_system_schema": _SCHEMA, "sys_db_pool_size": _CONNECTIONS,
                # A process that stops in the middle of a write must not keep the next owner from going on.
                "sys_db_idle_transaction_timeout_sec": _IDLE_S,
                "db_engine_kwargs": {"connect_args": {**CONNECT, "application_name": "headspring-workflows"}},
            }  # fmt: skip
        DBOS.destroy(destroy_registry=True)
        DBOS(config=config)
        self._workflow = self._define(DBOS)
        if self._lease_of is not None:
            DBOS.listen_queues([self._queue])
        try:
            DBOS.launch()
            if self._lease_of is not None:
                self._own_queue(DBOS)
        except sa.exc.OperationalError as error:
            DBOS.destroy(destroy_registry=True)
            raise Unavailable("the database of workflows does not answer; try again when it is up") from error
        self._dbos = DBOS

    def stop(self, *, wait_s: int = 2) -> None:
        """Ends the runtime, after runs had `wait_s` to end their step; they go on at the next start, or elsewhere."""
        self._patience.end()
        if self._dbos is not None:
            if self._lease_of is not None:
                self._dbos.delete_queue(self._queue)
            self._dbos.destroy(workflow_completion_timeout_sec=wait_s)
            self._dbos = None

    def begin(self, run_id: str) -> bool:
        """Starts an approved run's workflow, or goes on with it where another orchestrator left it; harmless when it
        is started already.

        Returns:
            False when the workflow is over, so that nothing can go on.
        """
        from dbos import SetWorkflowID

        if self._dbos is None or self._workflow is None:
            raise Unavailable("the workflow runtime is not running; try again when the platform is up")
        with self._lock:
            known = self._dbos.get_workflow_status(run_id) if self._lease_of is not None else None
            if known is None:
                with SetWorkflowID(run_id):
                    self._dbos.start_workflow(self._workflow, run_id)
            elif known.status in _GOING:
                self._dbos.register_queue(self._queue, polling_interval_sec=_QUEUE_EVERY_S)
                self._dbos.resume_workflow(run_id, queue_name=self._queue)
            else:
                return False
        return True

    @property
    def _queue(self) -> str:
        return _QUEUE_PREFIX + self._executor_id

    def _own_queue(self, dbos: type[DBOS]) -> None:
        """Makes this process's queue and drops those of lives that are over; a live one makes its own anew."""
        for queue in dbos.list_queues():
            if queue.name.startswith(_QUEUE_PREFIX):
                dbos.delete_queue(queue.name)
        dbos.register_queue(self._queue, polling_interval_sec=_QUEUE_EVERY_S)

    def _define(self, dbos: type[DBOS]) -> Callable[[str], str]:
        from dbos import error

        execution, store, patience = self._execution, self._store, self._patience

        def step(function: Callable[Concatenate[Lease | None, P], T]) -> Callable[Concatenate[Lease | None, P], T]:
            """A step of DBOS: waits for stores that are away; without the lease it ends and leaves nothing behind."""

            def call(lease: Lease | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
                patience.check()
                try:
                    return patience.until_available(lambda: function(lease, *args, **kwargs))
                except Fenced as fenced:
                    logger.warning("a run is left to another orchestrator: %s", fenced)
                    raise Abandoned from None

            return dbos.step(name=function.__name__.replace("_", "-"))(call)

        @step
        def recheck(lease: Lease | None, run_id: str) -> bool:
            return execution.recheck(run_id, lease)

        @step
        def act(lease: Lease | None, run_id: str, number: int, undo: bool) -> str:
            run = store.run(run_id)
            assert run is not None  # noqa: S101  # the workflow exists because the run does
            steps = run.plan.rollback if undo else run.plan.steps
            return execution.act(run_id, steps[number], undo=undo, lease=lease)

        @step
        def begin_validation(lease: Lease | None, run_id: str) -> float:
            return execution.begin_validation(run_id, lease)

        @step
        def check(lease: Lease | None, run_id: str) -> str:
            return execution.check(run_id, lease)

        @step
        def finish(lease: Lease | None, run_id: str, how: str, reason: str, problem: str) -> None:
            if how == "succeed":
                execution.succeed(run_id, lease)
            elif how == "escalate":
                execution.escalate(run_id, reason, lease)
            else:
                execution.finish_rollback(run_id, reason, problem, lease)

        @step
        def shape(lease: Lease | None, run_id: str) -> list[int]:
            run = store.run(run_id)
            assert run is not None  # noqa: S101
            return [len(run.plan.steps), len(run.plan.rollback)]

        @step
        def final(lease: Lease | None, run_id: str) -> bool:
            return execution.final(run_id)

        def run_through(lease: Lease | None, run_id: str) -> str:
            forward, backward = shape(lease, run_id)
            if not recheck(lease, run_id):
                return "voided"
            problem = ""
            for number in range(forward):
                problem = act(lease, run_id, number, False)
                if problem:
                    break
            if not problem:
                # Short steps: a process that ends in between goes on from here at its next start.
                tries = max(1, round(begin_validation(lease, run_id) / _CHECK_EVERY_S))
                outcome = check(lease, run_id)
                while outcome != "pass" and tries > 1:
                    dbos.sleep(_CHECK_EVERY_S)
                    outcome = check(lease, run_id)
                    tries -= 1
                if outcome == "pass":
                    finish(lease, run_id, "succeed", "", "")
                    return "succeeded"
                if outcome == "inconclusive":
                    finish(
                        lease, run_id, "escalate", "the steps ran, but whether they helped could not be measured", ""
                    )
                    return "escalated"
                problem = "the steps ran, but what fired has not recovered"
            if final(lease, run_id):
                return "escalated"
            undone = ""
            for number in range(backward):
                undone = act(lease, run_id, number, True)
                if undone:
                    break
            finish(lease, run_id, "rollback", problem, undone)
            return "rolled back"

        @dbos.workflow(name="run")
        def run_workflow(run_id: str) -> str:
            lease = self._leased(run_id)
            try:
                return run_through(lease, run_id)
            except error.DBOSWorkflowConflictIDError:
                raise Abandoned from None  # DBOS would have this thread wait for the end that the new owner comes to
            finally:
                if lease is not None:
                    self._ended(lease)

        return run_workflow

    def _leased(self, run_id: str) -> Lease | None:
        if self._lease_of is None:
            return None
        try:
            return self._lease_of(run_id)
        except Fenced:
            raise Abandoned from None
