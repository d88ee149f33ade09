"""The cable from a collector to Kafka is cut for a minute: senders notice nothing, nothing is lost or out of order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.cables import Cable, machine
from tests.faults.collector import LONGEST_ANSWER_S, Collector, Senders, check_topics, collector
from tests.servers.headspring import eventually
from tests.servers.kafka import kafka
from tests.servers.postgres import postgres

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

CUT_S = float(os.environ.get("HEADSPRING_CUT_S", "60"))
DRAINED_S = 60.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Collector, Cable]]:
    """The role on a machine at the end of two cables: Kafka is at the first, senders and PostgreSQL at the second."""
    with (
        machine() as far,
        kafka(tmp_path / "kafka", host=far.first.near) as broker,
        postgres(tmp_path, host=far.second.near) as database,
        collector(tmp_path, broker.servers, database, host=far.second.far, there=far.argv) as started,
    ):
        yield started, far.first


def test_a_cut_cable_to_kafka_costs_no_acknowledged_record_and_no_order(site: tuple[Collector, Cable]) -> None:
    collector, cable = site
    with Senders(collector.url, collector.key) as senders:
        eventually(senders.count, lambda taken: taken > 3000)
        assert collector.gauges() == {"active": 0, "size_bytes": 0, "waiting_records": 0}
        assert collector.ready()["status"] == "ok"

        before, began_ns = senders.count(), time.time_ns()
        cable.cut()
        sizes, told_s = _watch(collector)
        taken, at_peak = senders.count() - before, collector.gauges()
        on_disk = collector.on_disk()
        cable.mend()
        back, back_ns = time.monotonic(), time.time_ns()
        eventually(collector.gauges, lambda found: not found["active"], seconds=DRAINED_S)
        drained_s = time.monotonic() - back
        assert collector.gauges() == {"active": 0, "size_bytes": 0, "waiting_records": 0}
        assert not list(collector.spool.iterdir()), "a spool that was handed on is still on the disk"
        eventually(collector.ready, lambda state: state["status"] == "ok", seconds=30)
        after = senders.count()
        eventually(senders.count, lambda count: count > after + 1000)  # straight again
        senders.stop()

    for kind in (senders.metrics, senders.logs):
        assert not kind.refused, f"senders were refused: {kind.refused[:3]}"
        assert kind.slowest_s < LONGEST_ANSWER_S, "a sender would have given up"
    assert taken > before, "telemetry waited for Kafka"
    assert sizes[-1] == max(sizes) > sizes[len(sizes) // 2] > 0, f"the spool did not grow: {sizes}"
    assert on_disk >= sizes[-1], "what the metrics say is not on the disk"
    assert at_peak["waiting_records"] > 100

    repeated = check_topics(collector.servers, senders)
    assert all(began_ns - 1_000_000_000 <= received_ns <= back_ns for received_ns in repeated), (
        "a record is there twice that was not under way when the cable was cut or back"
    )
    print(
        f"cut for {CUT_S:.0f} s: {taken} samples and lines acknowledged meanwhile of {senders.count()}, none refused, "
        f"the slowest answer after {max(senders.metrics.slowest_s, senders.logs.slowest_s):.1f} s; told by health "
        f"after {told_s:.0f} s; spool at its peak {sizes[-1]:.0f} bytes, {at_peak['waiting_records']:.0f} records, "
        f"empty {drained_s:.1f} s after the cable was back; {len(repeated)} records twice on Kafka"
    )


def _watch(collector: Collector) -> tuple[list[float], float]:
    """The spool's sizes until the time is over, and after how many seconds health told that Kafka is away."""
    sizes: list[float] = []
    told_s, began = 0.0, time.monotonic()
    while time.monotonic() - began < CUT_S:
        state = collector.ready()
        kafka_state = state["backends"]["Kafka"]
        if not kafka_state["up"] and not told_s:
            told_s = time.monotonic() - began
            assert state["status"] == "degraded"
            assert "telemetry waits" in kafka_state["costs"]
            assert kafka_state["error"]
            assert "\n" not in kafka_state["error"]
        sizes.append(collector.gauges()["size_bytes"])
        time.sleep(1.0)
    assert told_s, "health did not tell that Kafka is away"
    return sizes, told_s
