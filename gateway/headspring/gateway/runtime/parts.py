"""What roles are made of: every port's server backend, opened once, closed in reverse order, checked meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headspring.gateway.backends import Backends, BackendState
from headspring.gateway.runtime.config import Settings, runbook_settings
from headspring.gateway.runtime.data import prepare
from headspring.gateway.runtime.shape import BY_NAME
from headspring.proto.clock import Clock
from headspring.proto.errors import ConfigError, Unavailable
from headspring.proto.topics import CONFIGURATION, DEAD_LETTER
from headspring.streaming.engine.health import StageHealth, StageState
from headspring.streaming.engine.port import Stage
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog

if TYPE_CHECKING:  # each server's client takes a second or more to import: a role loads only its own
    from headspring.gateway.services import Services
    from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
    from headspring.knowledge.series.victoria.store import VictoriaSeriesStore
    from headspring.knowledge.topology.neo4j_store import Neo4jTopology

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """The part of `KafkaEngine` and `FaustEngine` that a role uses."""

    def add(self, factory: Callable[[], Stage]) -> None: ...
    async def start(self) -> None: ...
    async def stop(self, *, drain_s: float = 2.0) -> None: ...
    def health(self) -> Mapping[str, StageHealth]: ...


@dataclass(slots=True)
class Process:
    """A running role."""

    role: str
    backends: Backends
    engines: list[Any] = field(default_factory=list)
    closers: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    """Called last first."""
    services: Services | None = None
    intake: Any = None
    authenticate: Any = None
    spool: Any = None
    limits: Any = None
    """`ApiLimits` of a gateway, shared with the others."""
    new_key: str = ""
    """First admin key, to show once; "" when there was one already."""

    async def start(self) -> None:
        for engine in self.engines:
            await engine.start()
        self.backends.start()

    async def close(self) -> None:
        """Ends stages after their batch, then lets go of everything in reverse order."""
        for engine in self.engines:
            await engine.stop()
        await self.backends.stop()
        while self.closers:
            await self.closers.pop()()

    def stage_health(self) -> Mapping[str, StageHealth]:
        return {name: state for engine in self.engines for name, state in engine.health().items()}

    def backend_states(self) -> Mapping[str, BackendState]:
        return self.backends.states()

    def counters(self) -> Mapping[str, int]:
        return self.intake.counters if self.intake is not None else {}

    def gauges(self) -> Mapping[str, float]:
        if self.spool is None:
            return {}
        found = self.spool.stats()
        return {
            "headspring_spool_active": int(found.spooling),
            "headspring_spool_size_bytes": found.size_bytes,
            "headspring_spool_waiting_records": found.waiting_records,
        }

    def ready(self) -> bool:
        return all(state.state is not StageState.STARTING for state in self.stage_health().values())


class Parts:
    """Opens backends, each once, and remembers how to close and to check them."""

    def __init__(self, role: str, settings: Settings, clock: Clock) -> None:
        self.role = role
        self.settings = settings
        self.clock = clock
        self.data = prepare(settings.data)
        self.process = Process(role=role, backends=Backends(clock))
        self._engine: Any = None

    def closing(self, close: Callable[[], object]) -> None:
        """A blocking close, in a thread."""
        self.process.closers.append(lambda: asyncio.to_thread(close))

    @property
    def connection(self) -> KafkaConnection:
        settings = self.settings
        signs_in = settings.kafka_security.startswith("SASL")
        return KafkaConnection(
            settings.kafka, security_protocol=settings.kafka_security,
            sasl_mechanism=settings.kafka_mechanism if signs_in else "",
            username=settings.kafka_user, password=settings.kafka_password, ca_file=settings.kafka_ca,
            client_id=f"headspring.{self.role}",
        )  # fmt: skip

    @property
    def prefix(self) -> str:
        """Of our names on servers that others use too; that of topics may end with a dot, that of indices not."""
        return self.settings.kafka_prefix.rstrip(".") or "headspring"

    async def log(self, *, give_up_s: float = 30.0) -> KafkaLog:
        """
        Args:
            give_up_s: An append that is not acknowledged by then has failed.
        """
        settings = self.settings
        shape = BY_NAME.get(self.role)  # a migration is no role: it moves every topic
        log = await KafkaLog.open(
            self.connection, clock=self.clock, partitions=settings.partitions, replication=settings.replication,
            prefix=settings.kafka_prefix, delivery_timeout=timedelta(seconds=give_up_s),
            reads=[topic.name for topic in shape.reads] if shape else None,
            writes=[topic.name for topic in (*shape.writes, DEAD_LETTER)] if shape else None,
        )  # fmt: skip
        self.process.closers.append(log.close)
        loop = asyncio.get_running_loop()
        asked = (shape.reads[0] if shape else CONFIGURATION).name

        def answers() -> None:
            asyncio.run_coroutine_threadsafe(log.end_offsets(asked), loop).result(timeout=30)

        self.process.backends.add("Kafka", answers, costs="nothing moves on until it is back; telemetry waits")
        return log

    async def kafka_engine(self, log: Any) -> Any:
        from headspring.streaming.engine.kafka.engine import KafkaEngine

        if self._engine is None:
            self._engine = KafkaEngine(log, clock=self.clock)
            self.process.engines.append(self._engine)
        return self._engine

    async def event_engine(self, log: Any) -> Any:
        """For stages of event rate: Faust, or the same engine as telemetry has."""
        if self.settings.event_engine == "kafka":
            return await self.kafka_engine(log)
        if self.settings.event_engine != "faust":
            raise ConfigError(f"setting event_engine is {self.settings.event_engine!r}; wanted faust or kafka")
        from headspring.streaming.engine.faust.engine import FaustEngine

        engine = FaustEngine(log, clock=self.clock, app_id=f"headspring.{self.role}", data=self.data / "faust")
        self.process.engines.append(engine)
        return engine

    def open_series(self) -> VictoriaSeriesStore:
        """One more, for the caller to close."""
        from headspring.knowledge.series.victoria.store import VictoriaSeriesStore

        settings = self.settings
        return VictoriaSeriesStore(
            settings.victoria_url, user=settings.victoria_user, password=settings.victoria_password,
            retention=timedelta(hours=settings.retention_h),
        )  # fmt: skip

    async def series(self) -> VictoriaSeriesStore:
        store = await asyncio.to_thread(self.open_series)
        self.closing(store.close)
        self.process.backends.add("VictoriaMetrics", store.ping, costs="charts, queries and validation by metrics wait")
        return store

    async def documents(self, *, needed: bool = False) -> ElasticsearchDocumentStore:
        """`needed`: wait for it at the start; else the role starts without it."""
        from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
        from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore

        settings = self.settings
        where = ElasticsearchSettings(
            urls=tuple(settings.elasticsearch_url.split(",")), user=settings.elasticsearch_user,
            password=settings.elasticsearch_password, prefix=self.prefix,
            log_retention=timedelta(hours=settings.log_retention_h),
        )  # fmt: skip
        store = await asyncio.to_thread(lambda: ElasticsearchDocumentStore(where, require=needed))
        self.closing(store.close)
        self.process.backends.add(
            "Elasticsearch", store.ping, costs="lists and search are not up to date; paging and approvals go on"
        )
        return store

    async def topology(self, *, needed: bool = False) -> Neo4jTopology:
        """`needed` as for `documents`."""
        from headspring.knowledge.topology.neo4j_store import Neo4jTopology

        settings = self.settings
        graph = await asyncio.to_thread(
            lambda: Neo4jTopology(
                settings.neo4j_url, user=settings.neo4j_user, password=settings.neo4j_password, must_answer=needed
            )
        )
        self.closing(graph.close)
        self.process.backends.add("Neo4j", graph.ping, costs="the topology stays as it was last known")
        return graph

    async def redis(self) -> Any:
        """Not waited for at the start: detection and the API go on without it."""
        from headspring.knowledge.coordination.redis import RedisServer

        settings = self.settings
        server = await asyncio.to_thread(
            lambda: RedisServer(
                settings.redis_url, password=settings.redis_password, prefix=self.prefix,
                must_answer=False,
            )
        )  # fmt: skip
        self.closing(server.close)
        self.process.backends.add("Redis", server.ping, costs="health scores are missing, limits count per process")
        return server

    async def artifacts(self) -> Any:
        from headspring.models.artifacts.minio_store import MinioArtifactStore

        settings = self.settings
        store = await asyncio.to_thread(
            MinioArtifactStore, settings.minio_url, user=settings.minio_user, password=settings.minio_password,
            bucket=settings.minio_bucket,
        )  # fmt: skip
        self.process.backends.add("MinIO", store.ping, costs="models stay as they are")
        return store

    def flink(self) -> None:
        """Has the windows on Flink watched, where they are there."""
        from headspring.streaming.engine.flink.sql import JOB
        from headspring.streaming.engine.flink.watch import WindowWatch

        settings = self.settings
        if settings.windows not in ("kernel", "flink"):
            raise ConfigError(f"setting windows is {settings.windows!r}; wanted kernel or flink")
        if settings.windows == "flink":
            watch = WindowWatch(settings.flink_url, settings.kafka_prefix + JOB, clock=self.clock)
            self.closing(watch.close)
            self.process.backends.add("Flink", watch.ping, costs="nothing new is detected; samples wait for it")

    def database_url(self) -> str:
        """With the password in it: never to be shown."""
        import sqlalchemy as sa

        url = sa.make_url(self.settings.postgres_url)
        if self.settings.postgres_password:
            url = url.set(password=self.settings.postgres_password)
        return url.render_as_string(hide_password=False)

    async def keys(self) -> Any:
        from headspring.gateway.auth.keys import KeyStore
        from headspring.gateway.auth.requests import Authenticator

        keys = await asyncio.to_thread(
            KeyStore, self.database_url(), secrets=prepare(self.settings.secrets), clock=self.clock
        )
        self.closing(keys.close)
        self.process.authenticate = Authenticator(keys).tenant_for_intake
        return keys

    async def actions(self, log: Any, *, acts: bool, series: Any, documents: Any, topology: Any) -> Any:
        from headspring.action.execute.http import HttpExecutor
        from headspring.action.execute.process import ProcessExecutor
        from headspring.action.notify.apprise_ import AppriseNotifier
        from headspring.action.notify.console import ConsoleNotifier
        from headspring.action.service import ActionService
        from headspring.gateway.runtime.validation import MetricValidator
        from headspring.streaming.log.port import Record

        def emit(topic: str, key: bytes, value: bytes, time_ns: int) -> None:
            log.append_threadsafe(topic, [Record(key=key, value=value, time_ns=time_ns)]).result(timeout=30)

        settings = self.settings
        service = await asyncio.to_thread(
            lambda: ActionService(
                database_url=self.database_url(),
                state_dir=self.data,
                secrets=prepare(settings.secrets),
                acts=acts,
                clock=self.clock,
                topology=topology,
                documents=documents,
                validator=MetricValidator(series=series, documents=documents, clock=self.clock),
                executors=[HttpExecutor(ops_url=settings.ops_url), ProcessExecutor(allow=settings.programs.split())],
                notifiers=[ConsoleNotifier(), *([AppriseNotifier(settings.notify.split())] if settings.notify else [])],
                settings=runbook_settings(settings),
                runbooks=Path(settings.runbooks) if settings.runbooks else None,
                emit=emit,
                expires_s=settings.approval_expires_s,
                page_url=settings.public_url,
            )
        )
        await asyncio.to_thread(service.start)
        self.closing(service.stop)
        self.process.backends.add("PostgreSQL", service.ping, costs="nothing can be approved and no run goes on")
        return service

    async def intake(self, log: Any) -> Any:
        from headspring.ingestion.admit.limits import Limits
        from headspring.ingestion.admit.registry import SeriesRegistry
        from headspring.ingestion.pipeline import Intake
        from headspring.proto import codec
        from headspring.proto.secret_file import read_or_make
        from headspring.proto.telemetry import SeriesDescriptor
        from headspring.proto.topics import SERIES

        settings = self.settings
        limits = Limits(max_body_bytes=settings.max_body_bytes, max_series=settings.max_series)
        registry = SeriesRegistry(key=read_or_make(prepare(settings.secrets) / "series.key", 16), limits=limits)
        try:
            known = await log.latest_by_key(SERIES.name)
        except Unavailable as error:
            # Every series is described once more then, which is harmless.
            logger.warning("series known so far cannot be read, starting without them: %s", error)
            known = []
        registry.load([codec.decode(SeriesDescriptor, stored.record.value) for stored in known])
        intake = Intake(log, clock=self.clock, limits=limits, registry=registry, shards=settings.partitions)
        await asyncio.to_thread(intake.warm)
        self.process.intake = intake
        return intake
