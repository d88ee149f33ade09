"""`kill -9` of the processes of a Faust app, twenty times and more: what they say in the end is what one that lives
would have said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.faust_kills import kill_over_and_over
from tests.servers.faust_process import INPUTS, OUTPUT
from tests.servers.kafka import kafka

from headspring.proto.clock import SystemClock
from headspring.proto.topics import DEAD_LETTER
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

KILLS = 20
PARTITIONS = 6


async def test_twenty_kills_lose_nothing_and_say_nothing_that_an_undisturbed_stage_would_not(tmp_path: Path) -> None:
    with kafka(tmp_path / "kafka") as broker:
        names = [*INPUTS, OUTPUT, DEAD_LETTER.name]
        log = await KafkaLog.open(
            KafkaConnection(broker.servers), clock=SystemClock(), partitions=PARTITIONS, replication=1, prefix="k.",
            reads=names, writes=names,
        )  # fmt: skip
        seen = await kill_over_and_over(log, broker.servers, tmp_path, prefix="k.", partitions=PARTITIONS, kills=KILLS)
        await log.close()
    print(seen)
    assert seen.kills == KILLS
    assert seen.sent > 1000
