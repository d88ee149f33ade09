"""The embedded runtime: every port's in-process backend, in one list. Reads side by side with the distributed one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from headspring.action.execute.http import HttpExecutor
from headspring.action.execute.process import ProcessExecutor
from headspring.action.notify.apprise_ import AppriseNotifier
from headspring.action.notify.console import ConsoleNotifier
from headspring.action.service import ActionService
from headspring.action.stage import ActStage
from headspring.analytics.correlate.stage import CorrelateConfig, CorrelateStage
from headspring.analytics.detect.stage import DetectStage
from headspring.analytics.diagnose.stage import DiagnoseStage
from headspring.gateway.auth.keys import KeyStore
from headspring.gateway.auth.requests import Authenticator
from headspring.gateway.detection import LocalDetection, read_file
from headspring.gateway.events import Events, EventStage
from headspring.gateway.runtime.config import Settings, runbook_settings
from headspring.gateway.runtime.data import prepare
from headspring.gateway.runtime.validation import MetricValidator
from headspring.gateway.services import Services
from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.pipeline import Intake
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.topology.discovery import TopologyStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.traces.ring import RingTraceStore
from headspring.knowledge.writers import DocumentWriter, SeriesWriter, TraceWriter
from headspring.models.labels.stage import LabelStage
from headspring.models.labels.store import LabelStore
from headspring.proto import codec
from headspring.proto.action import Feedback
from headspring.proto.clock import Clock, SystemClock
from headspring.proto.secret_file import read_or_make
from headspring.proto.telemetry import SeriesDescriptor
from headspring.proto.topics import FEEDBACK, SERIES, record_key
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.windows.stage import WindowStage

logger = logging.getLogger(__name__)

_SERIES_KEY_BYTES = 16


@dataclass(slots=True)
class Embedded:
    """A running embedded installation."""

    services: Services
    engine: LocalEngine
    log: SegmentLog
    closers: Sequence[Any]
    new_key: str
    """First admin key, to show once; "" when there was one already."""

    async def close(self) -> None:
        """Drains the stages, then closes what they wrote to."""
        await self.engine.stop()
        await asyncio.to_thread(self.services.actions.stop)
        await self.log.close()
        for part in self.closers:
            await asyncio.to_thread(part.close)


async def start(settings: Settings, *, clock: Clock | None = None) -> Embedded:
    """Opens every store in the data folder and starts every stage.

    Raises:
        ConfigError: the data folder cannot be used, or belongs to a running installation.
    """
    clock = clock or SystemClock()
    data = prepare(settings.data)
    keys = KeyStore(data, clock=clock)
    new_key = keys.bootstrap(settings.bootstrap_key)
    log = await SegmentLog.open(data / "log", clock=clock)

    series = await asyncio.to_thread(DuckDbSeriesStore, data / "series.duckdb")
    documents = await asyncio.to_thread(SqliteDocumentStore, data / "documents.db")
    topology = await asyncio.to_thread(EmbeddedTopology, data / "topology.db")
    traces = await asyncio.to_thread(RingTraceStore, data / "traces.db")
    labels = await asyncio.to_thread(LabelStore, data / "labels.db")

    limits = Limits(max_body_bytes=settings.max_body_bytes, max_series=settings.max_series)
    registry = SeriesRegistry(key=read_or_make(data / "series.key", _SERIES_KEY_BYTES), limits=limits)
    known = [codec.decode(SeriesDescriptor, stored.record.value) for stored in await log.latest_by_key(SERIES.name)]
    registry.load(known)
    await asyncio.to_thread(series.register, known)
    intake = Intake(log, clock=clock, limits=limits, registry=registry)
    await asyncio.to_thread(intake.warm)

    def emit(topic: str, key: bytes, value: bytes, time_ns: int) -> None:
        log.append_threadsafe(topic, [Record(key=key, value=value, time_ns=time_ns)]).result(timeout=30)

    async def give_feedback(feedback: Feedback) -> None:
        record = Record(
            key=record_key(feedback.tenant, feedback.subject), value=codec.encode(feedback), time_ns=feedback.time_ns
        )
        await log.append(FEEDBACK.name, [record])

    detection_file = data / "detection.json"
    detect = DetectStage(clock=clock, config=read_file(detection_file))
    actions = ActionService(
        database_url=f"sqlite:///{data / 'actions.db'}",
        state_dir=data,
        clock=clock,
        topology=topology,
        documents=documents,
        validator=MetricValidator(series=series, documents=documents, clock=clock),
        executors=[HttpExecutor(ops_url=settings.ops_url), ProcessExecutor(allow=settings.programs.split())],
        notifiers=[ConsoleNotifier(), *([AppriseNotifier(settings.notify.split())] if settings.notify else [])],
        settings=runbook_settings(settings),
        runbooks=Path(settings.runbooks) if settings.runbooks else None,
        emit=emit,
        expires_s=settings.approval_expires_s,
        page_url=settings.public_url,
    )
    await asyncio.to_thread(actions.start)

    events = Events()
    engine = LocalEngine(log, clock=clock)
    for stage in (
        SeriesWriter(series, retention=timedelta(hours=settings.retention_h)),
        TraceWriter(traces),
        TopologyStage(topology),
        SpanMetricsStage(clock=clock),
        WindowStage(
            clock=clock,
            pane_s=settings.pane_s,
            window_s=settings.window_s,
            evaluate_every_s=settings.evaluate_every_s,
        ),
        detect,
        CorrelateStage(clock=clock, topology=topology, config=CorrelateConfig(settle_s=settings.settle_s)),
        DiagnoseStage(clock=clock, topology=topology, series=series, traces=traces, documents=documents),
        ActStage(actions, clock),
        DocumentWriter(documents, log_retention=timedelta(hours=settings.log_retention_h)),
        LabelStage(labels),
        EventStage(events),
    ):
        engine.add(stage)
    await engine.start()
    services = Services(
        settings=settings, clock=clock, data=data, keys=keys, authenticator=Authenticator(keys), log=log, intake=intake,
        series=series, documents=documents, topology=topology, traces=traces,
        detect=LocalDetection(detect, detection_file), actions=actions,
        events=events, give_feedback=give_feedback, stage_health=engine.health, ready=lambda: _ready(engine),
    )  # fmt: skip
    return Embedded(services, engine, log, (series, documents, topology, traces, labels, keys), new_key)


def _ready(engine: LocalEngine) -> bool:
    return all(state.state == "running" for state in engine.health().values())
