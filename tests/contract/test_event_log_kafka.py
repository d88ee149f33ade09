"""The event log on Kafka keeps the contract of its port."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from tests.servers.kafka import Kafka, kafka

from headspring.proto.clock import SystemClock
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.testing import EventLogContract, MakeLog, MakeStatefulLog, StatefulLogContract

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    # The suite's records are stamped 1970: retention must not look while it runs.
    settings = {"log.retention.check.interval.ms": "3600000", "log.initial.task.delay.ms": "3600000"}
    with kafka(tmp_path_factory.mktemp("kafka"), settings=settings) as started:
        yield started


def opener(broker: Kafka, *, partitions: int) -> MakeStatefulLog:
    """Opens the same log again and again, under names that no other test uses."""
    prefix = f"test-{secrets.token_hex(4)}."
    return lambda: KafkaLog.open(
        KafkaConnection(broker.servers), clock=SystemClock(), partitions=partitions, replication=1, prefix=prefix,
        reads=("incidents",), writes=("incidents",),
    )  # fmt: skip


class TestKafkaLog(EventLogContract):
    """Several partitions: a record's place depends on its key."""

    @pytest.fixture
    def make_log(self, broker: Kafka) -> MakeLog:
        return opener(broker, partitions=3)


class TestKafkaLogWithOnePartition(EventLogContract):
    """As the embedded log: a topic has one order."""

    @pytest.fixture
    def make_log(self, broker: Kafka) -> MakeLog:
        return opener(broker, partitions=1)


class TestKafkaLogWithState(StatefulLogContract):
    @pytest.fixture
    def make_log(self, broker: Kafka) -> MakeStatefulLog:
        return opener(broker, partitions=3)
