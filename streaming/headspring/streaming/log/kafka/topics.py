"""Topics as the map says: made where missing, checked where there; of a topic that exists only retention is changed.

Compacted topics roll a segment every hour at least, since Kafka never compacts the segment it writes to, and are due
when a fifth of them is garbage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in __all__
    AclOperation,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicDescription,
)

from headspring.proto.errors import ConfigError, Unavailable
from headspring.proto.topics import Topic
from headspring.streaming.log.kafka.cluster import Cluster, each
from headspring.streaming.log.kafka.errors import TOO_OLD, forbidden, too_old, translate, words

_LOG = logging.getLogger(__name__)
OTHER_RETENTION = timedelta(days=30)
"""For topics that the map of topics does not name."""
TOMBSTONES = timedelta(days=1)
"""How long a deletion stays readable, so that a consumer that was away for a day still learns of it."""
READ_WITHIN = timedelta(minutes=1)
"""Who has read which snapshot counts has at least so long to read it, whatever its owner commits meanwhile."""
_SEGMENT_BYTES = 128 * 1024 * 1024
_COMPACTED_SEGMENT_BYTES = 32 * 1024 * 1024
_LONGEST_SEGMENT = timedelta(hours=6)
_SEGMENTS_PER_RETENTION = 6
"""Kafka drops whole segments: with these a record stays at most a sixth longer than it must."""
_VISIBLE_S = 20.0
"""For a new topic to be known to every broker, and to have its leaders."""
_SINCE_3_6: Mapping[str, str] = {"message.timestamp.after.max.ms": str(2**63 - 1)}
"""Kafka 4 refuses records stamped more than an hour ahead; one wrong clock must not stop what shares its batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a topic is to be."""

    name: str
    """Kafka's name of it."""
    partitions: int
    replication: int
    settings: Mapping[str, str]

    @property
    def compacted(self) -> bool:
        return self.settings["cleanup.policy"] == "compact"


def plan(
    name: str, topic: Topic | None, *, partitions: int, replication: int, min_insync: int, max_message_bytes: int
) -> Plan:
    """
    Args:
        name: Kafka's name of it.
        topic: None for one that is not in the map.
        max_message_bytes: Largest batch: largest record and headroom.
    """
    settings = {"max.message.bytes": str(max_message_bytes), "min.insync.replicas": str(min_insync)}
    if topic is not None and topic.compacted:
        return _compacted(name, partitions=partitions, replication=replication, settings=settings)
    retention = topic.retention if topic is not None else OTHER_RETENTION
    settings |= {
        "cleanup.policy": "delete",
        "retention.ms": _ms(retention),
        "segment.ms": _ms(min(retention / _SEGMENTS_PER_RETENTION, _LONGEST_SEGMENT)),
        "segment.bytes": str(_SEGMENT_BYTES),
    }
    return Plan(name=name, partitions=partitions, replication=replication, settings=settings)


def state_plan(name: str, *, partitions: int, replication: int, min_insync: int, max_message_bytes: int) -> Plan:
    """The topic of snapshots."""
    settings = {
        "max.message.bytes": str(max_message_bytes),
        "min.insync.replicas": str(min_insync),
        "min.compaction.lag.ms": _ms(READ_WITHIN),
    }
    return _compacted(name, partitions=partitions, replication=replication, settings=settings)


def _compacted(name: str, *, partitions: int, replication: int, settings: Mapping[str, str]) -> Plan:
    """A topic that keeps the newest record of each key."""
    return Plan(
        name=name, partitions=partitions, replication=replication,
        settings={
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.2",
            "segment.ms": _ms(timedelta(hours=1)),
            "segment.bytes": str(_COMPACTED_SEGMENT_BYTES),
            "delete.retention.ms": _ms(TOMBSTONES),
            **settings,
        },
    )  # fmt: skip


async def ensure(
    cluster: Cluster, plans: Sequence[Plan], *, reads: Collection[str] = (), writes: Collection[str] = ()
) -> None:
    """Every topic is there as planned, and may be read and written as told.

    Args:
        reads, writes: Kafka's names of the topics that this process reads and writes.

    Raises:
        ConfigError: a topic is otherwise and must be put right by a person, or a permission is missing.
        Unavailable: the cluster did not finish making them in time.
    """
    found = await _describe(cluster, plans)
    missing = [one for one in plans if one.name not in found]
    made: set[str] = set()
    if missing:
        made, refused = await _create(cluster, missing)
        if refused:
            raise forbidden(cluster.connection, *(_to_see(name, reads, writes) for name in refused))
        found |= await _await_visible(cluster, missing)
    await _check_age(cluster, plans[0])
    _check_permissions(cluster, found, reads=reads, writes=writes)
    there = [one for one in plans if one.name not in made]
    settings = await _settings(cluster, there)
    wrong = [text for one in there for text in _differences(one, found[one.name], settings[one.name])]
    if wrong:
        raise ConfigError(f"topics of Kafka at {cluster.connection.servers} are not as wanted: {'; '.join(wrong)}")
    await _set_retention(cluster, [one for one in there if _retention_differs(one, settings[one.name])])


async def _check_age(cluster: Cluster, of: Plan) -> None:
    """By a request that changes nothing: clients are told no server's version, only which requests it knows. Whatever
    else the server says of it is not about its age.

    Raises:
        ConfigError: it does not know how to change one setting of a topic and leave the others, as retention is set.
    """
    name = "max.message.bytes"
    entry = ConfigEntry(name, of.settings[name], incremental_operation=AlterConfigOpType.SET)
    answers = await each(
        lambda resources: cluster.admin.incremental_alter_configs(resources, validate_only=True),
        [ConfigResource(ResourceType.TOPIC, of.name, incremental_configs=[entry])], cluster.connection,
        doing="ask what the server knows",
    )  # fmt: skip
    for answer in answers.values():
        if isinstance(answer, KafkaError) and answer.code() in TOO_OLD:
            raise too_old(cluster.connection, "it knows no IncrementalAlterConfigs, which came with 2.3")


async def _describe(cluster: Cluster, plans: Iterable[Plan]) -> dict[str, TopicDescription]:
    """Those that are there and may be seen."""
    answers = await each(
        lambda names: cluster.admin.describe_topics(TopicCollection(names), include_authorized_operations=True),
        [one.name for one in plans], cluster.connection, doing="describe topics",
    )  # fmt: skip
    found: dict[str, TopicDescription] = {}
    for name, answer in answers.items():
        if not isinstance(answer, KafkaError):
            found[name] = answer
        elif answer.code() == KafkaError._BAD_MSG:
            # The client reads the answer of a broker before 2.3 as if it were a newer one.
            raise too_old(cluster.connection, "it cannot say what topics are like in the way of 2.3 and later")
        # A topic that may not be seen looks like one that is not there; making it will tell.
        elif answer.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            raise translate(answer, cluster.connection, doing=f"describe topic {name}")
    return found


def _to_see(name: str, reads: Collection[str], writes: Collection[str]) -> str:
    """Kafka does not tell whether a topic is missing or may not be seen."""
    uses = [use for use, names in (("Read", reads), ("Write", writes)) if name in names] or ["Describe"]
    return f"{' and '.join(uses)} on topic {name} (or Create, if it is not there)"


async def _create(cluster: Cluster, plans: Sequence[Plan]) -> tuple[set[str], list[str]]:
    """Makes topics; the names of those it made, and of those it may not make. Others were made by somebody else."""
    made: set[str] = set()
    refused: list[str] = []
    left = {one.name: one for one in plans}
    for optional in (_SINCE_3_6, {}):
        answers = await each(
            partial(_ask_to_make, cluster, left, optional), list(left), cluster.connection, doing="make topics"
        )
        for name, answer in answers.items():
            if isinstance(answer, KafkaError) and answer.code() == KafkaError.INVALID_CONFIG and optional:
                continue  # an older server, perhaps: once more without
            wanted = left.pop(name)
            if not isinstance(answer, KafkaError):
                made.add(name)
                _LOG.info("kafka topic made: topic=%s partitions=%d", name, wanted.partitions)
            elif answer.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                refused.append(name)
            elif answer.code() in (KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.POLICY_VIOLATION):
                raise ConfigError(
                    f"topic {name} cannot be made with kafka.replication {wanted.replication} and "
                    f"kafka.partitions {wanted.partitions}: {words(answer)}"
                )
            elif answer.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(answer, cluster.connection, doing=f"make topic {name}")
    return made, refused


def _ask_to_make(
    cluster: Cluster, plans: Mapping[str, Plan], optional: Mapping[str, str], names: Sequence[str]
) -> Mapping[str, Future[None]]:
    wanted = [plans[name] for name in names]
    answer: Mapping[str, Future[None]] = cluster.admin.create_topics(
        [NewTopic(one.name, one.partitions, one.replication, config={**one.settings, **optional}) for one in wanted]
    )
    return answer


async def _await_visible(cluster: Cluster, plans: Sequence[Plan]) -> dict[str, TopicDescription]:
    deadline_s = time.monotonic() + _VISIBLE_S
    while True:
        found = await _describe(cluster, plans)
        late = [
            one.name
            for one in plans
            if one.name not in found or any(part.leader is None for part in found[one.name].partitions)
        ]
        if not late:
            return found
        if time.monotonic() > deadline_s:
            raise Unavailable(
                f"topics {', '.join(late)} of Kafka at {cluster.connection.servers} cannot be seen, or have no leader, "
                f"{_VISIBLE_S:g} s after they were made"
            )
        await asyncio.sleep(0.1)


def _check_permissions(
    cluster: Cluster, found: Mapping[str, TopicDescription], *, reads: Collection[str], writes: Collection[str]
) -> None:
    missing: list[str] = []
    for name, topic in found.items():
        allowed = topic.authorized_operations
        if not allowed:  # the cluster does not say: every use will tell
            continue
        wanted = {AclOperation.READ: name in reads, AclOperation.WRITE: name in writes}
        missing += [
            f"{operation.name.title()} on topic {name}"
            for operation, needed in wanted.items()
            if needed and operation not in allowed
        ]
    if missing:
        raise forbidden(cluster.connection, *missing)


async def _settings(cluster: Cluster, plans: Sequence[Plan]) -> dict[str, dict[str, str]]:
    answers = await each(
        cluster.admin.describe_configs, [ConfigResource(ResourceType.TOPIC, one.name) for one in plans],
        cluster.connection, doing="read the settings of topics",
    )  # fmt: skip
    found: dict[str, dict[str, str]] = {}
    refused: list[str] = []
    for resource, answer in answers.items():
        if not isinstance(answer, KafkaError):
            found[resource.name] = {name: entry.value or "" for name, entry in answer.items()}
        elif answer.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            refused.append(f"DescribeConfigs on topic {resource.name}")
        else:
            raise translate(answer, cluster.connection, doing=f"read the settings of topic {resource.name}")
    if refused:
        raise forbidden(cluster.connection, *refused)
    return found


def _differences(wanted: Plan, found: TopicDescription, settings: Mapping[str, str]) -> list[str]:
    """What a person must put right, one sentence each."""
    wrong: list[str] = []
    name = wanted.name
    if len(found.partitions) != wanted.partitions:
        wrong.append(
            f"{name} has {len(found.partitions)} partitions, wanted {wanted.partitions}: set kafka.partitions to "
            f"{len(found.partitions)}, or move its records to a new topic (more partitions would part keys from their "
            "past)"
        )
    copies = min((len(part.replicas) for part in found.partitions), default=0)
    if copies < wanted.replication:
        wrong.append(
            f"{name} has {copies} replicas, wanted {wanted.replication}: add some with kafka-reassign-partitions, or "
            "lower kafka.replication"
        )
    if set(settings["cleanup.policy"].split(",")) != {wanted.settings["cleanup.policy"]}:
        wrong.append(
            f"{name} has cleanup.policy {settings['cleanup.policy']}, wanted {wanted.settings['cleanup.policy']}: set "
            "it with kafka-configs if the topic is ours, or choose another kafka.prefix"
        )
    wrong += [
        f"{name} has {setting} {settings[setting]}, wanted at least {wanted.settings[setting]}: raise it with "
        "kafka-configs"
        for setting in ("max.message.bytes", "min.insync.replicas")
        if int(settings[setting]) < int(wanted.settings[setting])
    ]
    return wrong


def _retention_differs(wanted: Plan, settings: Mapping[str, str]) -> bool:
    return not wanted.compacted and settings["retention.ms"] != wanted.settings["retention.ms"]


async def _set_retention(cluster: Cluster, plans: Sequence[Plan]) -> None:
    """The one setting that is ours to change: the map of topics says it, and no record moves by it."""
    changes = [
        ConfigResource(
            ResourceType.TOPIC, one.name,
            incremental_configs=[
                ConfigEntry(name, one.settings[name], incremental_operation=AlterConfigOpType.SET)
                for name in ("retention.ms", "segment.ms")
            ],
        )
        for one in plans
    ]  # fmt: skip
    answers = await each(
        cluster.admin.incremental_alter_configs, changes, cluster.connection, doing="set the retention of topics"
    )
    for resource, answer in answers.items():
        if not isinstance(answer, KafkaError):
            _LOG.info("retention of a topic was set: topic=%s", resource.name)
        elif answer.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            _LOG.warning(
                "retention of a topic is not as the map says, and AlterConfigs is not allowed: topic=%s", resource.name
            )
        else:
            raise translate(answer, cluster.connection, doing=f"set the retention of topic {resource.name}")


def _ms(span: timedelta) -> str:
    return str(round(span.total_seconds() * 1000))
