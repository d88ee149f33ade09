"""Coordination within one process keeps the contract; and the sliding window what it promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headspring.knowledge.coordination.memory import MemoryCache, MemoryCoolDowns, MemoryLocks, MemoryRateLimiter
from headspring.knowledge.testing.coordination import Coordination, CoordinationContract
from headspring.proto.clock import NS_PER_S, ManualClock


class TestMemory(CoordinationContract):
    @pytest.fixture
    def backend(self) -> Coordination:
        clock = ManualClock(start_ns=1_700_000_000 * NS_PER_S)
        return Coordination(
            cache=MemoryCache(clock), locks=MemoryLocks(clock), limiter=MemoryRateLimiter(clock),
            cool_downs=MemoryCoolDowns(clock), advance=clock.advance, monotonic_s=clock.monotonic_s,
        )  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 4)), max_size=80),
    st.integers(4, 9),
    st.floats(0.3, 3.0),
)
def test_no_window_holds_more_than_the_limit_and_who_waits_is_let_in(
    asked: list[tuple[float, int]], limit: int, window_s: float
) -> None:
    clock = ManualClock()
    limiter = MemoryRateLimiter(clock)
    taken: list[tuple[float, int]] = []
    for pause_s, cost in asked:
        clock.advance(pause_s)
        decision = limiter.allow("a", limit=limit, window_s=window_s, cost=cost)
        if decision.allowed:
            taken.append((clock.monotonic_s(), cost))
        else:
            assert 0 < decision.retry_after_s <= 1.1 * window_s + 1e-6
            clock.advance(decision.retry_after_s + 1e-6)
            assert limiter.allow("a", limit=limit, window_s=window_s, cost=cost).allowed
            taken.append((clock.monotonic_s(), cost))
    for end_s, _ in taken:
        assert sum(cost for at_s, cost in taken if end_s - window_s < at_s <= end_s) <= limit


def test_a_cache_stays_within_its_bytes_and_lets_go_of_what_was_unused_longest() -> None:
    cache = MemoryCache(ManualClock(), max_bytes=100)
    for number in range(10):
        cache.put_many({f"k{number}": bytes(20)}, ttl_s=60.0)
        cache.get_many(["k0"])
    assert set(cache.get_many([f"k{number}" for number in range(10)])) == {"k0", "k7", "k8", "k9"}
    cache.put_many({"large": bytes(101)}, ttl_s=60.0)
    assert cache.get_many(["large"]) == {}
