"""The shapes that a recording is played to: in one process, on Kafka, and on Kafka with what Flink made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.equality.play import Line, Turn

from headspring.analytics.correlate.stage import CorrelateStage
from headspring.analytics.detect.stage import DetectStage
from headspring.analytics.diagnose.stage import DiagnoseStage
from headspring.knowledge.documents.port import DocumentStore
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.series.port import SeriesStore
from headspring.knowledge.topology.discovery import TopologyStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.port import TopologyGraph
from headspring.knowledge.traces.ring import RingTraceStore
from headspring.knowledge.writers import DocumentWriter, SeriesWriter, TraceWriter
from headspring.proto.clock import ManualClock, SystemClock
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import StoredRecord
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.windows.stage import WindowStage


@dataclass(frozen=True, slots=True)
class Stores:
    series: SeriesStore
    documents: DocumentStore
    topology: TopologyGraph
    traces: RingTraceStore


Make = Callable[[], Any]


class OnTheSecond(WindowStage):
    """Looks when the clock says so, and not with the first samples after a silence already: whether there was a silence
    depends on what else a process has to look at."""

    _taking = False

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        self._taking = True
        try:
            return await super().process(topic, records)
        finally:
            self._taking = False

    def _due(self) -> list[Outgoing]:
        return [] if self._taking else super()._due()


def turns_of(stores: Stores, start_ns: int, *, windows: bool) -> list[tuple[Turn, list[Make]]]:
    """Every stage from telemetry to diagnoses.

    Args:
        windows: False where features come from elsewhere.
    """
    fill, slide, detect, correlate, diagnose = (Turn(ManualClock(start_ns=start_ns)) for _ in range(5))
    turns: list[tuple[Turn, list[Make]]] = [
        (
            fill,
            [
                lambda: SeriesWriter(stores.series),
                lambda: TraceWriter(stores.traces),
                lambda: TopologyStage(stores.topology),
                lambda: DocumentWriter(stores.documents),
                lambda: SpanMetricsStage(clock=fill.clock),
            ],
        ),
        (detect, [lambda: DetectStage(clock=detect.clock)]),
        (correlate, [lambda: CorrelateStage(clock=correlate.clock, topology=stores.topology)]),
        (
            diagnose,
            [
                lambda: DiagnoseStage(
                    clock=diagnose.clock, topology=stores.topology, series=stores.series, traces=stores.traces,
                    documents=stores.documents,
                )
            ],
        ),
    ]  # fmt: skip
    if windows:
        turns.insert(0, (slide, [lambda: OnTheSecond(clock=slide.clock)]))
    return turns


@asynccontextmanager
async def embedded(folder: Path, start_ns: int) -> AsyncIterator[Line]:
    """What `headspring up` is made of, in a folder that is there."""
    log = await SegmentLog.open(folder / "log", clock=SystemClock())
    stores = Stores(
        series=await asyncio.to_thread(DuckDbSeriesStore, folder / "series.duckdb"),
        documents=SqliteDocumentStore(folder / "documents.db"),
        topology=EmbeddedTopology(folder / "topology.db"),
        traces=RingTraceStore(None),
    )
    turns = turns_of(stores, start_ns, windows=True)
    for turn, stages in turns:
        engine = LocalEngine(log, clock=turn.clock)
        for make in stages:
            engine.add(turn.counted(make()))
        turn.engines.append(engine)
    try:
        yield Line(log, [turn for turn, _ in turns])
    finally:
        for turn, _ in turns:
            await turn.engines[0].stop(drain_s=0.0)
        await log.close()
        for store in (stores.series, stores.documents, stores.topology):
            await asyncio.to_thread(store.close)


@asynccontextmanager
async def on_kafka(
    log: KafkaLog, stores: Stores, start_ns: int, *, partitions: int, windows: bool = True, processes: int = 2
) -> AsyncIterator[Line]:
    """What the roles are made of. The caller opens and closes log and stores.

    Args:
        partitions: As the log has; `processes` divides them.
        windows: As for `turns_of`.
        processes: Engines that share the partitions, as as many processes of a role would.
    """
    turns = turns_of(stores, start_ns, windows=windows)
    for turn, stages in turns:
        for _ in range(processes):
            # Nothing of what the machine does may end a session: with this clock nobody gets over it by waiting.
            engine = KafkaEngine(log, clock=turn.clock, session_s=60.0, heartbeat_s=0.5)
            for make in stages:
                engine.add(lambda make=make, turn=turn: turn.counted(make()))  # type: ignore[misc]
            turn.engines.append(engine)
    engines: list[KafkaEngine] = [engine for turn, _ in turns for engine in turn.engines]  # type: ignore[misc] # Kafka's

    def ready() -> bool:
        return all(len(of) == partitions // processes for engine in engines for of in engine.partitions().values())

    try:
        yield Line(log, [turn for turn, _ in turns], ready=ready)
    finally:
        await asyncio.gather(*(engine.stop(drain_s=0.0) for engine in engines))
