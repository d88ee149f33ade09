"""The distributed runtime: every role, in one list. Reads side by side with the embedded one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from headspring.gateway.runtime.config import Settings
from headspring.gateway.runtime.parts import Parts, Process
from headspring.proto.clock import NS_PER_S, Clock, SystemClock

_SPANS_S = 1800
"""Spans are read again from so far back after a start: as much as the ring holds."""


async def start(role: str, settings: Settings, *, clock: Clock | None = None) -> Process:
    """Opens what a role needs and starts its stages.

    Raises:
        ConfigError: a server cannot be used as it is: wrong password, too old, no permission.
        Unavailable: a server does not answer; try again.
    """
    parts = Parts(role, settings, clock or SystemClock())
    try:
        await _ROLES[role](parts)
        await parts.process.start()
    except BaseException:
        await parts.process.close()
        raise
    return parts.process


async def _ingestion(parts: Parts) -> None:
    from headspring.streaming.log.spool import SpoolingLog

    await parts.keys()
    # Sooner than a sender gives up: what Kafka does not take by then goes to the spool.
    log = await parts.log(give_up_s=5.0)
    spool = await SpoolingLog.open(log, parts.data / "spool", clock=parts.clock, max_bytes=parts.settings.spool_bytes)
    parts.process.closers[-1] = spool.close  # which closes the log behind it too
    parts.process.spool = spool
    await parts.intake(spool)


async def _windows(parts: Parts) -> None:
    from headspring.streaming.features.span_red import SpanMetricsStage
    from headspring.streaming.windows.stage import WindowStage

    settings = parts.settings
    parts.flink()
    engine = await parts.kafka_engine(await parts.log())
    engine.add(lambda: SpanMetricsStage(clock=parts.clock))
    if settings.windows == "kernel":
        engine.add(
            lambda: WindowStage(
                clock=parts.clock,
                pane_s=settings.pane_s,
                window_s=settings.window_s,
                evaluate_every_s=settings.evaluate_every_s,
            )
        )


async def _detect(parts: Parts) -> None:
    from headspring.analytics.detect.stage import DetectConfig, DetectStage
    from headspring.gateway.detection import ConfigurationStage, report_scores
    from headspring.knowledge.coordination.redis import RedisCache

    log, cache = await parts.log(), RedisCache(await parts.redis())
    engine = await parts.kafka_engine(log)
    current = DetectConfig()
    stages: list[DetectStage] = []

    def make() -> DetectStage:
        stage = DetectStage(clock=parts.clock, config=current)
        stages.append(stage)
        return stage

    def apply(config: DetectConfig) -> None:
        nonlocal current
        current = config
        for stage in stages:
            stage.configure(config)

    engine.add(make)
    engine.add(lambda: ConfigurationStage(apply), shared=False, since_ns=0)
    reporting = asyncio.create_task(report_scores(lambda: enumerate(stages), cache, parts.clock.sleep))

    async def end() -> None:
        reporting.cancel()

    parts.process.closers.append(end)


async def _correlate(parts: Parts) -> None:
    from headspring.analytics.correlate.stage import CorrelateConfig, CorrelateStage

    log, topology = await parts.log(), await parts.topology()
    engine = await parts.event_engine(log)
    config = CorrelateConfig(settle_s=parts.settings.settle_s)
    engine.add(lambda: CorrelateStage(clock=parts.clock, topology=topology, config=config))


async def _diagnose(parts: Parts) -> None:
    from headspring.analytics.diagnose.stage import DiagnoseStage

    log, topology = await parts.log(), await parts.topology()
    series, documents = await parts.series(), await parts.documents()
    traces = await _recent_spans(parts, log)
    engine = await parts.event_engine(log)
    engine.add(
        lambda: DiagnoseStage(clock=parts.clock, topology=topology, series=series, traces=traces, documents=documents)
    )


async def _act(parts: Parts) -> None:
    from headspring.action.stage import ActStage

    log = await parts.log()
    stores = {"series": await parts.series(), "documents": await parts.documents(), "topology": await parts.topology()}
    actions = await parts.actions(log, acts=True, **stores)
    engine = await parts.event_engine(log)
    engine.add(lambda: ActStage(actions, parts.clock))


async def _store(parts: Parts) -> None:
    from headspring.knowledge.topology.discovery import TopologyStage
    from headspring.knowledge.writers import DocumentWriter, SeriesWriter
    from headspring.models.labels.stage import LabelStage
    from headspring.models.labels.store import LabelStore

    settings = parts.settings
    log = await parts.log()
    series = await parts.series()
    documents, topology = await parts.documents(needed=True), await parts.topology(needed=True)
    labels = await asyncio.to_thread(LabelStore, parts.database_url())
    parts.closing(labels.close)
    engine = await parts.kafka_engine(log)
    engine.add(lambda: SeriesWriter(series, retention=timedelta(hours=settings.retention_h)))
    engine.add(lambda: DocumentWriter(documents, log_retention=timedelta(hours=settings.log_retention_h)))
    engine.add(lambda: TopologyStage(topology))
    engine.add(lambda: LabelStage(labels))


async def _gateway(parts: Parts) -> None:
    from headspring.gateway.api.limits import ApiLimits
    from headspring.gateway.auth.requests import Authenticator
    from headspring.gateway.detection import ConfigurationStage, SharedDetection
    from headspring.gateway.events import Events, EventStage
    from headspring.gateway.services import Services
    from headspring.knowledge.coordination.redis import RedisCache, RedisRateLimiter
    from headspring.proto import codec
    from headspring.proto.action import Feedback
    from headspring.proto.topics import FEEDBACK, record_key
    from headspring.streaming.log.port import Record

    keys = await parts.keys()
    log = await parts.log()
    series, documents, topology = await parts.series(), await parts.documents(), await parts.topology()
    redis = await parts.redis()
    parts.flink()
    parts.process.limits = ApiLimits(limiter=RedisRateLimiter(redis, clock=parts.clock))
    detection = SharedDetection(log, RedisCache(redis), partitions=parts.settings.partitions)
    actions = await parts.actions(log, acts=False, series=series, documents=documents, topology=topology)
    intake = await parts.intake(log)
    traces = await _recent_spans(parts, log)
    events = Events()
    engine = await parts.kafka_engine(log)
    engine.add(lambda: EventStage(events), shared=False)
    engine.add(lambda: ConfigurationStage(detection.apply), shared=False, since_ns=0)

    async def give_feedback(feedback: Feedback) -> None:
        record = Record(
            key=record_key(feedback.tenant, feedback.subject), value=codec.encode(feedback), time_ns=feedback.time_ns
        )
        await log.append(FEEDBACK.name, [record])

    parts.process.new_key = await asyncio.to_thread(keys.bootstrap, parts.settings.bootstrap_key)
    parts.process.services = Services(
        settings=parts.settings, clock=parts.clock, data=parts.data, keys=keys, authenticator=Authenticator(keys),
        log=log, intake=intake, series=series, documents=documents, topology=topology, traces=traces,
        detect=detection, actions=actions, events=events, give_feedback=give_feedback,
        stage_health=parts.process.stage_health, ready=parts.process.ready, backends=parts.process.backend_states,
    )  # fmt: skip


async def _recent_spans(parts: Parts, log: Any) -> Any:
    """The ring of this process, filled from the topic: spans of half an hour need no server."""
    from headspring.knowledge.traces.ring import RingTraceStore
    from headspring.knowledge.writers import TraceWriter

    ring = RingTraceStore(None)
    engine = await parts.kafka_engine(log)
    since_ns = parts.clock.now_ns() - _SPANS_S * NS_PER_S
    engine.add(lambda: TraceWriter(ring), shared=False, since_ns=since_ns)
    return ring


_ROLES: Mapping[str, Callable[[Parts], Awaitable[None]]] = {
    "ingestion": _ingestion, "windows": _windows, "detect": _detect, "correlate": _correlate,
    "diagnose": _diagnose, "act": _act, "store": _store, "gateway": _gateway,
}  # fmt: skip
