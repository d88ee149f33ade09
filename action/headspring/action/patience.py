"""Waiting for a database that is away, in the middle of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from headspring.proto.errors import Unavailable

logger = logging.getLogger(__name__)

_FIRST_S, _LONGEST_S = 0.2, 2.0
T = TypeVar("T")


class Abandoned(BaseException):
    """This execution of a run ends here, as if the process had died: somebody goes on with the run later.

    No `Exception`, so that nothing on its way takes it for the outcome of a step.
    """


class Patience:
    """Calls that are safe to repeat are repeated until they are answered or the process stops."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def end(self) -> None:
        """The process stops: nothing new begins, and nobody waits any more."""
        self._over.set()

    def check(self) -> None:
        """
        Raises:
            Abandoned: the process stops, so nothing new begins.
        """
        if self._over.is_set():
            raise Abandoned

    def until_available(self, call: Callable[[], T]) -> T:
        """Tries at least once: what had its effect is to be written down even by a process that stops.

        Raises:
            Abandoned: the process stops before the call was answered.
        """
        pause_s = _FIRST_S
        while True:
            try:
                return call()
            except Unavailable as error:
                if pause_s == _FIRST_S:
                    logger.warning("a run waits: %s", error)
            if self._over.wait(pause_s):
                raise Abandoned
            pause_s = min(_LONGEST_S, pause_s * 2)
