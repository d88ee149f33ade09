"""The stage contract: what an engine runs, whatever it runs on.

A stage turns records into records. The engine polls the inputs, calls `process`, appends what comes
back, and only then commits the input positions **together with the stage's snapshot**. So after a
crash a stage sees records again from exactly the state it had before them; ids that it derives from
its input make the repeated output harmless.

Within one stage the engine never runs two calls at once. Errors: a `ContractError` raised from
`process` sends that call's records, one by one, to find the offender, which goes to `dead-letter`;
a retryable error is retried with back-off; anything else stops the stage, which the engine restarts
from its last commit with back-off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headspring.streaming.log.port import StoredRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A record to append after the call that returned it."""

    topic: str
    key: bytes
    value: bytes
    time_ns: int
    headers: Mapping[str, str] = field(default_factory=dict)


class Stage(Protocol):
    """See the module's contract."""

    @property
    def name(self) -> str:
        """Also the consumer group; unique within an installation, e.g. `analytics.correlate`."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Topics it reads."""
        ...

    @property
    def tick_s(self) -> float:
        """How often `tick` is called, seconds; 0 for never."""
        ...

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """Takes records of one topic, in order."""
        ...

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        """Time passed: closes what is due. `now_ns` is the engine's clock."""
        ...

    def snapshot(self) -> bytes:
        """All state that `process` and `tick` depend on; b"" for a stateless stage."""
        ...

    def restore(self, state: bytes) -> None:
        """Back to a snapshot; b"" means the first start ever."""
        ...
