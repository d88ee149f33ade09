"""Kafka's disk fills up: a role that starts says what to do, one that runs keeps what it took, and both go on alone.

What Kafka does without space: a broker whose only log directory cannot be written ends, and does not start again
before there is space. One with several goes on without the directory: its partitions have no leader until the broker
is started again.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.faults.collector import (
    LONGEST_ANSWER_S,
    Collector,
    Senders,
    check_topics,
    collector,
)
from tests.faults.disks import Disk, small_disk
from tests.servers import stack
from tests.servers.headspring import eventually
from tests.servers.kafka import Kafka, kafka
from tests.servers.postgres import postgres
from tests.servers.process import free_port, healthy, running

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

AWAY_S = 15.0
"""How long senders go on after the disk is full."""
_NEXT_TRY = re.compile(r"; next try in (\d+) s$")


@contextmanager
def starting(folder: Path, servers: str, *, tries: int) -> Iterator[tuple[Path, str]]:
    """The role `windows`, once it has said so many times that it tries again; its output and its readiness."""
    folder.mkdir()
    place = stack.configure(folder, {"kafka": servers, "replication": 1, "partitions": 4})
    health, log = free_port(), folder / "windows.log"
    argv = [
        str(Path(sys.executable).with_name("headspring")), "run", "windows", "--config", place["config"],
        "--data", str(folder / "data"), "--health-port", str(health),
    ]  # fmt: skip

    def tried() -> bool:
        return log.read_text().count("; next try in ") >= tries

    with running(argv, health=tried, log=log, timeout_s=240.0):
        yield log, f"http://127.0.0.1:{health}/readyz"


def told(log: Path) -> list[str]:
    """What the role said of its tries, after a look at the form of it: lines for people, with growing pauses."""
    lines = log.read_text().splitlines()
    assert not any("Traceback" in line for line in lines)
    found = [line for line in lines if _NEXT_TRY.search(line)]
    waits_s = [int(match[1]) for line in found if (match := _NEXT_TRY.search(line))]
    assert waits_s == sorted(waits_s), "pauses do not grow"
    assert waits_s[0] <= 2 < waits_s[-1]
    return found


def test_a_role_that_starts_while_a_full_disk_keeps_the_broker_down_says_where_to_look_and_waits(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk") as disk, kafka(tmp_path / "kafka", place=disk.folder) as broker:
        disk.fill(0)
        eventually(lambda: broker.ended(1), bool, seconds=60)
        broker.kill9(1)
        with pytest.raises(RuntimeError, match="ended with 1"):
            broker.start(1)  # as whoever starts brokers does, over and over
        with starting(tmp_path / "role", broker.servers, tries=3) as (log, ready):
            for line in told(log):
                assert f"no Kafka answers at kafka.servers {broker.servers}" in line
                assert "a full disk" in line
            assert httpx2.get(ready, trust_env=False).json()["waits_for"] in told(log)[-1]
            disk.free(0)
            broker.start(1)
            eventually(lambda: healthy(ready), bool, seconds=90)
            assert "Traceback" not in log.read_text()


@pytest.fixture
def full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Disk, Kafka, Collector]]:
    """A disk, the broker that has it as its only one or beside another, and a role that writes to it."""
    with small_disk(tmp_path / "disk") as disk, postgres(tmp_path) as database:
        folders: dict[str, Any] = {request.param: disk.folder}
        with (
            kafka(tmp_path / "kafka", **folders) as broker,
            collector(tmp_path, broker.servers, database) as role,
        ):
            yield disk, broker, role


@pytest.mark.parametrize("full", ["place"], indirect=True, ids=["its only disk"])
def test_what_is_acknowledged_while_the_broker_dies_of_a_full_disk_is_on_kafka_afterwards(
    full: tuple[Disk, Kafka, Collector],
) -> None:
    disk, broker, role = full
    with Senders(role.url, role.key) as senders:
        eventually(senders.count, lambda taken: taken > 3000)
        disk.fill(0)
        eventually(lambda: broker.ended(1), bool, seconds=60)
        _keep_on(role, senders)
        disk.free(0)
        broker.kill9(1)
        broker.start(1)
        _all_there(role, senders)


@pytest.mark.parametrize("full", ["also"], indirect=True, ids=["one of two disks"])
def test_partitions_of_a_full_disk_wait_without_holding_up_senders_and_a_start_says_what_to_do(
    full: tuple[Disk, Kafka, Collector], tmp_path: Path
) -> None:
    disk, broker, role = full
    with Senders(role.url, role.key) as senders:
        eventually(senders.count, lambda taken: taken > 3000)
        disk.fill(0)
        _keep_on(role, senders)
        assert not broker.ended(1)
        with starting(tmp_path / "role", broker.servers, tries=3) as (log, ready):
            for line in told(log):
                assert f"on Kafka at {broker.servers}: of telemetry." in line
                assert "have no leader" in line
                assert "free or replace the disk and start that broker (again)" in line
            disk.free(0)
            broker.kill9(1)
            broker.start(1)
            eventually(lambda: healthy(ready), bool, seconds=90)
        _all_there(role, senders)


def _keep_on(role: Collector, senders: Senders) -> None:
    """Senders go on for a while; what they send goes to the spool."""
    before = senders.count()
    eventually(role.gauges, lambda found: bool(found["active"]), seconds=60)
    until = time.monotonic() + AWAY_S
    sizes = []
    while time.monotonic() < until:
        sizes.append(role.gauges()["size_bytes"])
        time.sleep(1.0)
    assert sizes[-1] == max(sizes) > 0
    assert senders.count() > before
    print(f"{senders.count() - before} samples and lines acknowledged on a full disk, {sizes[-1]:.0f} bytes of spool")


def _all_there(role: Collector, senders: Senders) -> None:
    began = time.monotonic()
    eventually(role.gauges, lambda found: not found["active"], seconds=120)
    drained_s = time.monotonic() - began
    eventually(role.ready, lambda state: state["status"] == "ok", seconds=60)
    senders.stop()
    for kind in (senders.metrics, senders.logs):
        assert not kind.refused, f"senders were refused: {kind.refused[:3]}"
        assert kind.slowest_s < LONGEST_ANSWER_S
    repeated = check_topics(role.servers, senders)
    print(f"{senders.count()} in all; the spool was empty {drained_s:.1f} s after the broker was back, "
          f"{len(repeated)} records twice on Kafka")  # fmt: skip
