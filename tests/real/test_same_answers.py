"""A recording of the demo shop gives the same features, alerts, incidents and diagnoses on every shape."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.equality import compare, recording

from headspring.streaming.log.kafka import fetch

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

RECORDING = Path(__file__).parents[1] / "equality" / "bad_deploy.rec"
"""200 seconds of half an hour that `python -m tests.equality.record` took: a bad deployment, taken back in the end."""


async def test_kafka_flink_and_real_stores_say_what_one_process_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FETCH_WAIT_MS", compare.FETCH_WAIT_MS)
    recorded = recording.prepared(recording.read(RECORDING), shards=compare.PARTITIONS, end_ns=time.time_ns())
    (tmp_path / "embedded").mkdir()
    (tmp_path / "servers").mkdir()
    told: list[str] = []
    with compare.servers(tmp_path / "servers", with_flink=True) as servers:
        found = await compare.compare(tmp_path / "embedded", servers, recorded, told.append)
    assert found == {"Kafka and kernel": [], "Kafka and Flink": []}, "\n".join(told)
