"""The event log on a real Kafka: topics, what is told at start, loss of brokers, replay, schema versions, snapshots."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from tests.servers.kafka import ADMIN, Kafka, kafka
from tests.servers.kafka_old import old_kafka

from headspring.proto.clock import SystemClock
from headspring.proto.errors import ConfigError
from headspring.proto.topics import ALERTS, INCIDENTS, TOPICS
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.kafka.schema import Schema
from headspring.streaming.log.port import Record, StoredRecord
from headspring.streaming.testing import record, take, values

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

USER = ("headspring", "right")
SETTINGS = {"log.retention.check.interval.ms": "3600000", "log.initial.task.delay.ms": "3600000"}
"""Records of these tests are stamped as it suits them: retention must not look meanwhile."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka"), settings={**SETTINGS, "log.initial.task.delay.ms": "1000"}) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Users sign in, and may do what rules allow."""
    with kafka(tmp_path_factory.mktemp("guarded"), settings=SETTINGS, users=dict([USER])) as started:
        yield started


@pytest.fixture
def prefix() -> str:
    """Before the names of topics and groups: no other test uses them."""
    return f"test-{secrets.token_hex(4)}."


async def open_log(broker: Kafka, prefix: str, **options: Any) -> KafkaLog:
    options = {"partitions": 3, "replication": 1, "reads": ("incidents",), "writes": ("incidents",), **options}
    return await KafkaLog.open(KafkaConnection(broker.servers), clock=SystemClock(), prefix=prefix, **options)


def settings_of(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(10).items()}


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


async def test_topics_are_made_as_the_map_says(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix, partitions=4, reads=None, writes=None)
    admin = AdminClient({"bootstrap.servers": broker.servers})
    names = [prefix + topic.name for topic in TOPICS]
    described = admin.describe_topics(TopicCollection([*names, f"{prefix}headspring.state"]))
    assert {name: len(one.result(10).partitions) for name, one in described.items()} == dict.fromkeys(
        [*names, f"{prefix}headspring.state"], 4
    )
    for topic in TOPICS:
        found = settings_of(admin, prefix + topic.name)
        assert found["cleanup.policy"] == ("compact" if topic.compacted else "delete")
        assert int(found["max.message.bytes"]) > 24 * 1024 * 1024
        assert int(found["segment.ms"]) <= 6 * 3600 * 1000
        if not topic.compacted:
            assert int(found["retention.ms"]) == topic.retention / timedelta(milliseconds=1)
            assert int(found["segment.ms"]) * 6 <= int(found["retention.ms"])
    await log.close()
    again = await open_log(broker, prefix, partitions=4, reads=None, writes=None)  # finds nothing to complain about
    await again.close()


async def test_a_topic_that_is_otherwise_is_told_and_left_alone(broker: Kafka, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.servers})
    small = {"max.message.bytes": "1000000", "cleanup.policy": "delete"}
    for made in admin.create_topics(
        [NewTopic(f"{prefix}alerts", 5), NewTopic(f"{prefix}incidents", 3, config=small)]
    ).values():
        made.result(10)
    with pytest.raises(ConfigError) as told:
        await open_log(broker, prefix, reads=("alerts", "incidents"), writes=())
    text = one_line(told)
    for part in (
        f"{prefix}alerts has 5 partitions, wanted 3: set kafka.partitions to 5",
        f"{prefix}incidents has cleanup.policy delete, wanted compact",
        f"{prefix}incidents has max.message.bytes 1000000, wanted at least",
        "kafka-configs",
    ):
        assert part in text
    assert settings_of(admin, f"{prefix}incidents")["cleanup.policy"] == "delete"
    with pytest.raises(ConfigError, match=r"has 1 replicas, wanted 2.*has min.insync.replicas 1, wanted at least 2"):
        await open_log(broker, prefix, reads=("alerts",), writes=(), partitions=5, replication=2, min_insync=2)
    with pytest.raises(ConfigError, match=r"cannot be made with kafka.replication 3"):
        await open_log(broker, prefix, reads=("features",), writes=(), replication=3)


async def test_retention_follows_the_map(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix, reads=("alerts",), writes=())
    await log.close()
    admin = AdminClient({"bootstrap.servers": broker.servers})
    shorter = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, f"{prefix}alerts", incremental_configs=[shorter])
    admin.incremental_alter_configs([change])[change].result(10)
    log = await open_log(broker, prefix, reads=("alerts",), writes=())
    await log.close()
    wanted = str(round(ALERTS.retention.total_seconds() * 1000))
    assert settings_of(admin, f"{prefix}alerts")["retention.ms"] == wanted


async def test_a_compacted_topic_is_compacted(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix, partitions=1)
    for n in range(90):
        await log.append(INCIDENTS.name, [Record(key=b"k", value=secrets.token_bytes(2**20) + b"%d" % n, time_ns=1)])
    for key in ("gone", "k"):
        await log.append(INCIDENTS.name, [record("" if key == "gone" else "last", key=key)])
    deadline = time.monotonic() + 60
    while True:
        consumer = await log.consumer(INCIDENTS.name, f"reader-{time.monotonic_ns()}")
        left = await take(consumer, 92, wait_s=1.0)
        await consumer.close()
        if len(left) < 60 or time.monotonic() > deadline:
            break
        await asyncio.sleep(1.0)
    assert len(left) < 60, "nothing was compacted in a minute"
    assert left[-1].record.value == b"last"
    assert values(await log.latest_by_key(INCIDENTS.name)) == ["last"]
    consumer = await log.consumer(INCIDENTS.name, "lag")
    await take(consumer, len(left), wait_s=1.0)
    await consumer.poll(max_wait_s=1.0)
    assert (consumer.positions(), consumer.lag()) == ({0: 92}, 0)
    await log.close()


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        (KafkaConnection("127.0.0.1:1"), ("no Kafka answers at kafka.servers 127.0.0.1:1", "Connection refused")),
        (KafkaConnection("nowhere.invalid:9092"), ("nowhere.invalid:9092", "Failed to resolve")),
    ],
)
async def test_a_wrong_address_is_told_at_start(connection: KafkaConnection, words: tuple[str, ...]) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError) as told:
        await KafkaLog.open(connection, clock=SystemClock())
    assert time.monotonic() - began < 15
    for part in (*words, "start it, or correct kafka.servers"):
        assert part in one_line(told)


async def test_a_server_that_is_too_old_is_told_at_start(tmp_path: Path) -> None:
    with old_kafka(tmp_path) as servers, pytest.raises(ConfigError) as told:
        await KafkaLog.open(KafkaConnection(servers), clock=SystemClock(), partitions=1, replication=1)
    text = one_line(told)
    assert f"the Kafka at {servers} is too old" in text
    assert "wanted Kafka 2.8 or newer: upgrade it" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"servers": "kafka"}, r"kafka.servers has 'kafka'; wanted host:port"),
        ({"servers": "a:1, b:0"}, r"kafka.servers has 'b:0'"),
        ({"security_protocol": "TLS"}, r"kafka.security_protocol is 'TLS'; wanted one of PLAINTEXT, SSL"),
        ({"security_protocol": "SASL_SSL"}, r"kafka.sasl_mechanism is ''; SASL_SSL wants one of PLAIN"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u"},
            r"kafka.username and kafka.password are both wanted for SASL_SSL",
        ),
        ({"password": "p"}, r"kafka.security_protocol is PLAINTEXT, which does not sign in"),
        ({"ca_file": "/nowhere.pem"}, r"kafka.ca_file is /nowhere.pem, which is no file"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KafkaConnection(**{"servers": "kafka:9092", **settings})


def signed(broker: Kafka, username: str = USER[0], password: str = USER[1]) -> KafkaConnection:
    return KafkaConnection(
        broker.servers, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username=username, password=password
    )


async def test_a_wrong_password_is_told_at_start_and_not_repeated(guarded: Kafka) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError) as told:
        await KafkaLog.open(signed(guarded, password="wr0ng-one"), clock=SystemClock())
    assert time.monotonic() - began < 15
    text = one_line(told)
    assert "does not let kafka.username 'headspring' in by PLAIN" in text
    assert "correct kafka.username, kafka.password" in text
    assert "wr0ng-one" not in text + repr(signed(guarded, password="wr0ng-one"))


async def test_a_missing_sign_in_is_told_at_start(guarded: Kafka) -> None:
    with pytest.raises(ConfigError, match=r"no Kafka answers at .* over PLAINTEXT .* kafka.security_protocol"):
        await KafkaLog.open(KafkaConnection(guarded.servers), clock=SystemClock())


def allow(broker: Kafka, kind: ResourceType, name: str, *operations: AclOperation) -> None:
    admin = AdminClient(signed(broker, *ADMIN).config())
    rules = [
        AclBinding(kind, name, ResourcePatternType.PREFIXED, "User:headspring", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for made in admin.create_acls(rules).values():
        made.result(10)


async def test_missing_permissions_are_told_one_by_one(guarded: Kafka, prefix: str) -> None:
    made = await KafkaLog.open(
        signed(guarded, *ADMIN), clock=SystemClock(), prefix=prefix, partitions=1, replication=1,
        reads=("alerts",), writes=("incidents",),
    )  # fmt: skip
    await made.close()

    async def use() -> KafkaLog:
        return await KafkaLog.open(
            signed(guarded), clock=SystemClock(), prefix=prefix, partitions=1, replication=1, reads=("alerts",),
            writes=("incidents",),
        )  # fmt: skip

    began = time.monotonic()
    with pytest.raises(ConfigError) as told:
        await use()
    assert time.monotonic() - began < 15
    text = one_line(told)
    for part in (
        "User:headspring lacks permissions",
        f"Read on topic {prefix}alerts (or Create, if it is not there)",
        f"Write on topic {prefix}incidents",
        "kafka-acls --add --allow-principal User:headspring",
    ):
        assert part in text

    allow(guarded, ResourceType.TOPIC, f"{prefix}headspring.state", AclOperation.READ, AclOperation.WRITE)
    allow(guarded, ResourceType.TOPIC, f"{prefix}alerts", AclOperation.DESCRIBE)
    allow(guarded, ResourceType.TOPIC, f"{prefix}incidents", AclOperation.READ)
    with pytest.raises(ConfigError) as told:
        await use()
    text = one_line(told)
    assert f"Read on topic {prefix}alerts, Write on topic {prefix}incidents" in text
    assert "headspring.state" not in text

    allow(guarded, ResourceType.TOPIC, f"{prefix}alerts", AclOperation.READ)
    allow(guarded, ResourceType.TOPIC, f"{prefix}incidents", AclOperation.WRITE)
    with pytest.raises(ConfigError, match="DescribeConfigs on topic"):
        await use()

    allow(guarded, ResourceType.TOPIC, prefix, AclOperation.DESCRIBE_CONFIGS)
    log = await use()
    await log.append("incidents", [record("a")])
    with pytest.raises(ConfigError, match=rf"Read on group {prefix}g;"):
        await log.consumer("alerts", "g")
    with pytest.raises(ConfigError, match=rf"Write on topic {prefix}alerts"):
        await log.append("alerts", [record("a")])
    allow(guarded, ResourceType.GROUP, prefix, AclOperation.READ)
    await (await log.consumer("alerts", "g")).commit({0: 0})
    await log.close()


async def test_replay_starts_at_a_time(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    start_ns = time.time_ns() // 10**9 * 10**9
    sent = [record(str(n), key=f"key {n % 7}", time_ns=start_ns + n * 10**9) for n in range(60)]
    for one in sent:
        await log.append("history", [one])
    consumer = await log.consumer("history", "g")
    await take(consumer, 60)
    await consumer.seek(await log.offsets_at("history", start_ns + 40 * 10**9))
    again = await take(consumer, 20)
    assert sorted(int(value) for value in values(again)) == list(range(40, 60))
    assert list(await consumer.poll(max_wait_s=0.3)) == []
    await consumer.seek(await log.offsets_at("history", start_ns + 3600 * 10**9))
    assert list(await consumer.poll(max_wait_s=0.3)) == []
    assert consumer.lag() == 0
    await consumer.seek(await log.offsets_at("history", 0))
    assert len(await take(consumer, 60)) == 60
    await log.close()


async def test_records_of_others_are_read_with_what_kafka_knows_of_them(broker: Kafka, prefix: str) -> None:
    log = await open_log(broker, prefix)
    await log.append("shared", [record("ours", time_ns=1_700_000_000_123_456_789)])
    producer = Producer({"bootstrap.servers": broker.servers})
    stamp_ms = 1_700_000_000_125
    producer.produce(
        f"{prefix}shared",
        None,
        "key",
        timestamp=stamp_ms,
        headers=[("plain", b"text"), ("none", None), ("odd", b"\xff")],
    )
    producer.flush(10)
    consumer = await log.consumer("shared", "g")
    got = {item.record.key: item for item in await take(consumer, 2)}
    assert got[b"k"].record == record("ours", time_ns=1_700_000_000_123_456_789)
    assert got[b"key"].record == Record(
        key=b"key", value=b"", time_ns=stamp_ms * 10**6, headers={"plain": "text", "none": "", "odd": "\ufffd"}
    )
    assert consumer.lag() == 0
    await log.close()


async def test_lag_notices_what_others_append_while_nothing_is_polled(broker: Kafka, prefix: str) -> None:
    log, other = await open_log(broker, prefix), await open_log(broker, prefix)
    consumer = await log.consumer("busy", "g")
    await log.append("busy", [record("1")])
    assert consumer.lag() == 1
    await other.append("busy", [record(str(n), key=str(n)) for n in range(20)])
    for _ in range(75):
        if consumer.lag() == 21:
            break
        await asyncio.sleep(0.2)
    assert log.stats().lag == {("g", "busy"): 21}
    await take(consumer, 21)
    assert consumer.lag() == 0
    await log.close()
    await other.close()


async def test_neighbouring_releases_read_each_other_and_newer_schemas_are_set_aside(
    broker: Kafka, prefix: str
) -> None:
    old = await open_log(broker, prefix, schema=Schema(version=4, written=4))
    upgraded = await open_log(broker, prefix, schema=Schema(version=5, written=4))
    new = await open_log(broker, prefix, schema=Schema(version=5, written=5))
    newest = await open_log(broker, prefix, schema=Schema(version=6, written=6))
    for name, log in (("old", old), ("upgraded", upgraded), ("new", new), ("newest", newest)):
        await log.append("mixed", [record(name)])

    async def read(log: KafkaLog, group: str) -> list[StoredRecord]:
        return await take(await log.consumer("mixed", group), 4)

    by_old, by_new, by_newest = await read(old, "old"), await read(new, "new"), await read(newest, "newest")
    assert values(by_old) == values(by_new) == ["old", "upgraded", "new", "newest"], "nothing is left out"
    assert [bool(item.unreadable) for item in by_old] == [False, False, True, True]
    assert by_old[2].unreadable == "schema 5 is newer than 4, the newest this release reads: upgrade this process"
    assert [bool(item.unreadable) for item in by_new] == [False, False, False, True]
    assert [bool(item.unreadable) for item in by_newest] == [True, True, False, False]
    assert "schema 4 is older than 5" in by_newest[0].unreadable
    assert all(item.record.headers == {} for item in by_old)
    for log in (old, upgraded, new, newest):
        await log.close()
    with pytest.raises(ConfigError, match=r"kafka.schema_written is 3; this release writes 4"):
        Schema(version=5, written=3)
