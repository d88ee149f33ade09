"""What would have happened: recorded telemetry through windows, detection and correlation, on a clock of its own.

Reads the event log of an installation that is not running, writes nothing to it, and needs as long as the
computing takes, not as long as the recording lasted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from headspring.analytics.correlate.stage import CorrelateConfig, CorrelateStage
from headspring.analytics.detect.stage import DetectConfig, DetectStage
from headspring.knowledge.topology.discovery import TopologyStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, ManualClock, SystemClock
from headspring.proto.detection import Alert
from headspring.proto.errors import ConfigError
from headspring.proto.incident import Incident
from headspring.proto.topics import ALERTS, CHANGES, FEATURES, INCIDENTS, METRICS, SERIES, SPANS
from headspring.streaming.engine.port import Outgoing, Stage
from headspring.streaming.log.port import EventLog, Record, StoredRecord
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.windows.stage import WindowStage

_RECORDED = (METRICS.name, SPANS.name, CHANGES.name, ALERTS.name)
_OWN_ALERTS = "detect."
"""Alerts that this platform found are found anew; those received from elsewhere are taken as they came."""
_TAIL_S = 120
"""Time after the last record, so that what is due then still happens."""
_BATCH = 500


async def replay(
    data: Path, *, detection: DetectConfig, settle_s: float, progress: Callable[[str], None] | None = None
) -> Sequence[Incident]:
    """Incidents, in order of opening, that the recording would give with these settings.

    Raises:
        ConfigError: the folder holds no event log, or belongs to a running installation.
    """
    if not (data / "log").is_dir():
        raise ConfigError(f"{data} holds no event log to replay; wanted the data folder of an installation")
    log = await SegmentLog.open(data / "log", clock=SystemClock())
    try:
        with TemporaryDirectory(prefix="headspring-replay-") as folder:
            topology = EmbeddedTopology(Path(folder) / "topology.db")
            try:
                return await _run(log, topology, detection, settle_s, progress)
            finally:
                topology.close()
    finally:
        await log.close()


async def _run(
    log: EventLog,
    topology: EmbeddedTopology,
    detection: DetectConfig,
    settle_s: float,
    progress: Callable[[str], None] | None,
) -> Sequence[Incident]:
    recorded = {name: await _all(log, name) for name in _RECORDED}
    moments = list(heapq.merge(*[_keyed(records) for records in recorded.values()], key=lambda item: item[:2]))
    if not moments:
        return []
    clock = ManualClock(start_ns=moments[0][0])
    line = _Line(
        [
            TopologyStage(topology),
            WindowStage(clock=clock),
            DetectStage(clock=clock, config=detection),
            CorrelateStage(clock=clock, topology=topology, config=CorrelateConfig(settle_s=settle_s)),
        ]
    )
    await line.take(await log.latest_by_key(SERIES.name))
    end_ns = moments[-1][0] + _TAIL_S * NS_PER_S
    place = 0
    while clock.now_ns() < end_ns:
        clock.advance(1.0)
        due: list[StoredRecord] = []
        while place < len(moments) and moments[place][0] <= clock.now_ns():
            due.append(moments[place][2])
            place += 1
        await line.take(due)
        await line.tick(clock.now_ns())
        if progress is not None and due and place % 1000 < len(due):
            progress(f"{place} of {len(moments)} records, {len(line.incidents)} incidents")
    return sorted(line.incidents.values(), key=lambda incident: (incident.opened_ns, incident.incident_id))


class _Line:
    """Stages one after another: what one puts out, those that read the topic take at once."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._offset = 0
        self.incidents: dict[str, Incident] = {}

    async def take(self, records: Sequence[StoredRecord]) -> None:
        for stage in self._stages:
            for topic in stage.inputs:
                mine = [stored for stored in records if stored.topic == topic]
                if mine:
                    await self._pass_on(await stage.process(topic, mine))

    async def tick(self, now_ns: int) -> None:
        for stage in self._stages:
            if stage.tick_s:
                await self._pass_on(await stage.tick(now_ns))

    async def _pass_on(self, outgoing: Sequence[Outgoing]) -> None:
        for out in outgoing:
            if out.topic == INCIDENTS.name:
                incident = codec.decode(Incident, out.value)
                self.incidents[incident.incident_id] = incident
        inner = [self._stored(out) for out in outgoing if out.topic in (FEATURES.name, ALERTS.name)]
        if inner:
            await self.take(inner)

    def _stored(self, out: Outgoing) -> StoredRecord:
        self._offset += 1
        record = Record(key=out.key, value=out.value, time_ns=out.time_ns, headers=out.headers)
        return StoredRecord(topic=out.topic, partition=0, offset=self._offset, record=record)


async def _all(log: EventLog, topic: str) -> Sequence[StoredRecord]:
    """Every record of a topic that was there when asked; nothing is committed."""
    ends = await log.end_offsets(topic)
    consumer = await log.consumer(topic, "replay")
    found: list[StoredRecord] = []
    try:
        while consumer.lag() > 0 and len(found) < sum(ends.values()):
            found += await consumer.poll(max_records=_BATCH, max_wait_s=0.1)
    finally:
        await consumer.close()
    if topic == ALERTS.name:
        return [one for one in found if not codec.decode(Alert, one.record.value).source.startswith(_OWN_ALERTS)]
    return found


def _keyed(records: Sequence[StoredRecord]) -> Iterator[tuple[int, int, StoredRecord]]:
    last_ns = 0
    for number, stored in enumerate(records):
        last_ns = max(last_ns, stored.record.time_ns)  # stamps may step back by a little; the order is the log's
        yield last_ns, number, stored
