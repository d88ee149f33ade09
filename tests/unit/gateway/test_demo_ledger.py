"""Idempotency keys: one effect, the same answer, also after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headspring.gateway.demo.ledger import MAX_KEY_CHARS, Ledger
from headspring.proto.errors import Rejected, Unavailable


class Effect:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


def test_an_answer_survives_a_restart_of_the_supervisor(tmp_path: Path) -> None:
    effect = Effect()
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.once("k", ["restart", "payment"], effect) == ({"count": 1}, False)
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.once("k", ["restart", "payment"], effect) == ({"count": 1}, True)
    assert effect.count == 1


def test_without_a_key_every_call_has_its_effect(tmp_path: Path) -> None:
    effect = Effect()
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.once("", ["restart"], effect)
    ledger.once("", ["restart"], effect)
    assert effect.count == 2


def test_a_key_of_another_request_is_refused(tmp_path: Path) -> None:
    effect = Effect()
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.once("k", ["restart", "payment"], effect)
    with pytest.raises(Rejected, match="another request"):
        ledger.once("k", ["restart", "checkout"], effect)
    with pytest.raises(Rejected, match="characters"):
        ledger.once("k" * (MAX_KEY_CHARS + 1), ["restart"], effect)
    assert effect.count == 1


def test_an_effect_that_failed_may_be_repeated(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")

    def failing() -> dict[str, Any]:
        raise Unavailable("not now")

    with pytest.raises(Unavailable):
        ledger.once("k", ["restart"], failing)
    assert ledger.once("k", ["restart"], Effect()) == ({"count": 1}, False)
