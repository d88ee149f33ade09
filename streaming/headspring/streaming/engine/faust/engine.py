"""The engine on Faust: processes of one app id share the partition numbers of all inputs of their stages.

Faust does the group membership, the assignment (the same number of every topic and of the table to one process), the
fetching, and the table with its changelog and recovery. Ours is what a stage asks for: `StageRunner`, as everywhere.

**What is written when.** For each batch of records of one stage and partition number:

1. `process` returns outputs;
2. they are appended to their topics, acknowledged by all replicas in sync;
3. one record goes to the table's changelog: the snapshot together with the positions it reflects;
4. once that is acknowledged too, the records are acknowledged to Faust, which commits their offsets within a second.

**Where a crash may fall**, and what the next owner of the number finds:

- before 2 ends: some or none of the outputs; table and offsets are those before the batch. It is processed again from
  the state before it; ids derived from the input make what was written already a repetition.
- between 2 and 3: all outputs, otherwise the same.
- while 3 is under way: the entry is there or it is not; being one record, it is never half there. If it is not: as
  before. If it is: the snapshot reflects the batch, and reading begins behind it, because positions come from the
  table and not from the group.
- between 3 and 4, or before Faust's commit: the same. What the group has committed may be behind the table, never
  is it needed.
- an owner that was passed over (its machine stood still for longer than the session) wakes up and writes an entry:
  its epoch is older than the new owner's, which counted on by one, so the recovery passes over it. If it is all that
  the changelog holds, because the new owner wrote nothing yet or compaction took what it wrote, snapshot and
  positions still belong together, and what follows them is read again.

So nothing is lost, and what is repeated says the same. A rebalance is no crash: before the number goes, its stage ends
the call under way and commits. `StageRunner` retries, sets poison aside and backs off in between, as on every log.

If the Faust app itself fails, or skips records, which would be a defect of it that no stage should pay for, the engine
stops it and makes a new one, with back-off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError, PlatformError
from headspring.streaming.engine.faust.app import FaustLife, Timing
from headspring.streaming.engine.faust.ground import Ground
from headspring.streaming.engine.faust.sessions import Kind, Sessions
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.port import Stage
from headspring.streaming.log.kafka.log import KafkaLog

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.1
_LONGEST_BACK_OFF_S = 30.0
_GOOD_S = 60.0
"""A life that lasted so long was no failure of the start."""
_STUCK_S = 30.0
"""A life that neither runs nor comes nearer to it for so long is replaced; others may hold up a rebalance for less."""


class FaustEngine:
    """Runs stages until `stop`; takes what `LocalEngine` takes, but factories of stages. One event loop."""

    def __init__(
        self, log: KafkaLog, *, clock: Clock, app_id: str, data: Path, timing: Timing | None = None,
        back_off_s: float = 0.2,
    ) -> None:  # fmt: skip
        """
        Args:
            log: Where stages meet; says also where Kafka is and how topics are called. The engine does not close it.
            clock: For ticks, back-off and durations of stages.
            app_id: The same in all processes that share the work; names the consumer group and the state's topic.
            data: A folder of this process alone; nothing that matters is kept in it.
            timing: Of the membership in the group; None for the defaults.
            back_off_s: First wait after a failure of a stage, or of the app, in seconds; doubles up to 30.
        """
        self._ground = Ground(log, app_id)
        self._clock = clock
        self._data = data
        self._timing = timing or Timing()
        self._back_off_s = back_off_s
        self._kinds: dict[str, Kind] = {}
        self._sessions: Sessions | None = None
        self._life: FaustLife | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._stopped = False
        self._trouble = ""
        self._restarts = 0

    def add(self, factory: Callable[[], Stage]) -> None:
        """Takes a stage: `factory` makes one for each partition number; all have the same name and inputs.

        Raises:
            ConfigError: another stage has its name, it reads nothing, or the engine has started.
        """
        stage = factory()
        if stage.name in self._kinds:
            raise ConfigError(f"two stages are named {stage.name}; a name is the key of a state, so it is unique")
        if not stage.inputs:
            raise ConfigError(f"stage {stage.name} has no inputs; on Kafka a stage runs where its inputs are")
        if self._task is not None or self._stopped:
            raise ConfigError(f"stage {stage.name} came after the engine had started; add all stages before `start`")
        self._kinds[stage.name] = Kind(make=factory, name=stage.name, inputs=tuple(stage.inputs), spare=stage)

    async def start(self) -> None:
        """Returns once the topics are there; joining the group and recovering the state go on in the background.

        Raises:
            ConfigError: `data` cannot be made, a topic is not as wanted, or a permission is missing.
            Unavailable: Kafka cannot serve now.
        """
        if not self._kinds or self._task is not None:
            return
        try:
            self._data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self._data}: {error}; choose a writable one") from error
        await self._ground.prepare({topic for kind in self._kinds.values() for topic in kind.inputs})
        self._sessions = Sessions(
            self._kinds.values(), log=self._ground.log, schema=self._ground.schema, clock=self._clock,
            back_off_s=self._back_off_s,
        )  # fmt: skip
        self._task = asyncio.create_task(self._run(self._sessions), name=f"faust:{self._ground.group}")
        self._task.add_done_callback(self._ended)

    async def stop(self, *, drain_s: float = 2.0) -> None:
        """Lets stages catch up for up to `drain_s`, then ends each after its current batch, with a commit, and leaves
        the group, so that others take over at once."""
        self._stopped = True
        await self.drain(drain_s)
        self._stopping.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def drain(self, timeout_s: float) -> bool:
        """Waits, in real time, until all stages have taken all there is in this process's partitions; False if they
        had not by then."""
        if self._task is None:
            return True
        deadline = asyncio.get_running_loop().time() + timeout_s
        quiet = 0
        while quiet < 2:  # twice, since a record may be on its way from the fetcher to its inbox
            quiet = quiet + 1 if await self._idle() else 0
            if asyncio.get_running_loop().time() >= deadline:
                return quiet >= 2
            await asyncio.sleep(_LOOK_S / 2)
        return True

    def health(self) -> Mapping[str, StageHealth]:
        """By stage name, over all partition numbers of this process."""
        return {name: self._health(name) for name in self._kinds}

    @property
    def partitions_owned(self) -> frozenset[int]:
        """Partition numbers that this process has now."""
        return self._sessions.owned if self._sessions is not None else frozenset()

    # Inside

    def _health(self, name: str) -> StageHealth:
        if self._sessions is None:
            return _nothing(StageState.STOPPED if self._stopped else StageState.STARTING)
        found = self._sessions.health(name)
        found = replace(found, restarts=found.restarts + self._restarts)
        if self._task is not None and self._task.done():
            return replace(found, state=StageState.STOPPED, last_error=self._trouble or found.last_error)
        if self._life is None or not self._life.running:
            state = StageState.BACKING_OFF if self._trouble else StageState.STARTING
            return replace(found, state=state, last_error=self._trouble or found.last_error)
        return found

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a defect: whatever Faust does is told as trouble of a life
            self._trouble = f"{type(error).__name__}: {error}"
            _LOG.error("the engine on Faust ended: group=%s error=%s", self._ground.group, error, exc_info=error)

    async def _idle(self) -> bool:
        life, sessions = self._life, self._sessions
        if life is None or sessions is None or not life.running:
            return False
        try:
            caught_up = await sessions.caught_up()
        except PlatformError:
            return False
        return caught_up and sessions.idle and self._life is life

    async def _run(self, sessions: Sessions) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            began = loop.time()
            self._life = life = FaustLife(
                self._ground, sessions, data=self._data,
                inputs={kind.name: kind.inputs for kind in self._kinds.values()}, timing=self._timing,
            )  # fmt: skip
            try:
                life.start()
                self._trouble = await self._watch(life)
            finally:
                await life.stop(within_s=self._timing.hand_over_s)
            if self._stopping.is_set():
                break
            failures = failures + 1 if loop.time() - began < _GOOD_S else 1
            self._restarts += 1
            wait_s = min(_LONGEST_BACK_OFF_S, self._back_off_s * 2 ** min(failures - 1, 20))
            _LOG.warning("the Faust app is over and is made again: group=%s wait_s=%.1f failures=%d reason=%s",
                         self._ground.group, wait_s, failures, self._trouble)  # fmt: skip
            try:
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _watch(self, life: FaustLife) -> str:
        """Returns why the life is over; "" when the engine stops."""
        loop = asyncio.get_running_loop()
        moved_at, progress = loop.time(), life.progress
        while not self._stopping.is_set():
            if life.trouble:
                return life.trouble
            if life.running:
                self._trouble = ""
            if life.running or life.progress != progress:
                moved_at, progress = loop.time(), life.progress
            elif loop.time() - moved_at > _STUCK_S:
                return f"no partitions became ready, and nothing moved, for {_STUCK_S:.0f} s"
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue
        return ""


def _nothing(state: StageState) -> StageHealth:
    return StageHealth(
        state=state, lag=0, records_in=0, records_out=0, errors=0, dead_letters=0, restarts=0, last_batch_s=0.0
    )
