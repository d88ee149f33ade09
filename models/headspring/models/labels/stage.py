"""The stage that turns the `feedback` topic into labels."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from headspring.models.labels.store import LabelStore
from headspring.proto.action import Feedback
from headspring.proto.codec import decode
from headspring.proto.topics import FEEDBACK

_NO_LABELS = frozenset({"acknowledge", "comment"})
"""Verdicts on the topic that say nothing about what was right."""


class _Payload(Protocol):
    @property
    def value(self) -> bytes: ...


class InputRecord(Protocol):
    """The part of a stored record that the stage reads (rooms of one layer do not know each other)."""

    @property
    def record(self) -> _Payload: ...


class LabelStage:
    """Speaks `headspring.streaming.engine.port.Stage`; stateless, its store is idempotent."""

    name = "models.labels"
    inputs = (FEEDBACK.name,)
    tick_s = 0.0

    def __init__(self, store: LabelStore) -> None:
        self._store = store

    async def process(self, topic: str, records: Sequence[InputRecord]) -> tuple[()]:
        """Raises ContractError for a record that is no feedback; nothing of the call is kept then."""
        labels = [decode(Feedback, stored.record.value) for stored in records]
        await asyncio.to_thread(self._store.put, [one for one in labels if one.verdict not in _NO_LABELS])
        return ()

    async def tick(self, now_ns: int) -> tuple[()]:
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Nothing to restore."""
