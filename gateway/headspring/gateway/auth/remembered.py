"""What a database said lately, for callers that must not wait for it when it stops answering."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillAsking
from typing import Generic, TypeVar

from headspring.proto.clock import Clock
from headspring.proto.errors import Unavailable

T = TypeVar("T")

FRESH_S = 5.0
"""What another process took back is believed for no longer than this."""
OUTAGE_S = 900.0
"""For so long what was known before is still believed while the database does not answer."""
WAIT_S = 1.0
"""Longest wait of a caller. A server that hangs instead of refusing would hold all senders up."""
_THREADS = 2
_MOST_ASKED = 64
"""Questions under way; more are refused at once."""
_MANY_KNOWN = 1000
"""From here on what was not asked for lately is forgotten before something new is remembered."""


class Remembered(Generic[T]):
    """Answers by key, each asked for again once it is no longer fresh. Any thread."""

    def __init__(self, ask: Callable[[bytes], T | None], *, clock: Clock, name: str) -> None:
        """
        Args:
            ask: Blocks; None where there is nothing under that key; raises `Unavailable` where nobody answers.
            clock: Of ages.
            name: Of what is asked, for people.
        """
        self._ask = ask
        self._clock = clock
        self._name = name
        self._known: dict[bytes, tuple[float, T]] = {}
        self._asked: dict[bytes, Future[T | None]] = {}
        self._generation = 0
        self._trouble_until_s = float("-inf")
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="remembered")

    def get(self, key: bytes) -> T | None:
        """
        Raises:
            Unavailable: nobody answers in time, and nothing was known lately.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            at_s, known = self._known.get(key, (float("-inf"), None))
            if now_s - at_s < FRESH_S:
                return known
            if now_s - at_s >= OUTAGE_S:
                known = None
            asked = self._asked.get(key)
            trouble = now_s < self._trouble_until_s
            if asked is not None and known is not None:
                return known  # somebody waits for it already
            if asked is None:
                if len(self._asked) >= _MOST_ASKED:
                    if known is not None:  # strangers that wait must not turn away who is known
                        return known
                    raise Unavailable(f"{self._name}: too many questions wait for an answer", retry_after_s=FRESH_S)
                asked = self._asked[key] = self._threads.submit(self._answer, key, self._generation)
        try:
            return asked.result(timeout=0 if trouble else WAIT_S)
        except (StillAsking, Unavailable) as error:
            with self._lock:
                if not trouble:
                    self._trouble_until_s = now_s + FRESH_S
            if known is not None:
                return known
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(f"{self._name}: no answer within {WAIT_S:.0f} s", retry_after_s=FRESH_S) from None

    def clear(self) -> None:
        """Nothing that was known, or is being asked, counts any more."""
        with self._lock:
            self._generation += 1
            self._known.clear()
            self._asked.clear()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, key: bytes, generation: int) -> T | None:
        try:
            found = self._ask(key)
        finally:
            with self._lock:
                if generation == self._generation:
                    self._asked.pop(key, None)
        with self._lock:
            if generation == self._generation:
                self._trouble_until_s = float("-inf")
                if found is None:
                    self._known.pop(key, None)
                else:
                    self._remember(key, found)
        return found

    def _remember(self, key: bytes, found: T) -> None:
        """Under the lock."""
        now_s = self._clock.monotonic_s()
        if len(self._known) >= _MANY_KNOWN and key not in self._known:
            self._known = {other: known for other, known in self._known.items() if now_s - known[0] < OUTAGE_S}
        self._known[key] = (now_s, found)
