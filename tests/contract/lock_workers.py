"""Processes that share locks and limits on Redis; what each did is in a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from headspring.knowledge.coordination.redis import RedisLocks, RedisRateLimiter, RedisServer


def work_under_lock(url: str, password: str, guarded: str, journal: str, rounds: int) -> None:
    """Takes the lock again and again; what it guards breaks if two are in at once."""
    locks = RedisLocks(RedisServer(url, password=password, timeout_s=5.0))
    done = 0
    while done < rounds:
        lease = locks.acquire("guarded", ttl_s=20.0)
        if lease is None:
            time.sleep(0.002)
            continue
        handle = os.open(guarded, os.O_CREAT | os.O_EXCL | os.O_WRONLY)  # fails where another is in
        with Path(journal).open("a", encoding="ascii") as out:
            out.write(f"{lease.token}\n")
        os.close(handle)
        os.unlink(guarded)
        assert locks.release(lease)
        done += 1


def hold_for_ever(url: str, password: str, told: str) -> None:
    locks = RedisLocks(RedisServer(url, password=password, timeout_s=5.0))
    lease = locks.acquire("held", ttl_s=1.5)
    assert lease is not None
    Path(told).write_text(str(lease.token), encoding="ascii")
    while True:
        lease = locks.renew(lease, ttl_s=1.5)
        time.sleep(0.3)


def spend(url: str, password: str, told: str, seconds: float) -> None:
    limiter = RedisRateLimiter(RedisServer(url, password=password, timeout_s=5.0))
    began_s, allowed = time.monotonic(), 0
    while time.monotonic() < began_s + seconds:
        allowed += limiter.allow("shared", limit=40, window_s=1.0).allowed
        time.sleep(0.005)
    assert limiter.degraded_calls == 0
    Path(told).write_text(f"{began_s} {time.monotonic()} {allowed}", encoding="ascii")
