"""One stage in one process: as many runners as the group gave it partition numbers, made when there is work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer

from headspring.proto.clock import Clock
from headspring.proto.errors import Conflict, PlatformError
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.kafka.ground import Ground
from headspring.streaming.engine.kafka.membership import ErrorCallback, Lease, Membership
from headspring.streaming.engine.kafka.partition import PartitionLog
from headspring.streaming.engine.kafka.reader import Reader
from headspring.streaming.engine.kafka.report import NOTHING_YET, ShareMetrics, joined_health, plus
from headspring.streaming.engine.port import Stage
from headspring.streaming.engine.runner import StageRunner

_LOG = logging.getLogger(__name__)
_UPKEEP_S = 300.0
_LONGEST_WAIT_S = 30.0


class _Slot:
    """One number while it is ours."""

    def __init__(self, lease: Lease, log: PartitionLog) -> None:
        self.lease = lease
        self.log = log
        self.runner: StageRunner | None = None
        self.task: asyncio.Task[None] | None = None
        self.asleep = False
        """Nothing to run for was found; the first record wakes it."""
        self.trouble = ""
        self.errors = 0
        self.stopping = False

    def health(self) -> StageHealth:
        if self.runner is not None:
            return self.runner.health()
        state = StageState.RUNNING if self.asleep else StageState.STARTING
        if self.trouble:
            state = StageState.BACKING_OFF
        return StageHealth(
            state=state, lag=self.log.lag, records_in=0, records_out=0, errors=self.errors, dead_letters=0, restarts=0,
            last_batch_s=0.0, last_error=self.trouble,
        )  # fmt: skip

    @property
    def idle(self) -> bool:
        return self.runner.idle if self.runner is not None else self.asleep and self.log.lag == 0


class SharedStage:
    """`Holder` of the leases of a stage. One event loop."""

    def __init__(
        self, factory: Callable[[], Stage], ground: Ground, *, clock: Clock, back_off_s: float, release_s: float
    ) -> None:
        """
        Args:
            factory: Makes a stage object; one is made at once, to be asked for its name and inputs.
            ground: What it stands on.
            clock: For ticks, back-off and durations.
            back_off_s: First wait after a failure, in seconds.
            release_s: Longest wait for a runner to end when its number goes to another process, in seconds.
        """
        self._factory = factory
        self._spare: Stage | None = factory()
        self._ground = ground
        self._clock = clock
        self._back_off_s = back_off_s
        self.name = self._spare.name
        self.inputs = self._spare.inputs
        self._topics = {topic: ground.topic(topic) for topic in self.inputs}
        self._slots: dict[int, _Slot] = {}
        self._retired = NOTHING_YET
        """What runners counted that are gone."""
        self._ending: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped = False
        self._reader = Reader(
            lambda: ground.reader(self.name), ground.records, stage=self.name, topics=self._topics,
            connection=ground.connection, budget_bytes=ground.buffer_bytes,
        )  # fmt: skip
        self._membership = Membership(
            self._member, stage=self.name, group=ground.group(self.name), topic=self._topics[self.inputs[0]],
            connection=ground.connection, holder=self, release_s=release_s,
        )  # fmt: skip
        self._upkeep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Joins the group; runners follow what it gives."""
        self._reader.start()
        self._membership.join()
        self._upkeep = asyncio.create_task(self._keep(), name=f"upkeep:{self.name}")

    async def stop(self) -> None:
        """Ends each runner after its current batch, with a commit, then lets others have the numbers."""
        self._stopping = True
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait((self._upkeep,))
        await self.release([slot.lease for slot in self._slots.values()])
        await self._membership.leave()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._reader.close()
        self._stopped = True

    # Holder

    def granted(self, leases: Sequence[Lease]) -> None:
        if self._stopping:
            return
        for lease in leases:
            log = PartitionLog(
                self._ground, self._reader, self._membership, lease, stage=self.name, topics=self._topics
            )
            slot = self._slots[lease.number] = _Slot(lease, log)
            slot.task = asyncio.create_task(self._live(slot), name=f"stage:{self.name}:{lease.number}")

    async def release(self, leases: Sequence[Lease]) -> None:
        slots = self._take(leases)
        for slot in slots:
            slot.stopping = True
            if slot.runner is not None:
                slot.runner.stop()
            elif slot.task is not None:
                slot.task.cancel()
        try:
            await asyncio.gather(*(self._bury(slot) for slot in slots))
        except asyncio.CancelledError:
            # The wait was too long; what still runs is dropped.
            self._drop(slots)
            raise

    def lost(self, leases: Sequence[Lease]) -> None:
        self._drop(self._take(leases))

    # State

    @property
    def idle(self) -> bool:
        """The group has told what is ours, and all there was of that has been processed."""
        return self._membership.joined and not self._ending and all(slot.idle for slot in self._slots.values())

    async def look(self) -> None:
        """Learns where its partitions end now; `idle` is about that.

        Raises:
            PlatformError: Kafka does not say.
        """
        await self._reader.look()

    def health(self) -> StageHealth:
        state = StageState.RUNNING if self._membership.joined else StageState.STARTING
        health = joined_health([self._retired, *(slot.health() for slot in self._slots.values())], at_least=state)
        trouble = self._membership.trouble or self._reader.trouble
        if self._stopped:
            return plus(health, state=StageState.STOPPED)
        return plus(health, state=StageState.BACKING_OFF, last_error=trouble) if trouble else health

    def partitions(self) -> Mapping[int, StageHealth]:
        return {number: slot.health() for number, slot in sorted(self._slots.items())}

    def metrics(self) -> ShareMetrics:
        member, reader = self._membership, self._reader
        return ShareMetrics(
            partitions=len(self._slots),
            asleep=sum(slot.runner is None for slot in self._slots.values()),
            rebalances=member.rebalances,
            leases_lost=member.lost,
            commits=member.commits,
            commit_retries=member.commit_retries,
            last_commit_s=member.last_commit_s,
            missed=reader.missed,
            buffered_bytes=reader.buffered_bytes,
        )

    # Inside

    def _member(self, on_error: ErrorCallback) -> Consumer:
        return self._ground.member(self.name, on_error)

    async def _live(self, slot: _Slot) -> None:
        """A number's life: asleep until there is something to do, then a runner."""
        wait_s = self._back_off_s
        while True:
            try:
                if not await slot.log.committed_before():
                    slot.asleep, slot.trouble = True, ""
                    await slot.log.first_record()
                break
            except Conflict:
                return
            except PlatformError as error:
                slot.errors += 1
                slot.trouble = str(error)
                _LOG.warning("cannot take over a partition yet: stage=%s partition=%d wait_s=%.1f error=%s",
                             self.name, slot.lease.number, wait_s, error)  # fmt: skip
                await self._clock.sleep(wait_s)
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
        stage, self._spare = self._spare or self._factory(), None
        slot.runner = StageRunner(stage, slot.log, clock=self._clock, back_off_s=self._back_off_s)
        await slot.runner.run()

    def _take(self, leases: Sequence[Lease]) -> list[_Slot]:
        slots = [self._slots.get(lease.number) for lease in leases]
        found = [slot for slot in slots if slot is not None and slot.lease in leases]
        for slot in found:
            del self._slots[slot.lease.number]
        return found

    def _drop(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            if slot.task is not None:
                slot.task.cancel()
            ending = asyncio.create_task(self._bury(slot))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _bury(self, slot: _Slot) -> None:
        if slot.task is not None:
            await asyncio.wait((slot.task,))
            failure = None if slot.task.cancelled() else slot.task.exception()
            if failure is not None:
                _LOG.error("a partition's runner ended by a defect: stage=%s partition=%d",
                           self.name, slot.lease.number, exc_info=failure)  # fmt: skip
        await slot.log.finish()
        self._retired = joined_health([self._retired, plus(slot.health(), lag=0, state=StageState.RUNNING)])

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_S)
            for slot in list(self._slots.values()):
                try:
                    await slot.log.refresh()
                except PlatformError as error:
                    _LOG.warning("positions could not be renewed: stage=%s partition=%d error=%s",
                                 self.name, slot.lease.number, error)  # fmt: skip
