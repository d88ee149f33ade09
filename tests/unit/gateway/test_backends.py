"""Servers that stop answering are told, with when and why; one that hangs holds up no other."""

from __future__ import annotations

import asyncio
import threading

from headspring.gateway.backends import EVERY_S, Backends
from headspring.proto.clock import ManualClock
from headspring.proto.errors import Unavailable


async def test_a_server_goes_away_and_comes_back() -> None:
    clock = ManualClock(start_ns=10**18)
    away = False

    def check() -> None:
        if away:
            raise Unavailable("connection refused")

    backends = Backends(clock)
    backends.add("Redis", check, costs="no scores")
    backends.start()
    for away, error in ((False, ""), (True, "connection refused"), (False, "")):
        for _ in range(3):
            clock.advance(EVERY_S)
            await asyncio.sleep(0.05)
        state = backends.states()["Redis"]
        assert (state.up, state.error, state.costs) == (not away, error, "no scores")
    assert 10**18 < state.since_ns <= clock.now_ns()
    await backends.stop()


async def test_a_server_that_hangs_does_not_hold_up_the_others() -> None:
    clock = ManualClock(start_ns=10**18)
    release = threading.Event()
    backends = Backends(clock)
    asked = []
    backends.add("Neo4j", lambda: release.wait(20), costs="")
    backends.add("Redis", lambda: asked.append(1), costs="")
    backends.start()
    for _ in range(3):
        await asyncio.sleep(0.05)
        clock.advance(EVERY_S)
    release.set()
    await backends.stop()
    assert len(asked) >= 3
