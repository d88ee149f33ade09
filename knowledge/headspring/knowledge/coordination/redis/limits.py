"""`RateLimiter` and `CoolDowns` on Redis."""

from __future__ import annotations

import logging
import secrets

from headspring.knowledge.coordination import window
from headspring.knowledge.coordination.memory import MemoryRateLimiter
from headspring.knowledge.coordination.port import Decision
from headspring.knowledge.coordination.redis import scripts
from headspring.knowledge.coordination.redis.server import RedisServer
from headspring.knowledge.coordination.redis.user import OnRedis
from headspring.proto.clock import Clock, SystemClock
from headspring.proto.errors import Unavailable

logger = logging.getLogger(__name__)


class RedisRateLimiter(OnRedis):
    """While Redis is away each process counts for itself: it never lets more through than the limit, and all of
    them together as many times that as there are processes. `degraded_calls` counts such answers."""

    def __init__(self, server: RedisServer | str, *, password: str = "", clock: Clock | None = None) -> None:
        """As `RedisServer`; `clock` is for the counting without it."""
        super().__init__(server, password)
        self._allow = self.server.script(scripts.ALLOW)
        self._local = MemoryRateLimiter(clock or SystemClock())
        self._degraded = False
        self.degraded_calls = 0

    @property
    def degraded(self) -> bool:
        return self._degraded

    def allow(self, key: str, *, limit: int, window_s: float, cost: int = 1) -> Decision:
        slice_us = max(1, round(window.checked(limit, window_s, cost) * 1e6))
        try:
            with self.server.client():
                allowed, remaining, retry_us = self._allow(
                    keys=[self.server.key("limit", f"{key}|{slice_us}")], args=[limit, slice_us, cost, window.SLICES]
                )
        except Unavailable as error:
            if not self._degraded:
                logger.warning("rate limits count for this process alone: %s", error)
            self._degraded = True
            self.degraded_calls += 1
            return self._local.allow(key, limit=limit, window_s=window_s, cost=cost)
        if self._degraded:
            logger.warning("rate limits are shared again")
        self._degraded = False
        return Decision(allowed=bool(allowed), remaining=int(remaining), retry_after_s=int(retry_us) / 1e6)


class RedisCoolDowns(OnRedis):
    """While Redis is away none begins: `Unavailable`."""

    def __init__(self, server: RedisServer | str, *, password: str = "") -> None:
        """As `RedisServer`."""
        super().__init__(server, password)
        self._begin = self.server.script(scripts.BEGIN)

    def begin(self, key: str, *, duration_s: float) -> bool:
        duration_ms = max(1, round(duration_s * 1000))
        with self.server.client():
            return bool(self._begin(keys=[self.server.key("cooldown", key)], args=[secrets.token_hex(8), duration_ms]))

    def left_s(self, key: str) -> float:
        with self.server.client() as client:
            left_ms: int = client.pttl(self.server.key("cooldown", key))
        return max(0, left_ms) / 1000.0
