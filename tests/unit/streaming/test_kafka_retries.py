"""Which answers of a Kafka cluster are asked for again."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("confluent_kafka", reason="needs the extra `distributed`")

from confluent_kafka import KafkaError, KafkaException

from headspring.proto.errors import Unavailable
from headspring.streaming.log.kafka.cluster import retried
from headspring.streaming.log.kafka.connection import KafkaConnection

WHERE = KafkaConnection("127.0.0.1:1")


class Asked:
    """Fails with a code so many times."""

    def __init__(self, code: int, times: int) -> None:
        self._code, self._times = code, times
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise KafkaException(KafkaError(self._code))
        return "answer"


async def test_a_topic_that_a_broker_has_not_heard_of_yet_is_asked_for_again() -> None:
    ask = Asked(KafkaError._UNKNOWN_PARTITION, 3)
    assert await retried(ask, WHERE, doing="ask", news_s=5.0) == "answer"
    assert ask.calls == 4


async def test_a_topic_that_stays_away_is_told_in_the_end() -> None:
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match="the topic is gone"):
        await retried(Asked(KafkaError.UNKNOWN_TOPIC_OR_PART, 10_000), WHERE, doing="ask", news_s=0.3)
    assert time.monotonic() - began_s < 5.0


async def test_where_no_topic_can_be_new_it_is_told_at_once() -> None:
    ask = Asked(KafkaError.UNKNOWN_TOPIC_OR_PART, 1)
    with pytest.raises(Unavailable, match="the topic is gone"):
        await retried(ask, WHERE, doing="ask")
    assert ask.calls == 1


async def test_a_leader_that_moves_is_waited_for() -> None:
    ask = Asked(KafkaError.NOT_LEADER_FOR_PARTITION, 2)
    assert await retried(ask, WHERE, doing="ask") == "answer"
