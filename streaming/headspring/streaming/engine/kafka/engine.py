"""The engine on Kafka: stages shared among processes by partition number, with the contract of the local engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError, PlatformError
from headspring.streaming.engine.health import StageHealth
from headspring.streaming.engine.kafka.broadcast import BroadcastStage
from headspring.streaming.engine.kafka.ground import Ground
from headspring.streaming.engine.kafka.report import ShareMetrics
from headspring.streaming.engine.kafka.share import SharedStage
from headspring.streaming.engine.port import Stage
from headspring.streaming.log.kafka.log import KafkaLog

__all__ = ["KafkaEngine", "ShareMetrics"]

_DRAIN_POLL_S = 0.02


class KafkaEngine:
    """Runs stages until `stop`. One event loop; threads of its own poll Kafka, so that no call of a stage, however
    long, costs the process its place in a group.

    Every process that adds a stage of one name shares its work. All topics have the same number of partitions, and a
    stage object sees one number of all its inputs; a process has as many objects of a stage as numbers, and none for a
    number in which nothing ever came. Objects come and go as processes join and leave. What is in a stage's snapshot
    moves with its number; what a stage keeps elsewhere in memory does not.
    """

    def __init__(
        self, log: KafkaLog, *, clock: Clock, back_off_s: float = 0.2, session_s: float = 10.0,
        heartbeat_s: float = 1.0, release_s: float = 30.0, instance: str = "", buffer_bytes: int = 32 * 1024 * 1024,
    ) -> None:  # fmt: skip
        """
        Args:
            log: Where stages meet; the engine does not close it.
            clock: For ticks, back-off and durations.
            back_off_s: First wait after a stage failed, in seconds; doubles up to 30.
            session_s: A process that is not heard of for this long has lost its partitions, in seconds.
            heartbeat_s: How often it is heard of, which is also how soon it learns of others who join or leave.
            release_s: Longest a call of a stage may hold up the partition's move to another process, in seconds;
                after that the other one does the call's work again.
            instance: A name that this process has again after a restart, and no other has: a restart within
                `session_s` then moves no partitions. "" for none: partitions move at once when a process ends.
            buffer_bytes: What each stage may have read ahead; its client holds up to 16 MiB and one fetch beside it.

        Raises:
            ConfigError: times that do not go together.
        """
        if not 0 < heartbeat_s <= session_s / 3:
            raise ConfigError(f"heartbeat_s is {heartbeat_s} and session_s {session_s}; wanted at most a third of it")
        self._log = log
        self._clock = clock
        self._back_off_s = back_off_s
        self._release_s = release_s
        self._ground = Ground(
            log, session_s=session_s, heartbeat_s=heartbeat_s, release_s=release_s, instance=instance,
            buffer_bytes=buffer_bytes,
        )  # fmt: skip
        self._stages: dict[str, SharedStage | BroadcastStage] = {}
        self._started = False
        self._stopped = False

    def add(self, factory: Callable[[], Stage], *, shared: bool = True, since_ns: int | None = None) -> None:
        """Takes a stage; it starts with `start`.

        Args:
            factory: Makes a new object of the stage at each call, always with the same name and inputs. Called at
                once, and again for each further partition number.
            shared: False for a stage of which every process takes every record: one object, no group, nothing kept
                over a restart.
            since_ns: Where such a stage starts, unix nanoseconds; None for the end.

        Raises:
            ConfigError: another stage has its name, it has no inputs, or the engine has been started.
        """
        if self._started:
            raise ConfigError("stages are added before the engine starts")
        stage: SharedStage | BroadcastStage
        if shared:
            stage = SharedStage(
                factory, self._ground, clock=self._clock, back_off_s=self._back_off_s, release_s=self._release_s
            )
        else:
            stage = BroadcastStage(
                factory, self._ground, clock=self._clock, back_off_s=self._back_off_s, since_ns=since_ns
            )
        if stage.name in self._stages:
            raise ConfigError(f"two stages are named {stage.name}; a name is also the consumer group, so it is unique")
        self._stages[stage.name] = stage

    async def start(self) -> None:
        """Returns once every stage is on its way into its group; the group says what is ours a little later.

        Raises:
            PlatformError: an input topic cannot be had.
        """
        await self._ground.prepare({topic for stage in self._stages.values() for topic in stage.inputs})
        self._started = True
        for stage in self._stages.values():
            stage.start()

    async def stop(self, *, drain_s: float = 2.0) -> None:
        """Lets stages catch up for up to `drain_s`, then ends each after its current batch, with a commit, and leaves
        the groups, so that others go on at once.

        What was not processed stays in the log for others, or for the next start.
        """
        if self._started and not self._stopped:
            self._stopped = True
            await self.drain(drain_s)
            await asyncio.gather(*(stage.stop() for stage in self._stages.values()))

    async def drain(self, timeout_s: float) -> bool:
        """Waits, in real time, until this process has taken all there is in its partitions; False if it had not by
        then. A process that has not joined its groups yet has not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._started:
            if await self._caught_up():
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_DRAIN_POLL_S)
        return True

    def health(self) -> Mapping[str, StageHealth]:
        """By stage name: worst state, lag and counters over the partitions that this process owns."""
        return {name: stage.health() for name, stage in self._stages.items()}

    def partitions(self) -> Mapping[str, Mapping[int, StageHealth]]:
        """By stage name and partition number, of those that this process owns."""
        return {name: stage.partitions() for name, stage in self._stages.items()}

    def metrics(self) -> Mapping[str, ShareMetrics]:
        """By stage name: this process's share."""
        return {name: stage.metrics() for name, stage in self._stages.items()}

    async def _caught_up(self) -> bool:
        stages = list(self._stages.values())
        if not all(stage.idle for stage in stages):
            return False
        before = self._work_done()
        try:
            await asyncio.gather(*(stage.look() for stage in stages))
        except PlatformError:
            return False
        # Whoever worked meanwhile may have written behind what was looked at.
        return all(stage.idle for stage in stages) and self._work_done() == before

    def _work_done(self) -> list[int]:
        return [health.records_in + health.records_out for health in self.health().values()]
