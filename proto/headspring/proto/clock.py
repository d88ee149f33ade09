"""Time, passed in. Kernels get times as arguments; everything that asks for the time holds a `Clock`."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Where the time comes from."""

    def now_ns(self) -> int:
        """Wall clock, unix nanoseconds. May jump; use it for stamps, never for durations."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds` on this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told; the product's own fake for tests and replays.

    >>> clock = ManualClock(start_ns=5 * NS_PER_S)
    >>> clock.advance(1.5)
    >>> clock.now_ns()
    6500000000
    """

    def __init__(self, *, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._start_ns = start_ns
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return (self._now_ns - self._start_ns) / NS_PER_S

    def advance(self, seconds: float) -> None:
        """Moves the clock and wakes every sleeper whose time has come."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: got {seconds} s")
        self._now_ns += round(seconds * NS_PER_S)
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._now_ns]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._now_ns]
        for _, future in due:
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ns + round(seconds * NS_PER_S), future))
        await future
