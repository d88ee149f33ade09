"""The window job as SQL text and configuration, made from settings. Needs neither Flink nor its Python package.

`payload` is all that the job script gets: it runs in Flink's own environment and knows nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspring.proto.errors import ConfigError
from headspring.proto.topics import FEATURES, METRICS
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.schema import VERSION as SCHEMA_VERSION

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"
RECEIVED, EVENT = "received", "event"
CLOCKS = (RECEIVED, EVENT)
GUARANTEES = (EXACTLY_ONCE, AT_LEAST_ONCE)
JOB = "headspring-windows"
"""Usual name of the job."""
MAX_PARALLELISM = 128
"""Key groups of the state: fixed for the life of a job's savepoints, so it is not a setting."""
_LOGIN = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowJob:
    """Everything that makes the job what it is. Lengths in seconds of event time unless said otherwise.

    Raises:
        ConfigError: a setting cannot be used; says what it takes.
    """

    kafka: KafkaConnection
    prefix: str = ""
    """Put before every topic and group."""
    name: str = JOB
    """With the prefix, name of the job at Flink, of its consumer group and of its transactions."""
    window_s: float = 300.0
    pane_s: float = 10.0
    """Panes divide the window, which slides by them."""
    slide_s: float = 1.0
    """How often a series with new samples is looked at; divides the pane."""
    lateness_s: float = 2.0
    """A sample older than its own series' newest by this much is dropped and counted."""
    clock: str = RECEIVED
    """What moves watermarks: `received`, when ingestion got a batch, or `event`, the samples' own times. Panes and
    lateness are of the samples' own times either way. By `event`, the slowest sender holds everybody's looks up."""
    watermark_s: float = 0.5
    """How far behind its newest row a partition is waited for. What comes later counts in the next look."""
    idle_s: float = 3.0
    """When time stands still for so long by the machine's clock, because of a silent partition or because of silence
    everywhere, looks go on without waiting; 0: they wait."""
    checkpoint_s: float = 2.0
    """By the machine's clock. With `exactly-once`, features become readable with a checkpoint."""
    guarantee: str = EXACTLY_ONCE
    """`exactly-once`: Kafka transactions. `at-least-once`: features at once, some of them again after a failure."""
    transaction_timeout_s: float = 900.0
    """By the machine's clock: longest time a job may be down without losing what it had not committed."""
    parallelism: int = 1
    rows_per_record: int = 8192
    """Most series in one feature batch: 88 bytes each, and Kafka takes 1 MB as it is set up by default."""
    forget_s: float = 3600.0
    """A series that is silent for this long is forgotten."""

    def __post_init__(self) -> None:
        if not self.name or not all(char.isalnum() or char in "._-" for char in self.prefix + self.name):
            raise ConfigError(
                f"prefix and name are {self.prefix!r} and {self.name!r}; wanted letters, digits, dots and dashes"
            )
        if self.pane_s <= 0 or not _divides(self.pane_s, self.window_s):
            raise ConfigError(
                f"window_s is {self.window_s} and pane_s {self.pane_s}; wanted a multiple of pane_s above 0"
            )
        if self.slide_s < 0.001 or not _divides(self.slide_s, self.pane_s) or not _divides(0.001, self.slide_s):
            raise ConfigError(
                f"slide_s is {self.slide_s}; wanted whole milliseconds that divide pane_s ({self.pane_s}) evenly"
            )
        if not 0 <= self.lateness_s < self.window_s:
            raise ConfigError(f"lateness_s is {self.lateness_s}; wanted 0 to less than window_s ({self.window_s})")
        for name, value, low in (
            ("watermark_s", self.watermark_s, 0.0), ("idle_s", self.idle_s, 0.0),
            ("checkpoint_s", self.checkpoint_s, 0.1), ("forget_s", self.forget_s, self.window_s),
            ("transaction_timeout_s", self.transaction_timeout_s, 10 * self.checkpoint_s),
        ):  # fmt: skip
            if value < low:
                raise ConfigError(f"{name} is {value}; wanted {low:g} or more")
        if self.clock not in CLOCKS:
            raise ConfigError(f"clock is {self.clock!r}; wanted one of {', '.join(CLOCKS)}")
        if self.guarantee not in GUARANTEES:
            raise ConfigError(f"guarantee is {self.guarantee!r}; wanted one of {', '.join(GUARANTEES)}")
        if not 1 <= self.parallelism <= MAX_PARALLELISM:
            raise ConfigError(f"parallelism is {self.parallelism}; wanted 1 to {MAX_PARALLELISM}")
        if not 1 <= self.rows_per_record <= 65_536:
            raise ConfigError(f"rows_per_record is {self.rows_per_record}; wanted 1 to 65536")

    @property
    def group(self) -> str:
        """Name of the job at Flink and of its consumer group, and the start of its transactions' names."""
        return self.prefix + self.name


def metrics_table(job: WindowJob) -> str:
    """DDL of the samples: one row each out of every batch, watermark per partition by each row's own time."""
    options = {
        **_kafka(job),
        "topic": job.prefix + METRICS.name,
        "properties.client.id.prefix": f"{job.kafka.client_id}.{job.name}",
        "properties.group.id": job.group,
        "scan.startup.mode": "group-offsets",
        "properties.auto.offset.reset": "earliest",
        "scan.topic-partition-discovery.interval": "60 s",
        "value.format": "headspring-metrics",
        "value.headspring-metrics.clock": job.clock,
    }
    return f"""\
CREATE TEMPORARY TABLE samples (
  tenant STRING NOT NULL,
  shard BIGINT NOT NULL,
  series_id BIGINT NOT NULL,
  time_ns BIGINT NOT NULL,
  `value` DOUBLE NOT NULL,
  kind TINYINT NOT NULL,
  ts TIMESTAMP_LTZ(3) NOT NULL,
  WATERMARK FOR ts AS ts - {_interval(job.watermark_s)}
) WITH (
{_options(options)}
)"""


def features_table(job: WindowJob) -> str:
    """DDL of the feature batches, with key, partition and headers as the rest of Headspring writes them."""
    options = {
        **_kafka(job),
        "topic": job.prefix + FEATURES.name,
        "properties.client.id": f"{job.kafka.client_id}.{job.name}",
        "key.format": "raw",
        "key.fields": "record_key",
        "value.format": "headspring-features",
        "value.fields-include": "EXCEPT_KEY",
        "sink.partitioner": "headspring.flink.ShardPartitioner",
        "sink.delivery-guarantee": job.guarantee,
        "sink.transactional-id-prefix": job.group,
        # A few names over and over: the broker remembers each name for a week.
        "sink.transaction-naming-strategy": "pooling",
        "properties.transaction.timeout.ms": f"{_ms(job.transaction_timeout_s):d}",
        "properties.linger.ms": "20",
        "properties.compression.type": "lz4",
    }
    return f"""\
CREATE TEMPORARY TABLE features (
  record_key STRING NOT NULL,
  tenant STRING NOT NULL,
  shard BIGINT NOT NULL,
  window_end_ns BIGINT NOT NULL,
  window_ns BIGINT NOT NULL,
  emitted_ns BIGINT NOT NULL,
  series_id BYTES NOT NULL,
  `count` BYTES NOT NULL,
  mean BYTES NOT NULL,
  std BYTES NOT NULL,
  minimum BYTES NOT NULL,
  maximum BYTES NOT NULL,
  `first` BYTES NOT NULL,
  `last` BYTES NOT NULL,
  last_time_ns BYTES NOT NULL,
  recent_mean BYTES NOT NULL,
  recent_count BYTES NOT NULL,
  made TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
  headers MAP<STRING NOT NULL, BYTES> METADATA
) WITH (
{_options(options)}
)"""


INSERT = """\
INSERT INTO features
SELECT
  *,
  TO_TIMESTAMP_LTZ(emitted_ns / 1000000, 3),
  MAP['hs-schema', ENCODE('SCHEMA', 'UTF-8'), 'hs-time-ns', ENCODE(CAST(emitted_ns AS STRING), 'UTF-8')]
FROM batches""".replace("SCHEMA", str(SCHEMA_VERSION))


def configuration(job: WindowJob) -> dict[str, str]:
    """Flink's settings for this job; where it runs and what it starts from are told when it is submitted."""
    return {
        "pipeline.name": job.group,
        "parallelism.default": str(job.parallelism),
        "pipeline.max-parallelism": str(MAX_PARALLELISM),
        "pipeline.object-reuse": "true",
        "pipeline.auto-watermark-interval": "200 ms",
        "table.local-time-zone": "UTC",
        # The windows see to silent partitions; the source would take one that it has not read yet for silent.
        "table.exec.source.idle-timeout": "0 ms",
        # Names of their own instead of hashes of everything around them: a savepoint still fits when an option changes.
        "table.exec.uid.generation": "ALWAYS",
        "table.exec.uid.format": "<id>_<type>_<transformation>",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": f"{_ms(job.checkpoint_s):d} ms",
        "execution.checkpointing.timeout": "2 min",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
    }


def payload(job: WindowJob, *, jars: Sequence[Path], config: Mapping[str, str]) -> dict[str, Any]:
    """What the job script reads, as JSON: holds the password of Kafka.

    Args:
        jars: Ours and the connector's, as the machine that submits sees them.
        config: Flink settings besides `configuration`, which they override.
    """
    ns = 1_000_000
    return {
        "config": {
            **configuration(job), "pipeline.jars": ";".join(path.resolve().as_uri() for path in jars), **config,
        },
        "statements": [metrics_table(job), features_table(job)],
        "windows": {
            "samples": "samples",
            "view": "batches",
            "window_ns": _ms(job.window_s) * ns,
            "pane_ns": _ms(job.pane_s) * ns,
            "slide_ms": _ms(job.slide_s),
            "lateness_ns": round(job.lateness_s * 1e9),
            "rows_per_batch": job.rows_per_record,
            "delay_ms": _ms(job.watermark_s),
            "patience_ms": _ms(job.idle_s),
            "forget_ms": _ms(job.forget_s),
        },
        "insert": INSERT,
    }  # fmt: skip


def _kafka(job: WindowJob) -> dict[str, str]:
    """Options of the connector that reach and sign in to the cluster, as Kafka's Java clients want them."""
    kafka = job.kafka
    options = {
        "connector": "kafka",
        "properties.bootstrap.servers": kafka.servers,
        "properties.security.protocol": kafka.security_protocol,
    }
    if kafka.signs_in:
        options |= {
            "properties.sasl.mechanism": kafka.sasl_mechanism,
            "properties.sasl.jaas.config": (
                f"{_LOGIN[kafka.sasl_mechanism]} required username={_jaas(kafka.username)} "
                f"password={_jaas(kafka.password)};"
            ),
        }
    if kafka.ca_file:
        options |= {
            "properties.ssl.truststore.type": "PEM",
            "properties.ssl.truststore.certificates": Path(kafka.ca_file).read_text("ascii"),
        }
    return options


def _jaas(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _options(options: Mapping[str, str]) -> str:
    return ",\n".join(f"  {_literal(name)} = {_literal(value)}" for name, value in options.items())


def _literal(text: str) -> str:
    """A string of SQL.

    >>> _literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def _interval(seconds: float) -> str:
    """
    >>> _interval(90.5)
    "INTERVAL '0 00:01:30.500' DAY TO SECOND(3)"
    """
    minutes, ms = divmod(_ms(seconds), 60_000)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"INTERVAL '{days} {hour:02}:{minute:02}:{ms // 1000:02}.{ms % 1000:03}' DAY TO SECOND(3)"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _divides(part: float, whole: float) -> bool:
    times = round(whole / part)
    return times >= 1 and abs(times * part - whole) < 1e-9
