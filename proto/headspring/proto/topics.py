"""The map: every topic between stages, in flow order.

Stages meet only here. A topic says what its records are, how they are keyed, who writes, who reads
and how long they are kept; the embedded log and Kafka are both set up from this list.

Every topic has the same number of partitions, and equal leading parts of a key go to the same number in each: a
stage that reads several topics owns one number of all of them. Telemetry spreads by shard; incidents, and what makes
them, stay together by tenant, because correlation must see all of a tenant's alerts.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import timedelta

from headspring.proto.action import ActionEvent, Configuration, DeadLetter, Feedback, ModelVersion
from headspring.proto.detection import Alert, FeatureBatch
from headspring.proto.incident import Diagnosis, Incident
from headspring.proto.telemetry import Change, LogBatch, MetricBatch, SeriesDescriptor, SpanBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    name: str
    key: str
    """What the record key is made of, in words."""
    message: type
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    retention: timedelta
    """How long records stay; ignored where `compacted`."""
    compacted: bool = False
    """Keeps the latest record of each key for ever."""
    partitioned_by: int = 1
    """How many parts of the key, from the left, pick the partition: what must be seen together has them in common."""


METRICS = Topic(
    name="telemetry.metrics", key="tenant, shard", message=MetricBatch, partitioned_by=2,
    producers=("ingestion",), consumers=("streaming", "knowledge.series"), retention=timedelta(hours=6),
)  # fmt: skip
SERIES = Topic(
    name="telemetry.series", key="tenant, shard, series id", message=SeriesDescriptor, partitioned_by=2,
    producers=("ingestion",), consumers=("streaming", "analytics", "knowledge.series"),
    retention=timedelta(days=30), compacted=True,
)  # fmt: skip
LOGS = Topic(
    name="telemetry.logs", key="tenant, entity", message=LogBatch, partitioned_by=2,
    producers=("ingestion",), consumers=("analytics", "knowledge.documents"), retention=timedelta(hours=6),
)  # fmt: skip
SPANS = Topic(
    name="telemetry.spans", key="tenant, entity", message=SpanBatch,
    producers=("ingestion",), consumers=("analytics", "knowledge.topology"), retention=timedelta(hours=6),
)  # fmt: skip
CHANGES = Topic(
    name="telemetry.changes", key="tenant, entity", message=Change,
    producers=("ingestion",), consumers=("analytics.correlate", "analytics.diagnose"), retention=timedelta(days=30),
)  # fmt: skip
FEATURES = Topic(
    name="features", key="tenant, shard", message=FeatureBatch, partitioned_by=2,
    producers=("streaming",), consumers=("analytics.detect",), retention=timedelta(hours=1),
)  # fmt: skip
ALERTS = Topic(
    name="alerts", key="tenant, entity", message=Alert,
    producers=("analytics.detect", "ingestion"), consumers=("analytics.correlate",), retention=timedelta(days=30),
)  # fmt: skip
INCIDENTS = Topic(
    name="incidents", key="tenant, incident", message=Incident,
    producers=("analytics.correlate", "action"),
    consumers=("analytics.diagnose", "action", "gateway", "knowledge.documents"),
    retention=timedelta(days=400), compacted=True,
)  # fmt: skip
DIAGNOSES = Topic(
    name="diagnoses", key="tenant, incident", message=Diagnosis,
    producers=("analytics.diagnose",), consumers=("action", "gateway", "analytics.correlate"),
    retention=timedelta(days=400), compacted=True,
)  # fmt: skip
ACTIONS = Topic(
    name="actions", key="tenant, run", message=ActionEvent,
    producers=("action",), consumers=("gateway", "analytics.correlate", "models"), retention=timedelta(days=400),
)  # fmt: skip
FEEDBACK = Topic(
    name="feedback", key="tenant, subject", message=Feedback,
    producers=("gateway", "action"), consumers=("models", "analytics"), retention=timedelta(days=400),
)  # fmt: skip
MODELS = Topic(
    name="models", key="tenant, model", message=ModelVersion,
    producers=("models",), consumers=("analytics",), retention=timedelta(days=400), compacted=True,
)  # fmt: skip
CONFIGURATION = Topic(
    name="configuration", key="name", message=Configuration,
    producers=("gateway",), consumers=("analytics.detect", "gateway"), retention=timedelta(days=400), compacted=True,
)  # fmt: skip
DEAD_LETTER = Topic(
    name="dead-letter", key="source topic", message=DeadLetter,
    producers=("any",), consumers=("operators",), retention=timedelta(days=30),
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    METRICS, SERIES, LOGS, SPANS, CHANGES, FEATURES, ALERTS, INCIDENTS, DIAGNOSES, ACTIONS, FEEDBACK, MODELS,
    CONFIGURATION, DEAD_LETTER,
)  # fmt: skip
_SEPARATOR = "\x1f"
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}


SHARD_SHIFT = 32
"""Bits of a series id that say nothing of its shard."""


def record_key(*parts: str | int) -> bytes:
    """The bytes a record is keyed by; parts are joined by a character that ids never hold.

    >>> record_key("default", 3)
    b'default\\x1f3'
    """
    return _SEPARATOR.join(str(part) for part in parts).encode()


def shard_of(series_id: int, shards: int) -> int:
    """Which shard a series belongs to: by the upper half of its id, which series that are judged together share.

    >>> shard_of(0x2_0000000A, 4)
    2
    """
    return (series_id >> SHARD_SHIFT) % shards


def series_key(tenant: str, series_id: int, shards: int = 1) -> bytes:
    """Key of a descriptor on `telemetry.series`: beside the samples of its series.

    >>> series_key("default", 0x2_0000000A, 4)
    b'default\\x1f2\\x1f000000020000000a'
    """
    return record_key(tenant, shard_of(series_id, shards), f"{series_id:016x}")


def partition_of(topic: str, key: bytes, partitions: int) -> int:
    """Which of `partitions` a record belongs to: by hash of the tenant, moved on by its shard.

    Shards follow one another, so that as many shards as partitions use every partition once. A key of a topic that is
    not in the map picks by the whole of it. Stable over processes and versions: changing it would reorder keys.

    >>> [partition_of("telemetry.metrics", record_key("default", shard), 4) for shard in range(4)]
    [3, 0, 1, 2]
    """
    known = BY_NAME.get(topic)
    parts = key.split(_SEPARATOR.encode())[: known.partitioned_by] if known else [key]
    place = zlib.crc32(parts[0])
    for part in parts[1:]:
        place += int(part) if part.isdigit() else zlib.crc32(part)
    return place % partitions
