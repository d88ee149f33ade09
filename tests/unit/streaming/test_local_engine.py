"""The local engine: nothing is lost, state and positions agree, bad records are set aside, trouble is waited out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headspring.proto import codec
from headspring.proto.action import DeadLetter
from headspring.proto.clock import SystemClock
from headspring.proto.errors import ConfigError, ContractError, Unavailable
from headspring.streaming.engine.local import LocalEngine, StageState
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.engine.runner import StageRunner
from headspring.streaming.log.port import Consumer, StoredRecord
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.testing import record, take, values


class Adder:
    """Sums numbers; every output says the sum and the number."""

    tick_s = 0.0

    def __init__(
        self, name: str = "t.adder", *, inputs: tuple[str, ...] = ("in",), snapshot_every_s: float = 0.0
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.snapshot_every_s = snapshot_every_s
        self.total = 0
        self.ticks = 0
        self.failures: list[Exception] = []
        """Raised by the next calls, after the state was changed."""

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        out = []
        for item in records:
            text = item.record.value.decode()
            if text == "crash":
                self.total += 10_000
                raise ZeroDivisionError("a bug met by this record")
            if not text.isdigit():
                self.total += 1_000_000
                raise ContractError(f"{text!r} is no number")
            self.total += int(text)
            out.append(Outgoing(topic="out", key=b"k", value=f"{self.total}:{text}".encode(), time_ns=1))
        if self.failures:
            self.total += 500
            raise self.failures.pop(0)
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        self.ticks += 1
        return [Outgoing(topic="ticks", key=b"k", value=b"tick", time_ns=now_ns)]

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def restore(self, state: bytes) -> None:
        self.total = int(state or b"0")


async def open_log(path: Path) -> SegmentLog:
    return await SegmentLog.open(path, clock=SystemClock())


async def run(log: SegmentLog, *stages: Adder, until: Callable[[LocalEngine], bool] | None = None) -> LocalEngine:
    """Runs the stages until all caught up (or `until` holds), then stops."""
    engine = LocalEngine(log, clock=SystemClock(), back_off_s=0.01)
    for stage in stages:
        engine.add(stage)
    await engine.start()
    async with asyncio.timeout(20):
        while not (until(engine) if until else await engine.drain(0.1)):  # noqa: ASYNC110 — health is asked for
            await asyncio.sleep(0.01)
    await engine.stop()
    return engine


async def outputs(log: SegmentLog, topic: str = "out") -> list[str]:
    return values(await take(await log.consumer(topic, "check"), (await log.end_offsets(topic))[0], wait_s=0.0))


async def test_stages_chain_over_topics_and_stop_with_everything_committed(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record(str(n)) for n in range(1, 6)])
    engine = await run(log, Adder())
    assert await outputs(log) == ["1:1", "3:2", "6:3", "10:4", "15:5"]
    health = engine.health()["t.adder"]
    assert (health.state, health.lag, health.records_in, health.records_out) == (StageState.STOPPED, 0, 5, 5)
    assert await log.load_state("t.adder") == b"15"
    await log.append("in", [record("7")])
    await run(log, Adder())
    assert (await outputs(log))[-1] == "22:7"
    await log.close()


async def test_several_inputs_are_all_read(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("a", [record("1")])
    await log.append("b", [record("2")])
    await run(log, Adder(inputs=("a", "b")))
    assert {value.split(":")[1] for value in await outputs(log)} == {"1", "2"}
    assert await log.load_state("t.adder") == b"3"
    await log.close()


async def test_a_record_that_breaks_its_contract_is_set_aside_and_leaves_no_trace_in_the_state(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("bad"), record("2"), record("worse"), record("3")])
    engine = await run(log, Adder())
    assert await outputs(log) == ["1:1", "3:2", "6:3"]
    letters = [
        codec.decode(DeadLetter, item.record.value) for item in await take(await log.consumer("dead-letter", "g"), 2)
    ]
    assert [(letter.payload, letter.source_topic, letter.stage) for letter in letters] == [
        (b"bad", "in", "t.adder"),
        (b"worse", "in", "t.adder"),
    ]
    assert letters[0].reason == "ContractError: 'bad' is no number"
    assert letters[0].headers["offset"] == "1"
    assert engine.health()["t.adder"].dead_letters == 2
    assert await log.load_state("t.adder") == b"6"
    await log.close()


async def test_a_record_that_always_crashes_the_stage_does_not_stop_it_for_ever(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("crash"), record("2")])
    engine = await run(log, Adder())
    assert await outputs(log) == ["1:1", "3:2"]
    health = engine.health()["t.adder"]
    assert health.dead_letters == 1
    assert health.restarts == 4
    await log.close()


@pytest.mark.parametrize("error", [Unavailable("store away"), RuntimeError("once"), OSError(5, "disk")])
async def test_a_passing_failure_is_retried_from_the_last_commit_and_sets_nothing_aside(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("2")])
    stage = Adder()
    stage.failures = [error, error, error]
    engine = await run(log, stage)
    assert await outputs(log) == ["1:1", "3:2"]
    health = engine.health()["t.adder"]
    assert (health.restarts, health.errors, health.dead_letters) == (3, 3, 0)
    assert type(error).__name__ in health.last_error
    told = [entry for entry in caplog.records if "goes on from its last commit" in entry.message]
    assert len(told) == 3
    assert all(str(error) in entry.message for entry in told)
    stacks = [entry for entry in told if entry.exc_info]
    assert len(stacks) == (0 if isinstance(error, Unavailable) else 3), "a stack is for what may be a defect"
    await log.close()


async def test_an_unavailable_backend_is_waited_for_and_never_costs_a_record(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1")])
    stage = Adder()
    stage.failures = [Unavailable("store away") for _ in range(8)]
    engine = LocalEngine(log, clock=SystemClock(), back_off_s=0.001)
    engine.add(stage)
    await engine.start()
    async with asyncio.timeout(20):
        while not await engine.drain(0.1):
            pass
    await engine.stop()
    assert engine.health()["t.adder"].dead_letters == 0
    assert await outputs(log) == ["1:1"]
    await log.close()


class CrashingLog:
    """The real log, in a process that dies between an append and the commit after it, `crashes` times."""

    def __init__(self, log: SegmentLog, crashes: int) -> None:
        self._log = log
        self.crashes = crashes
        self.died = asyncio.Event()
        self.append = log.append
        self.consumer = log.consumer
        self.latest_by_key = log.latest_by_key
        self.end_offsets = log.end_offsets
        self.close = log.close
        self.load_state = log.load_state

    async def commit_with_state(
        self, group: str, positions: Mapping[str, Mapping[int, int]], state: bytes | None = None
    ) -> None:
        if self.crashes:
            self.crashes -= 1
            self.died.set()
            await asyncio.Event().wait()  # this process does nothing more
        await self._log.commit_with_state(group, positions, state)


async def test_after_a_crash_between_append_and_commit_nothing_is_lost_and_output_repeats_identically(
    tmp_path: Path,
) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("2")])
    await run(log, Adder())
    await log.append("in", [record("3"), record("4")])
    crashing = CrashingLog(log, crashes=1)
    engine = LocalEngine(crashing, clock=SystemClock())
    engine.add(Adder())
    await engine.start()
    await asyncio.wait_for(crashing.died.wait(), 10)
    for task in engine._tasks.values():
        task.cancel()
    await asyncio.gather(*engine._tasks.values(), return_exceptions=True)
    assert await outputs(log) == ["1:1", "3:2", "6:3", "10:4"]
    assert await log.load_state("t.adder") == b"3"
    await run(log, Adder())
    assert await outputs(log) == ["1:1", "3:2", "6:3", "10:4", "6:3", "10:4"]
    assert await log.load_state("t.adder") == b"10"
    await log.close()


async def test_rare_snapshots_never_commit_a_position_without_its_state(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("2")])
    engine = LocalEngine(log, clock=SystemClock())
    engine.add(Adder(snapshot_every_s=3600.0))
    await engine.start()
    while not await engine.drain(0.1):
        pass
    assert values(await take(await log.consumer("in", "t.adder"), 9, wait_s=0.0)) == ["1", "2"]
    assert await log.load_state("t.adder") == b""
    await engine.stop()
    assert values(await take(await log.consumer("in", "t.adder"), 9, wait_s=0.0)) == []
    assert await log.load_state("t.adder") == b"3"
    await log.close()


async def test_output_waits_for_a_full_disk_without_computing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1")])
    real = os.fdatasync
    left = [3]

    def full(fd: int) -> None:
        if "/topics/out/" in os.readlink(f"/proc/self/fd/{fd}") and left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", full)
    engine = await run(log, Adder())
    assert await outputs(log) == ["1:1"]
    health = engine.health()["t.adder"]
    assert (health.restarts, health.errors) == (0, 3)
    assert "free disk space" in health.last_error
    await log.close()


async def test_ticks_come_without_input(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    stage = Adder()
    stage.tick_s = 0.01
    await run(log, stage, until=lambda _: stage.ticks >= 3)
    assert len(await outputs(log, "ticks")) >= 3
    await log.close()


async def test_a_stage_that_cannot_restore_reports_it_and_keeps_trying(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.commit_with_state("t.adder", {}, b"not a number")
    await log.append("in", [record("1")])
    engine = await run(log, Adder(), until=lambda engine: engine.health()["t.adder"].restarts >= 2)
    assert "not a number" in engine.health()["t.adder"].last_error
    await log.close()


async def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    engine = LocalEngine(log, clock=SystemClock())
    engine.add(Adder())
    with pytest.raises(ConfigError, match=r"t\.adder"):
        engine.add(Adder())
    await log.close()


async def test_one_stage_in_trouble_does_not_hold_up_another(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1")])
    broken = Adder("t.broken")
    broken.failures = [Unavailable("away") for _ in range(1000)]
    working = Adder("t.working")
    engine = await run(log, broken, working, until=lambda engine: engine.health()["t.working"].records_out == 1)
    assert engine.health()["t.broken"].records_out == 0
    await log.close()


_CHILD = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from headspring.proto.clock import SystemClock
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.engine.runner import StageRunner
from headspring.streaming.log.segments import SegmentLog

class Sum:
    name, inputs, tick_s = "t.sum", ("in",), 0.0
    snapshot_every_s = float(sys.argv[2])
    total = 0
    async def process(self, topic, records):
        out = []
        for item in records:
            self.total += int(item.record.value)
            value = b"%d:%s" % (self.total, item.record.value)
            out.append(Outgoing(topic="out", key=b"k", value=value, time_ns=1))
        return out
    async def tick(self, now_ns):
        return []
    def snapshot(self):
        return b"%d" % self.total
    def restore(self, state):
        self.total = int(state or b"0")

async def main():
    log = await SegmentLog.open(Path(sys.argv[1]), clock=SystemClock())
    engine = LocalEngine(log, clock=SystemClock())
    engine.add(Sum())
    await engine.start()
    n = (await log.end_offsets("in"))[0]
    from headspring.streaming.log.port import Record
    for n in range(n, 400):
        await log.append("in", [Record(key=b"k", value=b"%d" % n, time_ns=1)])
        if n % 50 == 0:
            print(n, flush=True)
    while not await engine.drain(1.0):
        pass
    await engine.stop()
    await log.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("snapshot_every_s", [0.0, 0.05])
async def test_killed_again_and_again_a_stage_still_counts_every_record_once(
    tmp_path: Path, snapshot_every_s: float
) -> None:
    for kill_after in (2, 2, None):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, str(tmp_path), str(snapshot_every_s),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert child.stdout is not None
        lines = 0
        while await child.stdout.readline():
            lines += 1
            if lines == kill_after:
                child.kill()
        assert await child.wait() == (0 if kill_after is None else -signal.SIGKILL)
    log = await open_log(tmp_path)
    assert await log.load_state("t.sum") == b"%d" % sum(range(400))
    seen: dict[str, set[str]] = {}
    for value in await outputs(log):
        total, number = value.split(":")
        seen.setdefault(number, set()).add(total)
    # Each input gave output, and where it came again it said the same.
    assert {int(number): {int(total) for total in totals} for number, totals in seen.items()} == {
        number: {sum(range(number + 1))} for number in range(400)
    }
    await log.close()


class PollsSeenLog:
    """The real log; what its consumers hand out goes through a function."""

    def __init__(self, log: SegmentLog, seen: Callable[[Sequence[StoredRecord]], Sequence[StoredRecord]]) -> None:
        self._log = log
        self._seen = seen
        self.append = log.append
        self.latest_by_key = log.latest_by_key
        self.end_offsets = log.end_offsets
        self.close = log.close
        self.load_state = log.load_state
        self.commit_with_state = log.commit_with_state

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> Consumer:
        consumer = await self._log.consumer(topic, group, latest=latest)
        poll = consumer.poll

        async def seen(*, max_records: int = 500, max_wait_s: float = 1.0) -> Sequence[StoredRecord]:
            return self._seen(await poll(max_records=max_records, max_wait_s=max_wait_s))

        consumer.poll = seen  # type: ignore[method-assign] # all else stays the real consumer's
        return consumer


def of_a_release_to_come(records: Sequence[StoredRecord]) -> Sequence[StoredRecord]:
    """The record "2" cannot be read by this release."""
    return [
        replace(item, unreadable="schema 9 is newer than 1") if item.record.value == b"2" else item for item in records
    ]


async def test_a_record_of_a_release_to_come_is_set_aside_and_not_given_to_the_stage(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1"), record("2"), record("3")])
    stage = Adder()
    engine = LocalEngine(PollsSeenLog(log, of_a_release_to_come), clock=SystemClock())
    engine.add(stage)
    await engine.start()
    async with asyncio.timeout(20):
        while not await engine.drain(0.1):
            pass
    await engine.stop()
    assert await outputs(log) == ["1:1", "4:3"]
    (letter,) = [
        codec.decode(DeadLetter, item.record.value) for item in await take(await log.consumer("dead-letter", "g"), 1)
    ]
    assert (letter.payload, letter.reason) == (b"2", "ContractError: schema 9 is newer than 1")
    await log.close()


async def test_records_between_the_log_and_the_stage_are_not_taken_for_done(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("in", [record("1")])
    idle: list[bool] = []

    def look(records: Sequence[StoredRecord]) -> Sequence[StoredRecord]:
        if records:  # at the very moment when the consumer has handed them out
            asyncio.get_running_loop().call_soon(lambda: idle.append(runner.idle))
        return records

    runner = StageRunner(Adder(), PollsSeenLog(log, look), clock=SystemClock(), back_off_s=1)
    task = asyncio.create_task(runner.run())
    assert values(await take(await log.consumer("out", "g"), 1)) == ["1:1"]
    runner.stop()
    await task
    assert idle == [False]
    await log.close()
