"""How a stage is doing, for operators and readiness."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StageState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    """It failed and waits before it goes on from its last commit."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHealth:
    """Counts are since the engine started."""

    state: StageState
    lag: int
    """Records of its inputs that it has not taken yet."""
    records_in: int
    records_out: int
    errors: int
    dead_letters: int
    restarts: int
    last_batch_s: float
    """Seconds the newest call of `process` took."""
    last_error: str = ""
