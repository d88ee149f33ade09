"""Two processes of one app, fed all the time and killed one after the other at any moment, and what they said."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.faust_process import INPUTS, OUTPUT, Worker, number, oracle

from headspring.streaming.log.kafka.log import KafkaLog

SESSION_S = 2.0
"""After this a killed process's partitions go to the other one."""
_WAIT_S = 120.0


@dataclass
class Kills:
    """What happened."""

    kills: int = 0
    while_starting: int = 0
    takeovers_s: list[float] = field(default_factory=list)
    """From a kill until the other process had all partitions."""
    sent: int = 0
    said: int = 0
    different: int = 0

    def __str__(self) -> str:
        longest = max(self.takeovers_s, default=0.0)
        return (
            f"{self.kills} kills and {self.while_starting} more while starting; {self.sent} records, {self.different} "
            f"outputs, {self.said - self.different} of them said again; {len(self.takeovers_s)} takeovers took "
            f"{min(self.takeovers_s, default=0.0):.1f} to {longest:.1f} s"
        )


async def kill_over_and_over(
    log: KafkaLog, servers: str, folder: Path, *, prefix: str, partitions: int, kills: int
) -> Kills:
    """Kills `kills` times; returns when everything has been processed and what was said equals the oracle.

    Raises:
        AssertionError: something is missing, or was said that no undisturbed stage says.
    """
    chance = random.Random()
    seen = Kills()
    workers = [
        Worker(folder / name, servers, prefix=prefix, partitions=partitions, session_s=SESSION_S) for name in "ab"
    ]

    def logs() -> str:
        return "\n".join(f"{worker.log()[-6000:]}\n---" for worker in workers)

    async def until(what: Callable[[], object], told: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not what():
            assert time.monotonic() < deadline, f"not within {_WAIT_S:.0f} s: {told}\n{logs()}"
            await asyncio.sleep(0.05)

    feeding = asyncio.create_task(_feed(log, seen))
    every = frozenset(range(partitions))
    try:
        for worker in workers:
            worker.start()
        await until(lambda: all(worker.owned() for worker in workers), "both processes have partitions")
        while seen.kills < kills:
            victim, other = workers if chance.random() < 0.5 else reversed(workers)
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            victim.kill()
            seen.kills += 1
            killed_s = time.monotonic()
            if chance.random() < 0.5:
                await until(lambda other=other: other.owned() == every, "the other process takes over")  # type: ignore[misc] # binds the loop's value
                seen.takeovers_s.append(time.monotonic() - killed_s)
            victim.start()
            if chance.random() < 0.2:  # and once more, before it is ready
                await asyncio.sleep(chance.uniform(0.5, 3.0))
                victim.kill()
                seen.while_starting += 1
                victim.start()
            await until(lambda victim=victim: victim.owned(), "the process is back")  # type: ignore[misc] # as above
        feeding.cancel()
        wanted = await oracle(log)
        said = set[str]()
        reader = await log.consumer(OUTPUT, "t.reader")
        deadline = time.monotonic() + _WAIT_S
        while len(said) < len(wanted) and time.monotonic() < deadline:
            found = await reader.poll(max_records=5000)
            seen.said += len(found)
            said.update(item.record.value.decode() for item in found)
        await reader.close()
        seen.different = len(said)
        missing, invented = wanted.keys() - said, said - wanted.keys()
        assert not missing, f"{len(missing)} outputs never came, such as {sorted(missing)[:3]}\n{logs()}"
        assert not invented, f"{len(invented)} outputs are of a state that never was: {sorted(invented)[:3]}\n{logs()}"
        for worker in workers:
            assert worker.stop() == 0, worker.log()[-2000:]
            assert "were skipped" not in worker.log(), f"Faust lost records of its own\n{logs()}"
    finally:
        feeding.cancel()
        for worker in workers:
            worker.end()
    return seen


async def _feed(log: KafkaLog, seen: Kills) -> None:
    """Every number once on each input."""
    while True:
        for topic in INPUTS:
            await log.append(topic, [number(value) for value in range(seen.sent, seen.sent + 10)])
        seen.sent += 10
        await asyncio.sleep(0.1)
