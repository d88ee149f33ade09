"""One of several processes that act: takes runs that nobody owns, keeps its leases, tidies up after the dead.

A thread of its own looks at the database a few times a second. Whatever it starts runs elsewhere, so that leases are
renewed whatever else is slow. Its pace is the machine's, as that of leases is.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from headspring.action.execution import Execution
from headspring.action.leases import Fenced, Lease, Leases
from headspring.action.patience import Patience
from headspring.action.store import RunStore
from headspring.action.trail import Trail
from headspring.action.workflow import THREADS, Workflows
from headspring.proto.action import RunState
from headspring.proto.clock import Clock
from headspring.proto.errors import PlatformError, Unavailable

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""An approved run waits so long at most before it is begun."""
_RENEW_SHARE = 0.3
"""A lease is renewed when this share of its time is over: two tries may fail."""
_BEGUN_S = 5.0
"""A workflow that has not begun so long after it was asked for is asked for again."""
_SWEEP_S = 5.0
_DRAIN_S = 25.0
"""Kubernetes kills a process thirty seconds after it told it to stop."""
_SWEEP = "sweep"
"""Name of the lease of the one process that tells what others could not."""


def executor_id() -> str:
    """A name that no other process has, nor this one in another life."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(slots=True)
class _Held:
    lease: Lease
    asked_s: float = 0.0
    """When its workflow was asked for last."""
    asking: Future[None] | None = None
    begun: bool = False


class Orchestrator:
    """See the module."""

    def __init__(
        self, *, leases: Leases, store: RunStore, trail: Trail, execution: Execution, patience: Patience, clock: Clock,
        database_url: str, states: Sequence[RunState],
    ) -> None:  # fmt: skip
        """`states`: of runs that somebody must act on."""
        self._leases = leases
        self._store = store
        self._trail = trail
        self._execution = execution
        self._clock = clock
        self._states = [state.value for state in states]
        self._workflows = Workflows(
            database_url, execution=execution, store=store, patience=patience, executor_id=leases.owner,
            lease_of=self._lease_of, ended=self._ended,
        )  # fmt: skip
        self._held: dict[str, _Held] = {}
        self._sweeping: Lease | None = None
        self._swept: Future[None] | None = None
        self._lock = threading.Lock()
        self._patience = patience
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="orchestrate")
        self._thread = threading.Thread(target=self._loop, name="orchestrator", daemon=True)

    def start(self) -> None:
        """
        Raises:
            Unavailable: the database does not answer.
        """
        self._workflows.start()
        self._thread.start()

    def stop(self) -> None:
        """Runs end after the step they are in, and are free for others then."""
        self._draining.set()
        self._patience.end()
        deadline_s = time.monotonic() + _DRAIN_S
        while any(one.begun for one in self._all()) and self._thread.is_alive() and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            self._workflows.stop(wait_s=0)
            # A step that takes longer keeps its lease until that ends by itself.
            self._release(*(one.lease for one in self._all() if not one.begun), *filter(None, [self._sweeping]))
        except Unavailable as error:
            logger.warning("leases are left to end by themselves: %s", error)
        self._leases.close()

    def poke(self) -> None:
        """There is something to take."""
        self._wake.set()

    def _loop(self) -> None:
        renewed_s = swept_s = time.monotonic()
        away = False
        while not self._stopped.is_set():
            try:
                now_s = time.monotonic()
                if now_s - renewed_s >= self._leases.seconds * _RENEW_SHARE or away:
                    self._renew()
                    renewed_s = now_s
                if not self._draining.is_set():
                    self._take()
                    if now_s - swept_s >= _SWEEP_S:
                        swept_s = now_s
                        self._sweep()
                away = False
            except PlatformError as error:
                if not away:
                    logger.warning("no run is taken for now: %s", error)
                away = True
            except Exception:  # the edge of this thread, without which nothing here would ever act again
                logger.exception("no run is taken for now")
                away = True
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _renew(self) -> None:
        held = self._all()
        mine = [one.lease for one in held] + ([self._sweeping] if self._sweeping else [])
        for lease in self._leases.renew(mine):
            if lease is self._sweeping:
                self._sweeping = None
            else:
                logger.warning("run %s was taken over by another orchestrator", lease.name)
                self._drop(lease)

    def _take(self) -> None:
        held = self._all()
        now_s = time.monotonic()
        for one in held:
            if one.begun or one.asking is None or not one.asking.done() or now_s - one.asked_s <= _BEGUN_S:
                continue
            problem = one.asking.exception()
            if problem is not None:
                logger.error("run %s could not be begun", one.lease.name, exc_info=problem)
            self._ask(one)
        free = THREADS - len(held)
        if free > 0:
            for lease in self._leases.take_runs(self._states, most=free, now_ns=self._clock.now_ns()):
                one = _Held(lease)
                with self._lock:
                    self._held[lease.name] = one
                self._ask(one)

    def _ask(self, one: _Held) -> None:
        one.asked_s = time.monotonic()
        one.asking = self._pool.submit(self._guarded, lambda: self._begin(one.lease), f"run {one.lease.name}")

    def _begin(self, lease: Lease) -> None:
        run = self._store.run(lease.name)
        if run is None or run.state.final:
            self._ended(lease)
            return
        if run.state is RunState.APPROVED:
            self._trail.tell_decisions(run)  # who approved it died before saying so
        if not self._workflows.begin(lease.name):
            text = "its workflow ended without an end of the run; check the target by hand, then ask again"
            self._execution.escalate(lease.name, text, lease)
            self._ended(lease)

    def _sweep(self) -> None:
        if self._swept is not None and not self._swept.done():
            return
        if self._sweeping is None:
            self._sweeping = self._leases.take(_SWEEP)
        if self._sweeping is not None:
            self._swept = self._pool.submit(self._guarded, self._trail.sweep, "what others left untold")

    def _guarded(self, work: Callable[[], None], what: str) -> None:
        try:
            work()
        except (PlatformError, TimeoutError) as error:
            logger.warning("%s: not now, it is tried again: %s", what, error)

    def _lease_of(self, run_id: str) -> Lease:
        """For the one execution that a lease is for."""
        with self._lock:
            one = self._held.get(run_id)
            if one is None or one.begun:
                raise Fenced(f"this process has no lease of run {run_id}")
            one.lease.check()
            one.begun = True
            return one.lease

    def _ended(self, lease: Lease) -> None:
        self._drop(lease)
        try:
            self._release(lease)
        except Unavailable as error:
            logger.warning("the lease of run %s is left to end by itself: %s", lease.name, error)

    def _release(self, *leases: Lease) -> None:
        for lease in leases:
            self._leases.release(lease)

    def _drop(self, lease: Lease) -> None:
        with self._lock:
            one = self._held.get(lease.name)
            if one is not None and one.lease is lease:
                del self._held[lease.name]

    def _all(self) -> list[_Held]:
        with self._lock:
            return list(self._held.values())
