"""Correlation on Faust and Kafka: the same incidents as in one process on the embedded log."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from tests.equality.play import Turn
from tests.servers.kafka import kafka

from headspring.analytics.correlate.stage import CorrelateStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, AlertStatus, Severity
from headspring.proto.incident import Incident, IncidentState
from headspring.proto.topics import ALERTS, DEAD_LETTER, INCIDENTS, partition_of, record_key
from headspring.streaming.engine.faust import FaustEngine
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import EventLog, Record
from headspring.streaming.log.segments import SegmentLog

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

START_NS = 1_000_000 * NS_PER_S
PARTITIONS = 4
TENANTS = [f"tenant-{number}" for number in range(9)]
CHAIN = [f"service:default/{letter}" for letter in "abcdef"]
"""Each calls the next."""


def chain() -> EmbeddedTopology:
    """The same for every tenant."""
    topology = EmbeddedTopology(None)
    edges = [Edge(caller=caller, callee=callee) for caller, callee in itertools.pairwise(CHAIN)]
    for tenant in TENANTS:
        topology.replace_configured(tenant, edges)
    return topology


class Engine(Protocol):
    async def start(self) -> None: ...
    async def drain(self, timeout_s: float) -> bool: ...
    async def stop(self, *, drain_s: float = 2.0) -> None: ...


def alerts(seed: int) -> list[list[Alert]]:
    """Rounds of five seconds: alerts of two faults in each tenant that spread to callers, repeat, and end."""
    chance = random.Random(seed)
    rounds: list[list[Alert]] = [[] for _ in range(12)]
    for tenant in TENANTS:
        for fault, (origin, start) in enumerate(((chance.randrange(3, 6), 0), (chance.randrange(6), 6))):
            for depth in range(chance.randint(1, 4)):
                if origin - depth < 0:
                    break
                name = f"errors-{fault}-{depth}"
                first = start + min(depth, 2)
                alert = Alert(
                    alert_id=f"al-{tenant}-{name}", tenant=tenant, fingerprint=name, entity=CHAIN[origin - depth],
                    name=name, starts_ns=START_NS + (first * 5 + depth) * NS_PER_S, source="detect.basic",
                    metric=semantics.SERVICE_ERROR_RATIO, severity=chance.choice(list(Severity)[1:]),
                )  # fmt: skip
                rounds[first].append(alert)
                rounds[first + 1].append(replace(alert, severity=Severity.CRITICAL))
                ended_ns = alert.starts_ns + 10 * NS_PER_S
                rounds[first + 3].append(replace(alert, status=AlertStatus.RESOLVED, ends_ns=ended_ns))
    return rounds


async def incidents(log: EventLog) -> dict[tuple[str, str], Incident]:
    """The newest version of each, without its number: how often one is published depends on how alerts arrive."""
    found = [codec.decode(Incident, item.record.value) for item in await log.latest_by_key(INCIDENTS.name)]
    return {(one.tenant, one.incident_id): replace(one, version=0) for one in found}


async def run(log: EventLog, engine: Engine, turn: Turn) -> dict[tuple[str, str], Incident]:
    """Feeds all rounds; the incidents once all have ended."""
    await engine.start()
    clock = turn.clock
    for round_ in alerts(seed=7):
        records = [
            Record(key=record_key(one.tenant, one.entity), value=codec.encode(one), time_ns=clock.now_ns())
            for one in round_
        ]
        await log.append(ALERTS.name, records)
        assert await engine.drain(60)
        await seconds(turn, 5)
    await seconds(turn, 30)
    async with asyncio.timeout(60):
        found = await incidents(log)
        while any(one.state not in (IncidentState.RESOLVED, IncidentState.MERGED) for one in found.values()):
            await asyncio.sleep(0.2)
            found = await incidents(log)
    await engine.stop()
    return found


async def seconds(turn: Turn, count: int) -> None:
    """Time passes, and every stage has had its turn."""
    for _ in range(count):
        await turn.second()


async def test_the_same_alerts_make_the_same_incidents_on_faust_as_in_one_process(tmp_path: Path) -> None:
    topology = chain()

    def stage(turn: Turn) -> Callable[[], CorrelateStage]:
        def make() -> CorrelateStage:
            counted: CorrelateStage = turn.counted(CorrelateStage(clock=turn.clock, topology=topology))
            return counted

        return make

    turn = Turn(clock := ManualClock(start_ns=START_NS))
    embedded = await SegmentLog.open(tmp_path / "log", clock=clock)
    local = LocalEngine(embedded, clock=clock)
    local.add(stage(turn)())
    wanted = await run(embedded, local, turn)
    await embedded.close()

    turn = Turn(clock := ManualClock(start_ns=START_NS))
    with kafka(tmp_path / "kafka", settings={"log.retention.check.interval.ms": "3600000"}) as broker:
        names = [*CorrelateStage.inputs, INCIDENTS.name, DEAD_LETTER.name]
        log = await KafkaLog.open(
            KafkaConnection(broker.servers), clock=clock, partitions=PARTITIONS, replication=1, reads=names,
            writes=names,
        )  # fmt: skip
        engine = FaustEngine(log, clock=clock, app_id="t.correlate", data=tmp_path / secrets.token_hex(4))
        engine.add(stage(turn))
        found = await run(log, engine, turn)
        await log.close()
    keys = [record_key(tenant, CHAIN[0]) for tenant in TENANTS]
    assert len({partition_of(ALERTS.name, key, PARTITIONS) for key in keys}) > 2, "tenants of several partitions"
    assert {tenant for tenant, _ in wanted} == set(TENANTS)
    assert len(wanted) > len(TENANTS), "some tenants have two"
    assert found == wanted
