"""The map: every topic between stages, in flow order.

Stages meet only here. A topic says what its records are, how they are keyed, who writes, who reads
and how long they are kept; the embedded log and Kafka are both set up from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from headspring.proto.action import ActionEvent, DeadLetter, Feedback, ModelVersion
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
    partitions: int = 12
    """For Kafka; the embedded log has one."""


METRICS = Topic(
    name="telemetry.metrics", key="tenant, shard", message=MetricBatch,
    producers=("ingestion",), consumers=("streaming", "knowledge.series"), retention=timedelta(hours=6),
)  # fmt: skip
SERIES = Topic(
    name="telemetry.series", key="tenant, series id", message=SeriesDescriptor,
    producers=("ingestion",), consumers=("streaming", "analytics", "knowledge.series"),
    retention=timedelta(days=30), compacted=True,
)  # fmt: skip
LOGS = Topic(
    name="telemetry.logs", key="tenant, entity", message=LogBatch,
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
    name="features", key="tenant, shard", message=FeatureBatch,
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
DEAD_LETTER = Topic(
    name="dead-letter", key="source topic", message=DeadLetter,
    producers=("any",), consumers=("operators",), retention=timedelta(days=30),
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    METRICS, SERIES, LOGS, SPANS, CHANGES, FEATURES, ALERTS, INCIDENTS, DIAGNOSES, ACTIONS, FEEDBACK, MODELS,
    DEAD_LETTER,
)  # fmt: skip
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}


def record_key(*parts: str | int) -> bytes:
    """The bytes a record is keyed by; parts are joined by a character that ids never hold.

    >>> record_key("default", 3)
    b'default\\x1f3'
    """
    return "\x1f".join(str(part) for part in parts).encode()
