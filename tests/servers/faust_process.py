"""A process with a `FaustEngine`, for tests that kill it; and the stage that such tests run, with its oracle.

Run as `python -m tests.servers.faust_process SERVERS PREFIX DATA PARTITIONS SESSION_S`. It writes the partition numbers
that it owns to its standard output, one line for each change, and stops on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from headspring.proto.clock import SystemClock
from headspring.proto.errors import ContractError
from headspring.proto.topics import ACTIONS, ALERTS, CHANGES, DEAD_LETTER, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import EventLog, Record, StoredRecord

REPOSITORY = Path(__file__).parents[2]
INPUTS = (ALERTS.name, CHANGES.name)
OUTPUT = ACTIONS.name
APP = "t.app"


class Sums:
    """Adds up numbers, one sum for each input; every output says partition, topic, number and sum so far.

    What it says of a record depends on those before it in its topic and partition and on nothing else, so whatever is
    processed again says the same again, if no record was left out or counted twice.
    """

    name = "t.sums"
    inputs: tuple[str, ...] = INPUTS
    tick_s = 0.0

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        out = []
        for item in records:
            if not item.record.value.isdigit():
                raise ContractError(f"{item.record.value!r} is no number")
            self.sums[topic] = self.sums.get(topic, 0) + int(item.record.value)
            text = f"{item.partition}:{topic}:{int(item.record.value)}:{self.sums[topic]}"
            out.append(Outgoing(topic=OUTPUT, key=item.record.key, value=text.encode(), time_ns=item.record.time_ns))
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return []

    def snapshot(self) -> bytes:
        return json.dumps(self.sums).encode()

    def restore(self, state: bytes) -> None:
        self.sums = json.loads(state or b"{}")


def number(value: int, *, tenant: int | None = None) -> Record:
    """A record to add up; `value` picks one of thirteen tenants unless told."""
    key = record_key(f"tenant-{value % 13 if tenant is None else tenant}", "service:default/a")
    return Record(key=key, value=b"%d" % value, time_ns=time.time_ns())


async def everything(log: EventLog, topic: str, *, wait_s: float = 1.0) -> list[StoredRecord]:
    """All records of a topic now."""
    ends = await log.end_offsets(topic)
    consumer = await log.consumer(topic, f"t.reader-{time.time_ns()}")
    found: list[StoredRecord] = []
    while any(consumer.positions().get(partition, 0) < end for partition, end in ends.items()):
        found += await consumer.poll(max_records=5000, max_wait_s=wait_s)
    await consumer.close()
    return found


async def oracle(log: EventLog, inputs: Sequence[str] = INPUTS) -> dict[str, int]:
    """What `Sums` says when it sees every record once and in order: each output, and how many of it there are."""
    sums: dict[tuple[str, int], int] = defaultdict(int)
    wanted: dict[str, int] = {}
    for topic in inputs:
        for item in sorted(await everything(log, topic), key=lambda item: item.offset):
            if item.record.value.isdigit():
                sums[topic, item.partition] += int(item.record.value)
                text = f"{item.partition}:{topic}:{int(item.record.value)}:{sums[topic, item.partition]}"
                wanted[text] = wanted.get(text, 0) + 1
    return wanted


async def outputs(log: EventLog) -> list[str]:
    return [item.record.value.decode() for item in await everything(log, OUTPUT)]


class Worker:
    """The process, from outside."""

    def __init__(self, folder: Path, servers: str, *, prefix: str, partitions: int, session_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._lines = folder / "owned"
        self._argv = [
            sys.executable, "-m", "tests.servers.faust_process", servers, prefix, str(folder / "data"),
            str(partitions), str(session_s),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        with self._log.open("ab") as log, self._lines.open("wb") as lines:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=lines, stderr=log, env=env, cwd=REPOSITORY
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def owned(self) -> frozenset[int] | None:
        """What it said last since its start; None before it said anything."""
        lines = self._lines.read_text().splitlines() if self._lines.exists() else []
        return frozenset(json.loads(lines[-1])) if lines else None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def stop(self, within_s: float = 40.0) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(within_s)

    def end(self) -> None:
        """Whatever it is doing."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


async def _main(servers: str, prefix: str, data: str, partitions: str, session_s: str) -> None:
    from headspring.streaming.engine.faust import FaustEngine, Timing
    from headspring.streaming.log.kafka.connection import KafkaConnection
    from headspring.streaming.log.kafka.log import KafkaLog

    connection, clock = KafkaConnection(servers), SystemClock()
    names = [*INPUTS, OUTPUT, DEAD_LETTER.name]
    log = await KafkaLog.open(
        connection, clock=clock, partitions=int(partitions), replication=1, prefix=prefix, reads=names, writes=names
    )
    engine = FaustEngine(log, clock=clock, app_id=APP, data=Path(data), timing=Timing(session_s=float(session_s)))
    engine.add(Sums)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await engine.start()
    said: frozenset[int] | None = None
    while not stopping.is_set():
        if engine.partitions_owned != said:
            said = engine.partitions_owned
            print(json.dumps(sorted(said)), flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), 0.1)
    await engine.stop()
    await log.close()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("faust", "mode", "aiokafka"):
        logging.getLogger(library).setLevel(logging.INFO)
    asyncio.run(_main(*sys.argv[1:]))
