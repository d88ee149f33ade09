"""Coordination within one process: what the embedded shape has, and what rate limits fall back to."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headspring.knowledge.coordination import window
from headspring.knowledge.coordination.port import Decision, Lease
from headspring.proto.clock import Clock
from headspring.proto.errors import Conflict

_MAX_CACHE_BYTES = 64 << 20
_MAX_KEYS = 100_000
"""Of limits and cool-downs; those longest unused go first."""


class MemoryCache:
    """`Cache`; what was put or got longest ago makes room."""

    def __init__(self, clock: Clock, *, max_bytes: int = _MAX_CACHE_BYTES) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._items: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        now_s = self._clock.monotonic_s()
        found: dict[str, bytes] = {}
        with self._lock:
            for key in keys:
                ends_s, value = self._items.get(key, (now_s, b""))
                if ends_s > now_s:
                    found[key] = value
                    self._items.move_to_end(key)
                else:
                    self._drop(key)
        return found

    def put_many(self, items: Mapping[str, bytes], *, ttl_s: float) -> None:
        ends_s = self._clock.monotonic_s() + ttl_s
        with self._lock:
            for key, value in items.items():
                self._drop(key)
                self._items[key] = (ends_s, value)
                self._bytes += len(key) + len(value)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._items)))

    def _drop(self, key: str) -> None:
        ends_value = self._items.pop(key, None)
        if ends_value is not None:
            self._bytes -= len(key) + len(ends_value[1])


class MemoryLocks:
    """`Locks`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}
        self._token = 0

    def acquire(self, name: str, *, ttl_s: float) -> Lease | None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.ends_s > now_s:
                return None
            # As a server reckons it: greater also than tokens of an earlier life of this process.
            self._token = max(self._token + 1, self._clock.now_ns() // 1000)
            lease = Lease(name=name, owner=secrets.token_hex(8), token=self._token, ends_s=now_s + ttl_s)
            self._held[name] = lease
            return lease

    def renew(self, lease: Lease, *, ttl_s: float) -> Lease:
        now_s = self._clock.monotonic_s()
        with self._lock:
            held = self._held.get(lease.name)
            if held is None or held.owner != lease.owner or held.ends_s <= now_s:
                raise Conflict(f"the lock {lease.name!r} is not held any more")
            renewed = self._held[lease.name] = replace(held, ends_s=now_s + ttl_s)
            return renewed

    def release(self, lease: Lease) -> bool:
        now_s = self._clock.monotonic_s()
        with self._lock:
            held = self._held.get(lease.name)
            if held is None or held.owner != lease.owner:
                return False
            del self._held[lease.name]
            return held.ends_s > now_s


class MemoryRateLimiter:
    """`RateLimiter`."""

    degraded = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._used: OrderedDict[tuple[str, float], dict[int, int]] = OrderedDict()
        """By key and window, the use of each slice."""

    def allow(self, key: str, *, limit: int, window_s: float, cost: int = 1) -> Decision:
        slice_s = window.checked(limit, window_s, cost)
        now_s = self._clock.monotonic_s()
        first = window.oldest(now_s, slice_s)
        with self._lock:
            used = self._used.pop((key, window_s), {})
            used = {number: count for number, count in used.items() if number >= first}
            decision = window.decide(used, now_s=now_s, slice_s=slice_s, limit=limit, cost=cost)
            if decision.allowed and cost:
                number = int(now_s // slice_s)
                used[number] = used.get(number, 0) + cost
            if used:
                self._used[key, window_s] = used
                if len(self._used) > _MAX_KEYS:
                    self._used.popitem(last=False)
        return decision


class MemoryCoolDowns:
    """`CoolDowns`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ends_s: OrderedDict[str, float] = OrderedDict()

    def begin(self, key: str, *, duration_s: float) -> bool:
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._ends_s.get(key, now_s) > now_s:
                return False
            self._ends_s.pop(key, None)
            self._ends_s[key] = now_s + duration_s
            while len(self._ends_s) > _MAX_KEYS:
                self._ends_s.popitem(last=False)
            return True

    def left_s(self, key: str) -> float:
        now_s = self._clock.monotonic_s()
        with self._lock:
            return max(0.0, self._ends_s.get(key, now_s) - now_s)
