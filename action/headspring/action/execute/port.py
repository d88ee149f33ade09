"""What carries out a step."""

from __future__ import annotations

import re
from typing import Protocol

from headspring.proto.action import PlannedStep

MAX_OUTPUT_CHARS = 8_000
"""Characters of output kept of one step; the rest is cut with a mark."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Executor(Protocol):
    """Carries out planned steps of one kind, `PlannedStep.executor` == `name`.

    Blocking; the caller brings the thread. May be called from several threads at once. It does what the step says
    and nothing else: everything was filled in when the plan was made, so nothing is looked up here. `run` is not
    repeated by the executor itself. Every executor passes `tests/unit/action/test_executors.py`.
    """

    @property
    def name(self) -> str:
        """What steps call it."""
        ...

    def preview(self, step: PlannedStep) -> str:
        """What the step would meet, read without any effect.

        Raises:
            Rejected: it would never be allowed.
            ExecutionFailed: it could not be read.
        """
        ...

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        """Carries the step out and returns its output, at most `MAX_OUTPUT_CHARS`.

        The key is the same on every try of the same step of the same run; it is handed on to the other side.

        Raises:
            Rejected: never allowed here; nothing was done.
            ExecutionFailed: tried, and it failed or its end is not known.
        """
        ...


def printable(data: bytes, *, cut: bool = False) -> str:
    """Output as text that is safe to show: control characters out, length capped, a mark where it was cut."""
    text = _UNPRINTABLE.sub("", data.decode("utf-8", "replace"))
    if cut or len(text) > MAX_OUTPUT_CHARS:
        return text[:MAX_OUTPUT_CHARS] + " … (cut)"
    return text
