"""Feedback becomes labels once, however often it is delivered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from headspring.models.labels.stage import LabelStage
from headspring.models.labels.store import LabelStore
from headspring.proto.action import Feedback
from headspring.proto.codec import encode
from headspring.proto.errors import ContractError
from headspring.proto.topics import FEEDBACK


@dataclass(frozen=True)
class Payload:
    value: bytes


@dataclass(frozen=True)
class Stored:
    record: Payload


def feedback(key: str, verdict: str = "right-cause", *, time_ns: int = 1, subject: str = "in-1") -> Feedback:
    return Feedback(
        feedback_id=key, tenant="t", subject=subject, subject_kind="incident", verdict=verdict, actor="ann",
        time_ns=time_ns, entity="service:d/a",
    )  # fmt: skip


@pytest.fixture
def labels(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db")


def test_a_label_is_kept_once_and_the_first_of_an_id_stays(labels: LabelStore) -> None:
    assert labels.put([feedback("f1"), feedback("f2", "nuisance"), feedback("f1", "wrong-cause")]) == 2
    assert labels.put([feedback("f2", "wrong-cause")]) == 0
    assert labels.counts("t") == {"nuisance": 1, "right-cause": 1}
    assert labels.counts("other") == {}


def test_labels_are_listed_newest_first_by_subject_verdict_and_time(labels: LabelStore) -> None:
    labels.put(
        [feedback("f1", time_ns=1), feedback("f2", "nuisance", time_ns=2), feedback("f3", time_ns=3, subject="x")]
    )
    assert [one.feedback_id for one in labels.list("t")] == ["f3", "f2", "f1"]
    assert labels.list("t", verdict="nuisance") == [feedback("f2", "nuisance", time_ns=2)]
    assert [one.feedback_id for one in labels.list("t", subject="in-1", since_ns=2)] == ["f2"]
    assert [one.feedback_id for one in labels.list("t", limit=1)] == ["f3"]


def test_labels_are_there_after_opening_again(tmp_path: Path) -> None:
    first = LabelStore(tmp_path / "labels.db")
    first.put([feedback("f1")])
    first.close()
    assert LabelStore(tmp_path / "labels.db").list("t") == [feedback("f1")]


async def test_the_stage_keeps_verdicts_and_leaves_comments(labels: LabelStore) -> None:
    stage = LabelStage(labels)
    given = [feedback("f1"), feedback("f2", "acknowledge"), feedback("f3", "comment"), feedback("f1")]
    assert await stage.process(FEEDBACK.name, [Stored(Payload(encode(one))) for one in given]) == ()
    assert labels.list("t") == [feedback("f1")]


async def test_the_stage_keeps_nothing_of_a_call_with_an_unreadable_record(labels: LabelStore) -> None:
    good = Stored(Payload(encode(replace(feedback("f1"), comment="x"))))
    with pytest.raises(ContractError):
        await LabelStage(labels).process(FEEDBACK.name, [good, Stored(Payload(b"\xff"))])
    assert labels.list("t") == []
