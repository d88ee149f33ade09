"""Limits, locks and cache: calls per CPU second, in process and on Redis.

Run: `python tests/benchmarks/bench_coordination.py [ROUNDS]` from the repository root; writes
`results/coordination.json` and `.md`. Every round gives both backends the same calls, one after the other. CPU time
is this process' and the server's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, percentiles, write
from tests.servers.redis import Redis, redis

from headspring.knowledge.coordination.memory import MemoryCache, MemoryCoolDowns, MemoryLocks, MemoryRateLimiter
from headspring.knowledge.coordination.port import Cache, CoolDowns, Locks, RateLimiter
from headspring.knowledge.coordination.redis import (
    RedisCache,
    RedisCoolDowns,
    RedisLocks,
    RedisRateLimiter,
    RedisServer,
)
from headspring.proto.clock import SystemClock

CALLS = 2_000
"""Of each kind in a round."""
SCORES = 64
"""Keys in one call to the cache: what a gateway asks for to show a page."""


@dataclass(frozen=True)
class Backend:
    cache: Cache
    locks: Locks
    limiter: RateLimiter
    cool_downs: CoolDowns


def work(backend: Backend, turn: int) -> dict[str, Callable[[int], object]]:
    """One call of each kind; the argument is its number."""

    def lock(number: int) -> None:
        lease = backend.locks.acquire(f"run-{number % 100}", ttl_s=30.0)
        assert lease is not None
        backend.locks.release(lease)

    items = {f"health/default/{number}": bytes(2_000) for number in range(SCORES)}
    return {
        "allow": lambda number: backend.limiter.allow(f"key-{number % 100}", limit=1_000_000, window_s=60.0),
        "allow, refused": lambda number: backend.limiter.allow(f"full-{number % 100}", limit=1, window_s=60.0),
        "acquire and release": lock,
        "cool-down begin": lambda number: backend.cool_downs.begin(f"{turn}-{number}", duration_s=60.0),
        f"cache put of {SCORES} x 2 kB": lambda number: backend.cache.put_many(items, ttl_s=30.0),
        f"cache get of {SCORES} x 2 kB": lambda number: backend.cache.get_many(list(items)),
    }


def rounds_of(rounds: int, backends: dict[str, tuple[Backend, Redis | None]]) -> dict[str, Any]:
    """By kind and backend."""
    taken: dict[str, dict[str, list[tuple[float, float, list[float]]]]] = {}
    for turn in range(rounds + 1):
        for name, (backend, server) in backends.items():
            for kind, call in work(backend, turn).items():
                calls = CALLS // 20 if kind.startswith("cache") else CALLS
                waits: list[float] = []
                ours, theirs = time.process_time(), cpu_s(server.pid) if server else 0.0
                for number in range(calls):
                    begun = time.perf_counter()
                    call(number)
                    waits.append((time.perf_counter() - begun) * 1e3)
                ours = (time.process_time() - ours) / calls
                theirs = ((cpu_s(server.pid) if server else 0.0) - theirs) / calls
                if turn:
                    taken.setdefault(kind, {}).setdefault(name, []).append((ours, theirs, waits))
    return {kind: {name: summary(rows) for name, rows in by_name.items()} for kind, by_name in taken.items()}


def summary(rows: list[tuple[float, float, list[float]]]) -> dict[str, Any]:
    """Of rows of CPU seconds a call, ours and the server's, and milliseconds waited."""
    server_s = statistics.mean(theirs for _, theirs, _ in rows)
    return {
        "calls_per_cpu_s": round(1 / statistics.median(ours + theirs for ours, theirs, _ in rows)),
        "calls_per_cpu_s_ours": round(1 / statistics.mean(ours for ours, _, _ in rows)),
        "calls_per_cpu_s_server": round(1 / server_s) if server_s else None,
        "wait_ms": percentiles([wait for _, _, waits in rows for wait in waits]),
    }


def text_of(result: dict[str, Any]) -> str:
    lines = [
        heading("Coordination: calls per CPU second", result["about"]),
        f"{result['rounds']} rounds after one that does not count, {CALLS} calls of a kind in a round (a twentieth for "
        "the cache), one caller, one connection. Redis 7.0 on loopback.\n",
        "| call | in process, per CPU-s | Redis, per CPU-s | ours alone | the server's alone | Redis p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in result["calls"].items():
        ours, other = row["memory"], row["redis"]
        server = f"{other['calls_per_cpu_s_server']:,}" if other["calls_per_cpu_s_server"] else "too little to see"
        lines.append(
            f"| {kind} | {ours['calls_per_cpu_s']:,} | {other['calls_per_cpu_s']:,} | "
            f"{other['calls_per_cpu_s_ours']:,} | {server} | {other['wait_ms']['p50']:.3f} | "
            f"{other['wait_ms']['p99']:.3f} |"
        )
    lines += ["", "- CPU time of the server comes in steps of 10 ms."]
    return "\n".join(lines)


def main(rounds: int) -> None:
    facts, clock = about(f"bench_coordination.py {rounds}"), SystemClock()
    with tempfile.TemporaryDirectory() as folder, redis(Path(folder)) as running:
        server = RedisServer(running.url, password=running.password, timeout_s=10.0)
        backends = {
            "memory": (
                Backend(MemoryCache(clock), MemoryLocks(clock), MemoryRateLimiter(clock), MemoryCoolDowns(clock)), None
            ),
            "redis": (
                Backend(RedisCache(server), RedisLocks(server), RedisRateLimiter(server), RedisCoolDowns(server)),
                running,
            ),
        }  # fmt: skip
        calls = rounds_of(rounds, backends)
        server.close()
    result = {"about": facts, "rounds": rounds, "calls": calls}
    write("coordination", result, text_of(result))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
