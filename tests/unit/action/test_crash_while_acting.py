"""`kill -9` of the acting side: a run that waited still waits, one that acted goes on and does nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.action.acting import Operations, service, wait_for

from headspring.proto.action import RunState

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def operations() -> Iterator[Operations]:
    found = Operations()
    yield found
    found.close()


@contextmanager
def _platform(folder: Path, operations: Operations, first: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    rooms = [str(ROOT / room) for room in ("proto", "streaming", "knowledge", "models", "ingestion", "analytics")]
    path = os.pathsep.join([*rooms, str(ROOT / "action"), str(ROOT / "gateway"), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.action.acting", str(folder), operations.url, first],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    assert run_id, "the platform did not start"
    try:
        yield process, run_id
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_run_that_waited_for_approval_still_waits(tmp_path: Path, operations: Operations) -> None:
    with _platform(tmp_path, operations, "propose") as (_, run_id):
        pass
    acting = service(tmp_path, operations.url)
    acting.start()
    try:
        run = acting.run(run_id, tenant="default")
        assert run is not None
        assert run.state is RunState.WAITING_APPROVAL
        acting.approve(run_id, "ann", "operator", run.plan.digest, tenant="default")
        wait_for(acting, run_id, RunState.SUCCEEDED)
    finally:
        acting.stop()


@pytest.mark.parametrize("pause_s", [0.0, 0.15, 0.4, 0.9])
def test_a_run_that_acted_finishes_and_keyed_steps_have_one_key(
    tmp_path: Path, operations: Operations, pause_s: float
) -> None:
    operations.delay_s = 0.5
    with _platform(tmp_path, operations, "approve") as (process, run_id):
        deadline = time.monotonic() + 20
        while not operations.posts() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
    acting = service(tmp_path, operations.url)
    acting.start()
    try:
        run = wait_for(acting, run_id, RunState.SUCCEEDED)
    finally:
        acting.stop()
    # The other side sees the same key again at most: that is what makes a repetition harmless.
    assert set(operations.effects) == {f"{run_id}/{run.plan.steps[0].step_id}"}
    assert [step.state for step in run.steps] == ["done"]
