"""A stage whose every output can be checked, processes that run it on Kafka, and the oracle of what must come out.

A record is the n-th of its key, n from 0. Its output says the key, how many records of the key the stage has counted,
and n. So with nothing lost and nothing counted twice, the output of record n says n + 1, however often it comes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from tests.servers.kafka import Kafka

from headspring.proto.clock import SystemClock
from headspring.proto.errors import ContractError
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record, StoredRecord

PARTITIONS = 6
KEYS = tuple(f"key-{number}" for number in range(24))
POISON = b"poison"
_ROOT = Path(__file__).resolve().parents[2]
_STATUS_S = 0.1


class Counting:
    """Counts records by key."""

    name = "t.counting"
    inputs: tuple[str, ...] = ("t.in",)
    tick_s = 0.0

    def __init__(self, *, snapshot_every_s: float = 0.0, work_s: float = 0.0) -> None:
        self.snapshot_every_s = snapshot_every_s
        self._work_s = work_s
        self.counts: dict[str, int] = {}

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        out = []
        for item in records:
            if item.record.value == POISON:
                raise ContractError("poison")
            key = item.record.key.decode()
            self.counts[key] = self.counts.get(key, 0) + 1
            value = f"{self.counts[key]}:{item.record.value.decode()}".encode()
            out.append(Outgoing(topic="t.out", key=item.record.key, value=value, time_ns=1))
        if self._work_s:
            await asyncio.sleep(self._work_s)
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return []

    def snapshot(self) -> bytes:
        return json.dumps(self.counts).encode()

    def restore(self, state: bytes) -> None:
        self.counts = json.loads(state or b"{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a process runs the stage."""

    servers: str
    prefix: str
    snapshot_every_s: float = 0.0
    work_s: float = 0.0
    session_s: float = 6.0
    heartbeat_s: float = 0.5


async def open_log(servers: str, prefix: str, *, partitions: int = PARTITIONS) -> KafkaLog:
    return await KafkaLog.open(
        KafkaConnection(servers), clock=SystemClock(), partitions=partitions, replication=1, prefix=prefix, reads=[],
        writes=["dead-letter"],
    )  # fmt: skip


def engine_of(log: KafkaLog, plan: Plan) -> KafkaEngine:
    engine = KafkaEngine(
        log, clock=SystemClock(), back_off_s=0.05, session_s=plan.session_s, heartbeat_s=plan.heartbeat_s
    )
    engine.add(lambda: Counting(snapshot_every_s=plan.snapshot_every_s, work_s=plan.work_s))
    return engine


@asynccontextmanager
async def running(*engines: KafkaEngine) -> AsyncIterator[None]:
    """Engines from their start to the end of the block."""
    try:
        for engine in engines:
            await engine.start()
        yield
    finally:
        for engine in engines:
            await engine.stop(drain_s=0.0)


@dataclass
class Worker:
    """A process that runs the stage until it is told to end."""

    process: subprocess.Popen[bytes]
    status_file: Path
    log_file: Path

    def status(self) -> dict[str, Any]:
        """`owned` numbers and the stage's health, as of a moment ago; {} before the first."""
        try:
            found: dict[str, Any] = json.loads(self.status_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    @property
    def owned(self) -> list[int]:
        return list(self.status().get("owned", []))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """SIGTERM: drains, commits, leaves."""
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log_file.read_text()[-3000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def workers(folder: Path, plan: Plan) -> Iterator[Workers]:
    """Starts processes; those that run at the end are killed."""
    made = Workers(folder, plan)
    try:
        yield made
    finally:
        for worker in made.all:
            if worker.process.poll() is None:
                worker.kill()


@dataclass
class Workers:
    folder: Path
    plan: Plan
    all: list[Worker] = field(default_factory=list)

    def start(self) -> Worker:
        number = len(self.all)
        status, log = self.folder / f"worker-{number}.json", self.folder / f"worker-{number}.log"
        argv = [sys.executable, __file__, json.dumps(asdict(self.plan)), str(status)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
        with log.open("wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        worker = Worker(process, status, log)
        self.all.append(worker)
        return worker


@dataclass
class Load:
    """Appends records, each key's in order, until told to stop."""

    log: KafkaLog
    every_s: float = 0.02
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    _task: asyncio.Task[None] | None = None

    async def send(self, each: int) -> None:
        """`each` more records of every key."""
        for _ in range(each):
            await self.log.append("t.in", [self._next(key) for key in KEYS])

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

    async def _run(self) -> None:
        while True:
            # A record counts as sent once it is on its way: appends that were cut off may still be written.
            await asyncio.shield(self.log.append("t.in", [self._next(key) for key in KEYS]))
            await asyncio.sleep(self.every_s)

    def _next(self, key: str) -> Record:
        number = self.sent[key]
        self.sent[key] = number + 1
        return Record(key=key.encode(), value=str(number).encode(), time_ns=time.time_ns())


@dataclass
class Oracle:
    """Reads what the stage wrote, beside it."""

    log: KafkaLog
    seen: dict[str, set[int]] = field(default_factory=lambda: {key: set() for key in KEYS})
    wrong: list[str] = field(default_factory=list)
    repeated: int = 0
    longest_stall_s: float = 0.0
    """Between two outputs that had not been seen before, since `watch`."""
    _new_s: float = 0.0
    _ended: bool = False
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._read())

    def watch(self) -> None:
        """Stalls count from now on."""
        self.longest_stall_s, self._new_s = 0.0, time.monotonic()

    async def complete(self, sent: dict[str, int], *, timeout_s: float = 60.0) -> None:
        """Returns when there is a right output of every record sent, and no wrong one.

        Raises:
            AssertionError: it did not come to that.
        """
        until_s = time.monotonic() + timeout_s
        while any(len(self.seen[key]) < count for key, count in sent.items()):
            assert not self.wrong, self.wrong[:10]
            missing = {key: count - len(self.seen[key]) for key, count in sent.items() if len(self.seen[key]) < count}
            assert time.monotonic() < until_s, f"outputs are missing: {missing}"
            await asyncio.sleep(0.05)
        assert not self.wrong, self.wrong[:10]
        assert {key: max(self.seen[key]) for key in KEYS} == {key: sent[key] - 1 for key in KEYS}

    async def stop(self) -> None:
        self._ended = True
        if self._task is not None:
            await self._task

    async def _read(self) -> None:
        consumer = await self.log.consumer("t.out", "t.oracle")
        try:
            while not self._ended:
                for item in await consumer.poll(max_wait_s=0.5):
                    self._take(item.record.key.decode(), item.record.value.decode())
        finally:
            await consumer.close()

    def _take(self, key: str, value: str) -> None:
        count, _, number = value.partition(":")
        if int(count) != int(number) + 1:
            self.wrong.append(f"{key}: record {number} was counted as {count}")
        if int(number) in self.seen[key]:
            self.repeated += 1
            return
        self.seen[key].add(int(number))
        now_s = time.monotonic()
        self.longest_stall_s, self._new_s = max(self.longest_stall_s, now_s - self._new_s), now_s


def warm(broker: Kafka) -> None:
    """Returns once the broker coordinates groups, which a new one does not at first."""
    consumer = Consumer({"bootstrap.servers": broker.servers, "group.id": "warm"})
    until_s = time.monotonic() + 30
    while True:
        try:
            consumer.committed([TopicPartition("warm", 0)], 2.0)
            break
        except KafkaException:
            assert time.monotonic() < until_s
            time.sleep(0.1)
    consumer.close()


async def until(condition: Any, what: str, *, timeout_s: float = 60.0) -> None:
    """Waits for `condition()` to hold."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain for: {what}"
        await asyncio.sleep(0.05)


async def _work(plan: Plan, status_file: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    log = await open_log(plan.servers, plan.prefix)
    engine = engine_of(log, plan)
    await engine.start()
    fresh = status_file.with_suffix(".new")
    while not stop.is_set():
        health = engine.health()[Counting.name]
        status = {"owned": list(engine.partitions()[Counting.name]), **asdict(health)}
        await asyncio.to_thread(fresh.write_text, json.dumps({**status, **asdict(engine.metrics()[Counting.name])}))
        await asyncio.to_thread(fresh.replace, status_file)
        await asyncio.wait((asyncio.ensure_future(stop.wait()),), timeout=_STATUS_S)
    await engine.stop(drain_s=0.0)
    await log.close()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_work(Plan(**json.loads(sys.argv[1])), Path(sys.argv[2])))
