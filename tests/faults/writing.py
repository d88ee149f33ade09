"""A stage's way of writing to a store, while the store is killed: numbered batches, each again until it is taken."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from headspring.proto.errors import Unavailable

_PATIENCE_S = 120.0
_AGAIN_S = 0.05
_REFUSED_WITHIN_S = 30.0


class Server(Protocol):
    """What a test does to a server; what it held is there again after `start`, as far as it kept that."""

    def kill9(self) -> None: ...
    def start(self) -> None: ...


class Writing:
    """One thread. A batch that was refused is looked at before it is written again: see `kill`."""

    def __init__(self, write: Callable[[int], object]) -> None:
        """
        Args:
            write: Writes the batch of a number, 0, 1, …; returns when the store has acknowledged it.
        """
        self.acknowledged: list[int] = []
        self.refused: list[Unavailable] = []
        self.back_s: list[float] = []
        """After each kill: seconds from the server's start until the adapter wrote again."""
        self._write = write
        self._longest_s = 0.1
        self._under_way = threading.Event()
        self._go_on = threading.Event()
        self._go_on.set()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._go_on.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def until(self, more: int) -> None:
        """Returns when so many more batches have been acknowledged."""
        wanted = len(self.acknowledged) + more
        self._wait(lambda: len(self.acknowledged) >= wanted, f"{more} more writes were not taken")

    def kill(self, server: Server, chance: random.Random, look: Callable[[int], None]) -> bool:
        """Kills the server in the midst of a write and starts it anew; whether that write was refused.

        Args:
            look: Called with the number of the batch that was refused, when the server is back and before that batch
                is written again: what is there of it is what the crash has left.
        """
        self.until(3)
        refusals = len(self.refused)
        self._under_way.wait(_PATIENCE_S)
        time.sleep(chance.uniform(0.05, 0.95) * self._longest_s)
        self._go_on.clear()
        server.kill9()
        deadline = time.monotonic() + _REFUSED_WITHIN_S
        while len(self.refused) == refusals and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.01)
        refused = len(self.refused) > refusals
        server.start()
        began = time.monotonic()
        if refused:
            look(len(self.acknowledged))
        self._go_on.set()
        self.until(1)
        self.back_s.append(time.monotonic() - began)
        return refused

    def told(self, store: str) -> str:
        """For the log of the test."""
        return (
            f"{store}: {len(self.acknowledged)} writes acknowledged, {len(self.refused)} refused; written again at "
            f"most {max(self.back_s):.1f} s after the server was back"
        )

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._next(len(self.acknowledged))
        except BaseException as failure:  # noqa: BLE001 - told at the end, and by whoever waits
            self._failure = failure

    def _next(self, number: int) -> None:
        self._under_way.set()
        began = time.monotonic()
        try:
            self._write(number)
        except Unavailable as error:
            self._under_way.clear()
            self.refused.append(error)
            self._go_on.wait()
            time.sleep(_AGAIN_S)
        else:
            self._under_way.clear()
            self._longest_s = max(0.8 * self._longest_s, time.monotonic() - began)
            self.acknowledged.append(number)

    def _wait(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if self._failure is not None:
                raise AssertionError("a write failed in another way than by being away") from self._failure
            if time.monotonic() > deadline:
                raise AssertionError(f"{otherwise} within {_PATIENCE_S:.0f} s; the last refusal: {self.refused[-1:]}")
            time.sleep(0.01)
