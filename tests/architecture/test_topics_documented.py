"""The map of topics, its messages and the documentation say the same."""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from headspring.proto import codec
from headspring.proto.topics import TOPICS, Topic

ROOT = Path(__file__).resolve().parents[2]
_ROOMS = {"ingestion", "streaming", "analytics", "action", "knowledge", "gateway", "models"}
_PEOPLE = {"any", "operators"}


def test_topic_names_are_unique() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: str(topic.name))
def test_every_topic_says_who_writes_and_who_reads(topic: Topic) -> None:
    parties = {party.partition(".")[0] for party in topic.producers + topic.consumers}
    assert topic.producers
    assert topic.consumers
    assert parties <= _ROOMS | _PEOPLE
    assert topic.key
    assert topic.retention > timedelta(0)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: str(topic.name))
def test_every_message_is_data_with_a_codec(topic: Topic) -> None:
    assert is_dataclass(topic.message)
    assert topic.message in codec.message_classes()


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: str(topic.name))
def test_the_readme_of_the_language_lists_every_topic(topic: Topic) -> None:
    assert f"`{topic.name}`" in (ROOT / "proto" / "README.md").read_text(encoding="utf-8")
