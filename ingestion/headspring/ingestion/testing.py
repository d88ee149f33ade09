"""For tests of ingestion and of what uses it: a small in-memory event log and builders of requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import SeriesRegistry
from headspring.ingestion.pipeline import Intake
from headspring.proto import codec
from headspring.proto.clock import ManualClock
from headspring.proto.errors import Unavailable
from headspring.proto.topics import BY_NAME
from headspring.streaming.log.port import Consumer, Record, StoredRecord

NOW_NS = 1_790_000_000_000_000_000
KEY = bytes(range(16))
T = TypeVar("T")


class MemoryLog:
    """Keeps records in lists; `full` makes it refuse, as a full disk does."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = defaultdict(list)
        self.order: list[str] = []
        self.full = False

    async def append(self, topic: str, records: Sequence[Record]) -> None:
        if topic not in BY_NAME:
            raise ValueError(f"{topic!r} is not a topic")
        if self.full:
            raise Unavailable("the disk is full", retry_after_s=2.5)
        self.records[topic].extend(records)
        self.order.append(topic)

    async def consumer(self, topic: str, group: str, *, latest: bool = False) -> Consumer:
        raise NotImplementedError

    async def latest_by_key(self, topic: str) -> Sequence[StoredRecord]:
        latest = {record.key: record for record in self.records[topic]}
        return [StoredRecord(topic=topic, partition=0, offset=i, record=r) for i, r in enumerate(latest.values())]

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return {0: len(self.records[topic])}

    async def close(self) -> None: ...

    def messages(self, kind: type[T], topic: str) -> list[T]:
        return [codec.decode(kind, record.value) for record in self.records[topic]]


def make_intake(
    *, limits: Limits | None = None, shards: int = 1, scan: bool = True
) -> tuple[Intake, MemoryLog, ManualClock]:
    log = MemoryLog()
    clock = ManualClock(start_ns=NOW_NS)
    limits = limits or Limits()
    registry = SeriesRegistry(key=KEY, limits=limits)
    return Intake(log, clock=clock, limits=limits, registry=registry, shards=shards, scan=scan), log, clock


def attributes(target: Any, **values: object) -> None:
    for name, value in values.items():
        pair = target.add(key=name.replace("__", "."))
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = str(value)


def gauge_request(values: Sequence[float], *, name: str = "queue.depth", service: str = "payment") -> Any:
    """One resource, one gauge, a data point with its own `worker` for each value, all at NOW_NS."""
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add()
    attributes(resource_metrics.resource.attributes, service__name=service, service__instance__id="i-1")
    scope_metrics = resource_metrics.scope_metrics.add()
    scope_metrics.scope.name = "meter"
    metric = scope_metrics.metrics.add(name=name, unit="{message}")
    for index, value in enumerate(values):
        point = metric.gauge.data_points.add(time_unix_nano=NOW_NS, as_double=value)
        attributes(point.attributes, worker=index, zone="a")
    return request
