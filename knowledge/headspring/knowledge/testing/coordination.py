"""The coordination ports' contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import pytest

from headspring.knowledge.coordination.port import Cache, CoolDowns, Locks, RateLimiter, scoped
from headspring.proto.errors import Conflict

_LONG_S = 60.0
"""Nothing that a test waits for is over so late."""
_SHORT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordination:
    """One backend's four, empty, and how time passes for it."""

    cache: Cache
    locks: Locks
    limiter: RateLimiter
    cool_downs: CoolDowns
    advance: Callable[[float], None]
    monotonic_s: Callable[[], float]


class CoordinationContract:
    """Subclass it and give it a `backend` fixture."""

    @pytest.fixture
    def backend(self) -> Iterator[Coordination]:
        raise NotImplementedError("the binding gives a fixture backend")

    # -- cache

    def test_what_was_put_is_got_until_its_time_is_over(self, backend: Coordination) -> None:
        backend.cache.put_many({"a": b"\x00\xff", "b": b""}, ttl_s=_LONG_S)
        backend.cache.put_many({"c": b"3"}, ttl_s=_SHORT_S)
        assert backend.cache.get_many(["a", "b", "c", "d"]) == {"a": b"\x00\xff", "b": b"", "c": b"3"}
        backend.advance(1.2 * _SHORT_S)
        assert backend.cache.get_many(["a", "b", "c"]) == {"a": b"\x00\xff", "b": b""}

    def test_what_is_put_again_replaces_and_lasts_anew(self, backend: Coordination) -> None:
        backend.cache.put_many({"a": b"1"}, ttl_s=_SHORT_S)
        backend.cache.put_many({"a": b"2"}, ttl_s=_LONG_S)
        backend.advance(1.2 * _SHORT_S)
        assert backend.cache.get_many(["a"]) == {"a": b"2"}

    def test_nothing_asked_is_nothing_got(self, backend: Coordination) -> None:
        backend.cache.put_many({}, ttl_s=_LONG_S)
        assert backend.cache.get_many([]) == {}

    def test_tenants_keys_are_their_own(self, backend: Coordination) -> None:
        keys = [scoped("a", "b/c"), scoped("a/b", "c"), scoped("a", "b", "c"), scoped("a", "b}", "{c"), "ключ 😀 {x}"]
        backend.cache.put_many({key: key.encode() for key in keys}, ttl_s=_LONG_S)
        assert backend.cache.get_many(keys) == {key: key.encode() for key in keys}

    # -- locks

    def test_a_lock_has_one_holder(self, backend: Coordination) -> None:
        lease = backend.locks.acquire("a", ttl_s=_LONG_S)
        assert lease is not None
        assert backend.locks.acquire("a", ttl_s=_LONG_S) is None
        assert backend.locks.acquire("b", ttl_s=_LONG_S) is not None
        assert backend.locks.release(lease)
        assert not backend.locks.release(lease)
        assert backend.locks.acquire("a", ttl_s=_LONG_S) is not None

    def test_tokens_grow(self, backend: Coordination) -> None:
        tokens = []
        for _ in range(50):
            lease = backend.locks.acquire("a", ttl_s=_LONG_S)
            assert lease is not None
            tokens.append(lease.token)
            assert backend.locks.release(lease)
        assert all(later > earlier for earlier, later in pairwise(tokens))

    def test_a_lease_ends_by_itself_and_the_next_holder_has_a_greater_token(self, backend: Coordination) -> None:
        began_s = backend.monotonic_s()
        first = backend.locks.acquire("a", ttl_s=_SHORT_S)
        assert first is not None
        assert began_s <= first.ends_s - _SHORT_S <= backend.monotonic_s()
        backend.advance(1.2 * _SHORT_S)
        second = backend.locks.acquire("a", ttl_s=_LONG_S)
        assert second is not None
        assert second.token > first.token
        with pytest.raises(Conflict):
            backend.locks.renew(first, ttl_s=_LONG_S)
        assert not backend.locks.release(first)
        assert backend.locks.acquire("a", ttl_s=_LONG_S) is None  # the one that was overtaken freed nothing

    def test_a_renewed_lease_lasts_and_keeps_its_token(self, backend: Coordination) -> None:
        lease = backend.locks.acquire("a", ttl_s=_SHORT_S)
        assert lease is not None
        renewed = backend.locks.renew(lease, ttl_s=_LONG_S)
        assert (renewed.token, renewed.name) == (lease.token, "a")
        assert renewed.ends_s > lease.ends_s
        backend.advance(1.2 * _SHORT_S)
        assert backend.locks.acquire("a", ttl_s=_LONG_S) is None
        assert backend.locks.release(renewed)

    def test_a_lease_that_ended_is_not_renewed(self, backend: Coordination) -> None:
        lease = backend.locks.acquire("a", ttl_s=_SHORT_S)
        assert lease is not None
        backend.advance(1.2 * _SHORT_S)
        with pytest.raises(Conflict):
            backend.locks.renew(lease, ttl_s=_LONG_S)

    # -- rate limits

    def test_a_limit_is_not_exceeded(self, backend: Coordination) -> None:
        for left in (2, 1, 0):
            decision = backend.limiter.allow("a", limit=3, window_s=_LONG_S)
            assert (decision.allowed, decision.remaining, decision.retry_after_s) == (True, left, 0.0)
        refused = backend.limiter.allow("a", limit=3, window_s=_LONG_S)
        assert (refused.allowed, refused.remaining) == (False, 0)
        assert 0.8 * _LONG_S < refused.retry_after_s <= 1.1 * _LONG_S
        assert backend.limiter.allow("b", limit=3, window_s=_LONG_S).allowed
        assert backend.limiter.allow("a", limit=3, window_s=2 * _LONG_S).allowed  # another window counts for itself
        assert not backend.limiter.degraded

    def test_what_was_used_comes_back(self, backend: Coordination) -> None:
        for _ in range(2):
            assert backend.limiter.allow("a", limit=2, window_s=_SHORT_S).allowed
        backend.advance(1.15 * _SHORT_S)
        assert backend.limiter.allow("a", limit=2, window_s=_SHORT_S, cost=2).allowed

    def test_who_waits_as_told_is_let_in(self, backend: Coordination) -> None:
        assert backend.limiter.allow("a", limit=5, window_s=4 * _SHORT_S, cost=5).allowed
        refused = backend.limiter.allow("a", limit=5, window_s=4 * _SHORT_S, cost=5)
        assert not refused.allowed
        backend.advance(refused.retry_after_s + 0.01)
        assert backend.limiter.allow("a", limit=5, window_s=4 * _SHORT_S, cost=5).allowed

    def test_what_costs_more_is_refused_where_less_is_allowed(self, backend: Coordination) -> None:
        assert backend.limiter.allow("a", limit=10, window_s=_LONG_S, cost=7).remaining == 3
        assert not backend.limiter.allow("a", limit=10, window_s=_LONG_S, cost=4).allowed
        assert backend.limiter.allow("a", limit=10, window_s=_LONG_S, cost=3).allowed

    def test_a_cost_of_nothing_takes_nothing(self, backend: Coordination) -> None:
        for _ in range(5):
            asked = backend.limiter.allow("a", limit=1, window_s=_LONG_S, cost=0)
            assert (asked.allowed, asked.remaining) == (True, 1)
        assert backend.limiter.allow("a", limit=1, window_s=_LONG_S).allowed
        assert not backend.limiter.allow("a", limit=1, window_s=_LONG_S, cost=0).allowed

    @pytest.mark.parametrize(("limit", "window_s", "cost"), [(0, 1.0, 0), (1, 0.0, 1), (1, 1.0, 2), (1, 1.0, -1)])
    def test_what_can_never_be_is_an_error(self, backend: Coordination, limit: int, window_s: float, cost: int) -> None:
        with pytest.raises(ValueError, match="limit"):
            backend.limiter.allow("a", limit=limit, window_s=window_s, cost=cost)

    def test_threads_share_a_limit(self, backend: Coordination) -> None:
        with ThreadPoolExecutor(8) as pool:
            decisions = list(pool.map(lambda _: backend.limiter.allow("a", limit=50, window_s=_LONG_S), range(200)))
        assert sum(one.allowed for one in decisions) == 50

    # -- cool-downs

    def test_a_cool_down_begins_once(self, backend: Coordination) -> None:
        assert backend.cool_downs.left_s("a") == 0.0
        assert backend.cool_downs.begin("a", duration_s=_LONG_S)
        assert not backend.cool_downs.begin("a", duration_s=_LONG_S)
        assert 0.5 * _LONG_S < backend.cool_downs.left_s("a") <= _LONG_S
        assert backend.cool_downs.begin("b", duration_s=_LONG_S)

    def test_a_cool_down_is_over_in_time(self, backend: Coordination) -> None:
        assert backend.cool_downs.begin("a", duration_s=_SHORT_S)
        backend.advance(1.2 * _SHORT_S)
        assert backend.cool_downs.left_s("a") == 0.0
        assert backend.cool_downs.begin("a", duration_s=_LONG_S)

    def test_of_several_at_once_one_begins(self, backend: Coordination) -> None:
        with ThreadPoolExecutor(8) as pool:
            began = list(pool.map(lambda _: backend.cool_downs.begin("a", duration_s=_LONG_S), range(32)))
            leases = list(pool.map(lambda _: backend.locks.acquire("a", ttl_s=_LONG_S), range(32)))
        assert began.count(True) == 1
        assert sum(lease is not None for lease in leases) == 1
