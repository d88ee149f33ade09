"""What roles are opened with."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.gateway.runtime.config import resolve
from headspring.gateway.runtime.parts import Parts
from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.proto.clock import SystemClock


@pytest.mark.parametrize(("kafka_prefix", "prefix"), [("", "headspring"), ("ours.", "ours"), ("ours", "ours")])
def test_a_prefix_of_topics_makes_one_that_indices_can_have(tmp_path: Path, kafka_prefix: str, prefix: str) -> None:
    parts = Parts("store", resolve(flags={"data": str(tmp_path), "kafka_prefix": kafka_prefix}), SystemClock())
    assert ElasticsearchSettings(urls=("http://127.0.0.1:9200",), prefix=parts.prefix).prefix == prefix
