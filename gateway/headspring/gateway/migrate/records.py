"""The part that goes from log to log: what processes of the distributed shape read from Kafka when they start.

Descriptions of series (every stage needs them), settings, incidents and diagnoses (newest of each), and the spans of
the last half hour, which fill the rings. Alerts, logs and samples are in the stores; they are not put on topics
again, where detection and correlation would take them for news.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from headspring.analytics.detect.stage import DetectConfig
from headspring.gateway.detection import NAME, configuration_record
from headspring.gateway.migrate.part import Content, Digest
from headspring.knowledge.topology.discovery import TopologyStage
from headspring.proto import codec
from headspring.proto.action import Configuration
from headspring.proto.semantics import DERIVED_METRICS
from headspring.proto.telemetry import SeriesDescriptor
from headspring.proto.topics import CONFIGURATION, DIAGNOSES, INCIDENTS, SERIES, SPANS, series_key
from headspring.streaming.engine.runner import StatefulLog
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.port import EventLog, Record

COMPACTED = (SERIES.name, INCIDENTS.name, DIAGNOSES.name)
_HEADER = "headspring-migrated"
"""Offset of the record in the log it came from: what tells it from records that others wrote meanwhile."""
_BATCH = 500
_GROUP = "migrate"
Note = Callable[[str, int], None]


class RecordsPart:
    """One topic."""

    def __init__(
        self, topic: str, source: EventLog, target: StatefulLog, *, partitions: int, since_ns: int = 0
    ) -> None:
        """
        Args:
            partitions: Of the target; descriptions of series lie beside their samples there.
            since_ns: Older records stay behind, where the topic is not compacted.
        """
        self.name = f"topic {topic}"
        self._topic = topic
        self._source = source
        self._target = target
        self._partitions = partitions
        self._since_ns = since_ns

    async def copy(self, after: str, note: Note) -> None:
        done = int(after) if after else -1
        async for page in self._pages(done):
            await self._target.append(self._topic, [record for _, record in page])
            note(str(page[-1][0]), len(page))
        if self._topic == SPANS.name:
            # These were counted and drawn already, by the installation they come from.
            ends = await self._target.end_offsets(self._topic)
            for stage in (SpanMetricsStage.name, TopologyStage.name):
                await self._target.commit_with_state(stage, {self._topic: ends})

    async def source(self) -> Content:
        digest = Digest()
        async for page in self._pages(-1):
            digest.add_all(_item(record) for _, record in page)
        return digest.content()

    async def target(self) -> Content:
        """A page that was written twice, because of a crash in between, counts once."""
        digest = Digest()
        seen: set[str] = set()
        consumer = await self._target.consumer(self._topic, f"{_GROUP}-look")
        try:
            while consumer.lag() > 0:
                for stored in await consumer.poll(max_records=_BATCH, max_wait_s=5.0):
                    offset = stored.record.headers.get(_HEADER, "")
                    if offset and offset not in seen:
                        seen.add(offset)
                        digest.add(_item(stored.record))
        finally:
            await consumer.close()
        return digest.content()

    async def _pages(self, done: int) -> AsyncIterator[Sequence[tuple[int, Record]]]:
        """Records after an offset, as they are to be written."""
        if self._topic in COMPACTED:
            newest = [item for item in await self._source.latest_by_key(self._topic) if item.offset > done]
            for start in range(0, len(newest), _BATCH):
                yield [(item.offset, self._moved(item.record, item.offset)) for item in newest[start : start + _BATCH]]
            return
        consumer = await self._source.consumer(self._topic, _GROUP)
        try:
            while consumer.lag() > 0:
                records = await consumer.poll(max_records=_BATCH, max_wait_s=0.0)
                page = [
                    (item.offset, self._moved(item.record, item.offset))
                    for item in records
                    if item.offset > done and item.record.time_ns >= self._since_ns
                ]
                if page:
                    yield page
        finally:
            await consumer.close()

    def _moved(self, record: Record, offset: int) -> Record:
        key = record.key
        if self._topic == SERIES.name:
            known = codec.decode(SeriesDescriptor, record.value)
            # Metrics of spans are all of shard 0, others are spread by series.
            shards = 1 if known.name in DERIVED_METRICS else self._partitions
            key = series_key(known.tenant, known.series_id, shards)
        return Record(key=key, value=record.value, time_ns=record.time_ns, headers={_HEADER: str(offset)})


class SettingsPart:
    """Detection's settings: a file here, a record there."""

    name = "settings"

    def __init__(self, config: DetectConfig, target: EventLog, *, now_ns: int) -> None:
        self._record = configuration_record(config, actor="headspring migrate", time_ns=now_ns)
        self._target = target

    async def copy(self, after: str, note: Note) -> None:
        await self._target.append(CONFIGURATION.name, [self._record])
        note(NAME, 1)

    async def source(self) -> Content:
        digest = Digest()
        digest.add(_settings(self._record))
        return digest.content()

    async def target(self) -> Content:
        digest = Digest()
        for stored in await self._target.latest_by_key(CONFIGURATION.name):
            if stored.record.key == self._record.key:
                digest.add(_settings(stored.record))
        return digest.content()


def _item(record: Record) -> bytes:
    return record.key + b"\x00" + record.value


def _settings(record: Record) -> bytes:
    return codec.decode(Configuration, record.value).value.encode()
