"""The job that Flink gets: text and settings, made without Flink; and what is said when something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headspring.proto.errors import ConfigError
from headspring.proto.v1 import detection_pb2, telemetry_pb2
from headspring.streaming.engine.flink.rest import _reason
from headspring.streaming.engine.flink.sql import (
    INSERT,
    WindowJob,
    configuration,
    features_table,
    metrics_table,
    payload,
)
from headspring.streaming.engine.flink.submit import Environment, newest
from headspring.streaming.log.kafka.connection import KafkaConnection

JAVA = Path(__file__).resolve().parents[3] / "streaming" / "flink" / "java" / "headspring" / "flink"


def job(**settings: Any) -> WindowJob:
    return WindowJob(**{"kafka": KafkaConnection("127.0.0.1:9092"), **settings})


def columns(ddl: str) -> list[str]:
    """Names of the physical columns of a CREATE TABLE, in order."""
    body = ddl.partition("(\n")[2].partition("\n) WITH")[0]
    lines = [line.strip() for line in body.splitlines() if "METADATA" not in line]
    return [line.split()[0].strip("`") for line in lines if not line.startswith("WATERMARK")]


def java_columns(source: str) -> list[str]:
    """The names in `String[] COLUMNS = {…}` of one of our classes."""
    found = re.search(r"String\[\] COLUMNS = \{(.*?)\}", (JAVA / source).read_text(), re.DOTALL)
    assert found
    return re.findall(r'"(\w+)"', found[1])


def test_columns_are_the_same_in_sql_and_java() -> None:
    assert columns(metrics_table(job())) == java_columns("MetricBatch.java")
    assert columns(features_table(job())) == java_columns("FeatureBatch.java")


def test_columns_are_numbered_as_the_messages_fields() -> None:
    """The Java formats read and write field numbers: a changed .proto must change them too."""
    features = detection_pb2.FeatureBatch.DESCRIPTOR.fields
    assert [field.name for field in sorted(features, key=lambda field: field.number)] == java_columns(
        "FeatureBatch.java"
    )[1:]
    assert [field.number for field in sorted(features, key=lambda field: field.number)] == list(range(1, 17))
    source = (JAVA / "MetricBatch.java").read_text()
    numbers = {name.lower(): int(number) for name, number in re.findall(r"int F_(\w+) = (\d+);", source)}
    fields = telemetry_pb2.MetricBatch.DESCRIPTOR.fields
    assert numbers == {field.name: field.number for field in fields if field.name != "new_series"}


def test_settings_reach_statements_and_configuration() -> None:
    made = job(
        prefix="eu.", name="w", watermark_s=90.5, slide_s=0.5, lateness_s=3.0, idle_s=7.0, checkpoint_s=1.5,
        clock="event", guarantee="at-least-once", parallelism=3, rows_per_record=100, transaction_timeout_s=60,
    )  # fmt: skip
    samples, features = metrics_table(made), features_table(made)
    assert "WATERMARK FOR ts AS ts - INTERVAL '0 00:01:30.500' DAY TO SECOND(3)" in samples
    assert "'topic' = 'eu.telemetry.metrics'" in samples
    assert "'properties.group.id' = 'eu.w'" in samples
    assert "'value.headspring-metrics.clock' = 'event'" in samples
    assert "'topic' = 'eu.features'" in features
    assert "'sink.delivery-guarantee' = 'at-least-once'" in features
    assert "'properties.transaction.timeout.ms' = '60000'" in features
    config = configuration(made)
    assert config["execution.checkpointing.interval"] == "1500 ms"
    assert config["parallelism.default"] == "3"
    sent = payload(made, jars=[Path("/opt/a.jar"), Path("/opt/b.jar")], config={"rest.port": "1"})
    assert sent["config"]["pipeline.jars"] == "file:///opt/a.jar;file:///opt/b.jar"
    assert sent["config"]["rest.port"] == "1"
    assert sent["windows"] == {
        "samples": "samples", "view": "batches", "window_ns": 300 * 10**9, "pane_ns": 10 * 10**9, "slide_ms": 500,
        "lateness_ns": 3 * 10**9, "rows_per_batch": 100, "delay_ms": 90_500, "patience_ms": 7000,
        "forget_ms": 3_600_000,
    }  # fmt: skip
    assert sent["insert"] == INSERT
    json.dumps(sent)


def test_records_say_their_schema_and_time_as_others_do() -> None:
    from headspring.streaming.log.kafka.records import SCHEMA_HEADER, TIME_HEADER
    from headspring.streaming.log.kafka.schema import VERSION

    assert f"MAP['{SCHEMA_HEADER}', ENCODE('{VERSION}', 'UTF-8'), '{TIME_HEADER}'," in INSERT


def test_sign_in_reaches_the_clients_and_no_repr(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    made = job(
        kafka=KafkaConnection(
            "kafka:9093", security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", username="o'brien",
            password='pa"ss\\', ca_file=str(authority),
        )
    )  # fmt: skip
    for statement in (metrics_table(made), features_table(made)):
        assert "'properties.sasl.mechanism' = 'SCRAM-SHA-512'" in statement
        assert 'ScramLoginModule required username="o\'\'brien" password="pa\\"ss\\\\";\'' in statement, (
            "quotes of SQL are doubled, quotes and backslashes of JAAS are escaped"
        )
        assert "-----BEGIN CERTIFICATE-----" in statement
    assert "pa" + '"ss' not in repr(made)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pane_s": 7.0}, "window_s is 300.0 and pane_s 7.0; wanted a multiple of pane_s"),
        ({"slide_s": 3.0}, "slide_s is 3.0; wanted whole milliseconds that divide pane_s (10.0)"),
        ({"slide_s": 0.0003}, "slide_s is 0.0003"),
        ({"lateness_s": 300.0}, "lateness_s is 300.0; wanted 0 to less than window_s"),
        ({"watermark_s": -1.0}, "watermark_s is -1.0; wanted 0 or more"),
        ({"checkpoint_s": 0.0}, "checkpoint_s is 0.0; wanted 0.1 or more"),
        ({"transaction_timeout_s": 5.0}, "transaction_timeout_s is 5.0; wanted 20 or more"),
        ({"forget_s": 10.0}, "forget_s is 10.0; wanted 300 or more"),
        ({"guarantee": "once"}, "guarantee is 'once'; wanted one of exactly-once, at-least-once"),
        ({"clock": "wall"}, "clock is 'wall'; wanted one of received, event"),
        ({"parallelism": 0}, "parallelism is 0; wanted 1 to 128"),
        ({"rows_per_record": 0}, "rows_per_record is 0"),
        ({"prefix": "a'b"}, "wanted letters, digits, dots and dashes"),
        ({"name": ""}, "wanted letters, digits, dots and dashes"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        job(**settings)


def checkpoint(folder: Path, name: str, age: int) -> Path:
    import os

    made = folder / name
    made.mkdir(parents=True)
    (made / "_metadata").write_bytes(b"x")
    os.utime(made / "_metadata", (1_000_000 - age, 1_000_000 - age))
    return made


def test_the_newest_complete_checkpoint_is_taken(tmp_path: Path) -> None:
    checkpoint(tmp_path, "job1/chk-9", age=50)
    wanted = checkpoint(tmp_path, "job2/chk-4", age=10)
    checkpoint(tmp_path, "job2/chk-3", age=20)
    (tmp_path / "job2" / "chk-5").mkdir()  # begun, never finished
    assert newest(str(tmp_path)) == newest(tmp_path.as_uri()) == wanted.as_uri()
    assert newest(str(tmp_path / "job1")) == (tmp_path / "job1" / "chk-9").as_uri()
    assert newest(wanted.as_uri()) == wanted.as_uri()
    assert newest("s3://bucket/savepoint-1") == "s3://bucket/savepoint-1"
    with pytest.raises(ConfigError, match="wanted a folder with _metadata, or one of chk-N"):
        newest(str(tmp_path / "job2" / "chk-5"))


def test_an_environment_that_is_none_is_refused(tmp_path: Path) -> None:
    def touch(name: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    steps: list[tuple[Callable[[], None], str]] = [
        (lambda: None, "has no bin/python"),
        (lambda: touch("bin/python"), "has no headspring/job.py with jars beside it"),
        (lambda: touch("headspring/job.py"), "has no headspring/job.py with jars beside it"),
    ]
    for step, told in steps:
        step()
        with pytest.raises(ConfigError, match=re.escape(told)):
            Environment(tmp_path)
    touch("headspring/headspring-flink.jar")
    assert [jar.name for jar in Environment(tmp_path).jars] == ["headspring-flink.jar"]


TRACE = """\
org.apache.flink.util.FlinkException: Global failure triggered by OperatorCoordinator for 'Source: samples[1]'.
\tat org.apache.flink.runtime.operators.Holder.lambda$create$0(Holder.java:651)
\t... 3 more
Caused by: java.lang.RuntimeException: Failed to get metadata for topics [eu.telemetry.metrics].
\tat org.apache.flink.connector.kafka.Utils.get(Utils.java:47)
Caused by: java.util.concurrent.ExecutionException: org.apache.kafka.common.errors.UnknownTopicOrPartitionException: \
This server does not host this topic-partition.
\tat java.base/java.util.concurrent.CompletableFuture.reportGet(CompletableFuture.java:396)
Caused by: org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This server does not host this \
topic-partition.
"""


def test_a_stack_trace_becomes_one_line() -> None:
    assert _reason(TRACE) == (
        "RuntimeException: Failed to get metadata for topics [eu.telemetry.metrics].: "
        "UnknownTopicOrPartitionException: This server does not host this topic-partition."
    )
    assert _reason("") == "no reason given"
