"""Telemetry of an installation as it came in: recorded once, played to every shape of the platform.

A recording holds what senders sent (samples, their series, spans, logs, changes, alerts of others) and nothing that the
platform made of it: what is derived from spans or found by detection is made anew by whoever plays it.
"""

from __future__ import annotations

import heapq
import lzma
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Alert
from headspring.proto.semantics import DERIVED_METRICS
from headspring.proto.telemetry import Change, LogBatch, MetricBatch, SeriesDescriptor, SpanBatch
from headspring.proto.topics import ALERTS, CHANGES, LOGS, METRICS, SERIES, SHARD_SHIFT, SPANS, record_key, series_key
from headspring.streaming.log.port import EventLog, Record

TOPICS = (SERIES.name, METRICS.name, SPANS.name, LOGS.name, CHANGES.name, ALERTS.name)
_OWN_ALERTS = "detect."
_HEAD = struct.Struct("<BqII")
"""Number of the topic, time, bytes of the key, bytes of the value."""
_GRID_NS = 60 * NS_PER_S
"""Times move by whole ones of these, so that panes and buckets hold what they held."""
Played = tuple[str, Record]
"""Topic and record; a recording is a sequence of them in the order of their times."""


async def from_log(log: EventLog) -> list[Played]:
    """What senders sent, of all that an installation's event log holds."""
    raw = {topic: await _all(log, topic) for topic in TOPICS}
    derived = {
        found.series_id
        for found in (codec.decode(SeriesDescriptor, record.value) for record in raw[SERIES.name])
        if found.name in DERIVED_METRICS
    }
    kept = [[(topic, record) for record in records if _sent(topic, record, derived)] for topic, records in raw.items()]
    return list(heapq.merge(*(_in_order(one) for one in kept), key=lambda played: played[1].time_ns))


def _sent(topic: str, record: Record, derived: set[int]) -> bool:
    if topic == SERIES.name:
        return codec.decode(SeriesDescriptor, record.value).series_id not in derived
    if topic == METRICS.name:
        return not set(codec.decode(MetricBatch, record.value).series_id.tolist()) <= derived
    return topic != ALERTS.name or not codec.decode(Alert, record.value).source.startswith(_OWN_ALERTS)


def _in_order(records: Iterable[Played]) -> Iterator[Played]:
    """Stamps may step back by a little; the order is the log's."""
    last_ns = 0
    for topic, record in records:
        last_ns = max(last_ns, record.time_ns)
        yield topic, replace(record, time_ns=last_ns)


async def _all(log: EventLog, topic: str) -> Sequence[Record]:
    consumer = await log.consumer(topic, "recording")
    found: list[Record] = []
    try:
        while consumer.lag() > 0:
            found += [stored.record for stored in await consumer.poll(max_records=2000, max_wait_s=0.1)]
    finally:
        await consumer.close()
    return found


def write(file: Path, recording: Iterable[Played]) -> None:
    with lzma.open(file, "wb", preset=6) as out:
        for topic, record in recording:
            out.write(_HEAD.pack(TOPICS.index(topic), record.time_ns, len(record.key), len(record.value)))
            out.write(record.key)
            out.write(record.value)


def read(file: Path) -> list[Played]:
    """What `write` wrote."""
    data = memoryview(lzma.decompress(file.read_bytes()))
    found: list[Played] = []
    at = 0
    while at < len(data):
        topic, time_ns, key_bytes, value_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        key, value = bytes(data[at : at + key_bytes]), bytes(data[at + key_bytes : at + key_bytes + value_bytes])
        at += key_bytes + value_bytes
        found.append((TOPICS[topic], Record(key=key, value=value, time_ns=time_ns)))
    return found


@dataclass(frozen=True, slots=True)
class _Shift:
    by_ns: int
    shards: int

    def records(self, topic: str, record: Record) -> Iterator[Record]:
        time_ns = record.time_ns + self.by_ns
        if topic == SERIES.name:
            described = codec.decode(SeriesDescriptor, record.value)
            key = series_key(described.tenant, described.series_id, self.shards)
            yield Record(key=key, value=record.value, time_ns=time_ns)
        elif topic == METRICS.name:
            for batch in self._shards(codec.decode(MetricBatch, record.value), time_ns):
                yield Record(key=record_key(batch.tenant, batch.shard), value=codec.encode(batch), time_ns=time_ns)
        else:
            yield Record(key=record.key, value=self._moved(topic, record.value), time_ns=time_ns)

    def _shards(self, batch: MetricBatch, time_ns: int) -> Iterator[MetricBatch]:
        shard_of = ((batch.series_id >> np.uint64(SHARD_SHIFT)) % np.uint64(self.shards)).astype(np.int64)
        for shard in np.unique(shard_of).tolist():
            mine = shard_of == shard
            yield replace(
                batch, shard=shard, received_ns=time_ns, series_id=batch.series_id[mine],
                time_ns=batch.time_ns[mine] + self.by_ns, value=batch.value[mine], kind=batch.kind[mine],
            )  # fmt: skip

    def _moved(self, topic: str, value: bytes) -> bytes:
        if topic == SPANS.name:
            spans = codec.decode(SpanBatch, value)
            moved = tuple(replace(span, start_ns=span.start_ns + self.by_ns) for span in spans.spans)
            return codec.encode(replace(spans, received_ns=spans.received_ns + self.by_ns, spans=moved))
        if topic == LOGS.name:
            logs = codec.decode(LogBatch, value)
            lines = tuple(replace(line, time_ns=line.time_ns + self.by_ns) for line in logs.records)
            return codec.encode(replace(logs, received_ns=logs.received_ns + self.by_ns, records=lines))
        if topic == CHANGES.name:
            change = codec.decode(Change, value)
            return codec.encode(replace(change, time_ns=change.time_ns + self.by_ns))
        alert = codec.decode(Alert, value)
        ends_ns = alert.ends_ns + self.by_ns if alert.ends_ns else 0
        return codec.encode(replace(alert, starts_ns=alert.starts_ns + self.by_ns, ends_ns=ends_ns))


def part(recording: Sequence[Played], low_s: float, high_s: float) -> list[Played]:
    """Seconds of a recording, from its beginning; series are described whatever the part."""
    first_ns = recording[0][1].time_ns
    low, high = (first_ns + round(at * NS_PER_S) for at in (low_s, high_s))
    earlier = [
        (topic, replace(record, time_ns=low))
        for topic, record in recording
        if topic == SERIES.name and record.time_ns < low
    ]
    return [*earlier, *(played for played in recording if low <= played[1].time_ns < high)]


def prepared(recording: Sequence[Played], *, shards: int, end_ns: int = 0) -> list[Played]:
    """The recording as ingestion with `shards` shards would have published it.

    Args:
        end_ns: Where it is to end, unix nanoseconds: stores with a retention take what is recent. 0 leaves times alone.
    """
    by_ns = (end_ns - recording[-1][1].time_ns) // _GRID_NS * _GRID_NS if end_ns else 0
    shift = _Shift(by_ns, shards)
    return [(topic, moved) for topic, record in recording for moved in shift.records(topic, record)]
