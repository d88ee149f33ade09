"""One life of a Faust app inside our event loop: from its start to its stop or crash. A crashed one is not mended; the
engine makes another.

No worker, so no signal handlers, no logging set up, no web server; the app's services are started as what they are.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from faust.types import TP
from yarl import URL

from headspring.proto.errors import ConfigError
from headspring.streaming.engine.faust.client import Transport
from headspring.streaming.engine.faust.ground import Ground
from headspring.streaming.engine.faust.sessions import Sessions
from headspring.streaming.engine.faust.table import MAX_ENTRY_BYTES, NAME, StateTable
from headspring.streaming.log.kafka.connection import KafkaConnection

_LOG = logging.getLogger(__name__)
_QUIET = ("faust", "mode", "aiokafka")
"""Their loggers tell one trouble many times, with stacks; the engine tells it once."""
_FETCH_RECORDS = 500
_FETCH_BYTES = 1024 * 1024
"""Of one partition at once; a larger record comes alone."""
_QUEUE_RECORDS = 2000
"""Between Faust's fetcher and the inboxes, per stage and topic; it is emptied at once."""
_RECOVERY_ENTRIES = 2
"""Read before they are put into the table; entries may be large. (1 means something else to Faust.)"""
_RECOVERY_QUEUE = 64
_COMMIT_S = 1.0
_DELIVERY_S = 30.0
_STOP_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of the membership in the consumer group, in seconds."""

    session_s: float = 12.0
    """A process that is not heard of for so long is taken for dead, and its partitions are given to others."""
    hand_over_s: float = 8.0
    """A stage that is asked to let go of its partition ends its call within this, or is ended."""

    def __post_init__(self) -> None:
        for name in ("session_s", "hand_over_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted more than 0 seconds")


class FaustLife:
    """See the module. `start`, then watch `trouble`, then `stop`."""

    def __init__(
        self,
        ground: Ground,
        sessions: Sessions,
        *,
        data: Path,
        inputs: Mapping[str, tuple[str, ...]],
        timing: Timing,
    ) -> None:
        """
        Args:
            sessions: What runs the stages; this life resumes and suspends them.
            data: A folder of its own.
            inputs: Stage → topics (our names).
        """
        self._sessions = sessions
        self._ground = ground
        self._names = {ground.topic(topic): topic for read in inputs.values() for topic in read}
        self._timing = timing
        self._lost = ""
        self._generation: int | None = None
        """Of the assignment that is waiting for its table, or has it."""
        self._recovered = False
        self._starting: asyncio.Task[None] | None = None
        for name in _QUIET:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.CRITICAL)
        self._app = app = _app(ground, data=data, timing=timing)
        app.transport = Transport(app.conf.broker_consumer, app)
        app.transport.wanted = self._wanted
        self._table = StateTable(
            app, name=NAME, key_type=bytes, value_type=bytes, partitions=ground.partitions, beacon=app.tables.beacon,
            on_recover=self._on_recovered, recovery_buffer_size=_RECOVERY_ENTRIES,
        )  # fmt: skip
        self._changelog = app.tables.add(self._table).changelog_topic_name
        for stage, read in inputs.items():
            for topic in read:
                channel = app.topic(
                    ground.topic(topic), key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw",
                    allow_empty=True, maxsize=_QUEUE_RECORDS,
                )  # fmt: skip
                app.agent(channel, name=f"{stage}:{topic}")(self._agent(stage, topic))
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_partitions_assigned.connect(self._on_assigned)

    @property
    def running(self) -> bool:
        """Partitions are assigned, the table is recovered, records flow."""
        return self._recovered and not self.trouble

    @property
    def trouble(self) -> str:
        """Why this life is over; "" while it is not."""
        if self._lost:
            return self._lost
        if self._starting is not None and self._starting.done() and not self._starting.cancelled():
            error = self._starting.exception()
            if error is not None:
                return _told(error)
        if self._app.crashed:
            return _told(self._app.crash_reason)
        return ""

    @property
    def progress(self) -> object:
        """Differs from what it was while a start or a rebalance goes on."""
        recovery = self._app.tables.recovery
        return (
            self._app.consumer_generation_id,
            self._generation,
            self._recovered,
            sum(offset for offset in recovery.active_offsets.values() if offset is not None),
        )

    def start(self) -> None:
        """Returns at once; joining the group and recovering the table go on in the background."""
        self._starting = asyncio.create_task(self._app.start(), name="faust")

    async def stop(self, *, within_s: float) -> None:
        """Ends the sessions, with a commit if they manage it in time, then leaves the group."""
        self._recovered, self._generation = False, None
        await self._sessions.suspend(within_s)
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait((self._starting,), timeout=within_s)
        stopping = asyncio.create_task(self._app.stop(), name="faust-stop")
        done, _ = await asyncio.wait((stopping,), timeout=_STOP_S)
        if not done:
            _LOG.warning("a Faust app did not stop in %.0f s and is left behind", _STOP_S)
            stopping.cancel()
        elif not stopping.cancelled() and stopping.exception() is not None:
            _LOG.warning("a Faust app stopped badly: %s", _told(stopping.exception()))

    # Flow

    def highwater(self, topic: str, partition: int) -> int | None:
        tp = TP(self._ground.topic(topic), partition)
        if tp not in self._app.consumer.assignment():
            return None
        found: int | None = self._app.consumer.highwater(tp)
        return found

    def hold(self, topic: str, partition: int) -> None:
        self._app.consumer.on_buffer_full(TP(self._ground.topic(topic), partition))

    def go_on(self, topic: str, partition: int) -> None:
        self._app.consumer.on_buffer_drop(TP(self._ground.topic(topic), partition))

    def lost(self, what: str) -> None:
        self._lost = self._lost or f"{what}; all stages go back to their last commits"

    # What Faust calls

    def _agent(self, stage: str, topic: str) -> Callable[[Any], Any]:
        async def take(stream: Any) -> None:
            events: AsyncIterable[Any] = stream.noack().events()
            async for event in events:
                self._sessions.deliver(stage, topic, event.message, event.ack)

        return take

    def _wanted(self, tp: TP, earliest: int) -> int:
        topic = self._names.get(tp.topic)
        return earliest if topic is None else self._sessions.wanted(topic, tp.partition, earliest)

    async def _on_revoked(self, sender: Any, revoked: Any, **_: Any) -> None:
        """A rebalance begins: every number goes back, whoever gets it next. Faust has stopped its flow."""
        self._recovered, self._generation = False, None
        await self._sessions.suspend(self._timing.hand_over_s)

    async def _on_assigned(self, sender: Any, assigned: Any, **_: Any) -> None:
        self._generation = self._app.consumer_generation_id

    async def _on_recovered(self) -> None:
        """The table is up to date with the changelog. A recovery that ends after the next rebalance has begun does not
        count; Faust makes another one."""
        if self._generation is None or self._generation != self._app.consumer_generation_id or self._recovered:
            return
        # A number counts only with its part of the changelog: while processes with different inputs share a group,
        # Faust's assignor may spread their topics differently.
        owned = sorted(tp.partition for tp in self._app.assignor.assigned_actives() if tp.topic == self._changelog)
        self._table.forget(owned)
        self._sessions.resume(owned, self._table, self)
        self._recovered = True
        _LOG.info("partitions taken over: group=%s partitions=%s", self._app.conf.id, owned)


def _app(ground: Ground, *, data: Path, timing: Timing) -> Any:
    connection = ground.connection
    request_s = max(30.0, 2 * timing.session_s)
    return faust.App(
        ground.group,
        broker=[URL(f"kafka://{address.strip()}") for address in connection.servers.split(",")],
        broker_credentials=_credentials(connection),
        broker_client_id=connection.client_id,
        broker_commit_interval=_COMMIT_S,
        broker_session_timeout=timing.session_s,
        broker_heartbeat_interval=min(1.0, timing.session_s / 5),
        broker_rebalance_timeout=timing.hand_over_s + timing.session_s,
        broker_request_timeout=request_s,
        broker_max_poll_records=_FETCH_RECORDS,
        # Inboxes that stay full, because a store is away, are no reason to leave the group.
        broker_max_poll_interval=24 * 3600.0,
        consumer_max_fetch_size=_FETCH_BYTES,
        producer_max_request_size=MAX_ENTRY_BYTES + 1024 * 1024,
        producer_request_timeout=_DELIVERY_S,
        stream_buffer_maxsize=_RECOVERY_QUEUE,  # inputs have their own
        stream_wait_empty=False,  # sessions wait for what is under way, and what only waits is read again
        store="memory://",
        datadir=str(data),
        table_standby_replicas=0,
        topic_partitions=ground.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        worker_redirect_stdouts=False,
    )  # fmt: skip


def _credentials(connection: KafkaConnection) -> Any:
    encrypted = connection.security_protocol.endswith("SSL")
    context = ssl.create_default_context(cafile=connection.ca_file or None) if encrypted else None
    if connection.signs_in:
        return faust.SASLCredentials(
            username=connection.username, password=connection.password, mechanism=connection.sasl_mechanism,
            ssl_context=context,
        )  # fmt: skip
    return faust.SSLCredentials(context) if context is not None else None


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error is not None else "stopped without a reason"
