"""The engine in one process: every stage is an asyncio task on the embedded log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.port import Stage
from headspring.streaming.engine.runner import StageRunner, StatefulLog

__all__ = ["LocalEngine", "StageHealth", "StageState"]

_DRAIN_POLL_S = 0.02


class LocalEngine:
    """Runs stages until `stop`. One event loop."""

    def __init__(self, log: StatefulLog, *, clock: Clock, back_off_s: float = 0.2) -> None:
        """
        Args:
            log: Where stages meet; the engine does not close it.
            clock: For ticks, back-off and durations.
            back_off_s: First wait after a stage failed, in seconds; doubles up to 30.
        """
        self._log = log
        self._clock = clock
        self._back_off_s = back_off_s
        self._runners: dict[str, StageRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = False

    def add(self, stage: Stage) -> None:
        """Takes a stage; it starts with `start`, or at once on a running engine.

        Raises:
            ConfigError: another stage has its name, or the engine has stopped.
        """
        if stage.name in self._runners:
            raise ConfigError(f"two stages are named {stage.name}; a name is also the consumer group, so it is unique")
        if self._stopped:
            raise ConfigError(f"stage {stage.name} came after the engine had stopped")
        self._runners[stage.name] = StageRunner(stage, self._log, clock=self._clock, back_off_s=self._back_off_s)
        if self._tasks:
            self._launch(stage.name)

    async def start(self) -> None:
        """Returns once every stage has its task; restoring goes on in them."""
        for name in self._runners:
            if name not in self._tasks:
                self._launch(name)

    async def stop(self, *, drain_s: float = 2.0) -> None:
        """Lets stages catch up for up to `drain_s`, then ends each after its current batch, with a commit.

        What was not processed stays in the log for the next start.
        """
        self._stopped = True
        await self.drain(drain_s)
        for runner in self._runners.values():
            runner.stop()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def drain(self, timeout_s: float) -> bool:
        """Waits, in real time, until all stages have taken all there is; False if they had not by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._tasks:
            if all(runner.idle for runner in self._runners.values()):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_DRAIN_POLL_S)
        return True

    def health(self) -> Mapping[str, StageHealth]:
        """By stage name."""
        return {name: runner.health() for name, runner in self._runners.items()}

    def _launch(self, name: str) -> None:
        self._tasks[name] = asyncio.create_task(self._runners[name].run(), name=f"stage:{name}")
