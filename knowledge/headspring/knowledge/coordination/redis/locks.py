"""`Locks` on Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from headspring.knowledge.coordination.port import Lease
from headspring.knowledge.coordination.redis import scripts
from headspring.knowledge.coordination.redis.server import RedisServer
from headspring.knowledge.coordination.redis.user import OnRedis
from headspring.proto.errors import Conflict

_TOKEN_KEPT_MS = 24 * 3600 * 1000
"""A day after the last acquisition the server's time alone is greater than any token given, by far."""


class RedisLocks(OnRedis):
    """While Redis is away nothing is acquired or renewed: `Unavailable`."""

    def __init__(
        self, server: RedisServer | str, *, password: str = "", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """As `RedisServer`."""
        super().__init__(server, password)
        self._monotonic = monotonic
        self._acquire = self.server.script(scripts.ACQUIRE)
        self._renew = self.server.script(scripts.RENEW)
        self._release = self.server.script(scripts.RELEASE)

    def acquire(self, name: str, *, ttl_s: float) -> Lease | None:
        owner, ttl_ms = secrets.token_hex(8), _milliseconds(ttl_s)
        ends_s = self._monotonic() + ttl_s  # before the server's: an answer takes its time
        with self.server.client():
            token = self._acquire(
                keys=[self.server.key("lock", name), self.server.key("token", name)],
                args=[owner, ttl_ms, max(_TOKEN_KEPT_MS, 2 * ttl_ms)],
            )
        return Lease(name=name, owner=owner, token=int(token), ends_s=ends_s) if token is not None else None

    def renew(self, lease: Lease, *, ttl_s: float) -> Lease:
        ends_s = self._monotonic() + ttl_s
        with self.server.client():
            held = self._renew(keys=[self.server.key("lock", lease.name)], args=[lease.owner, _milliseconds(ttl_s)])
        if not held:
            raise Conflict(f"the lock {lease.name!r} is not held any more")
        return replace(lease, ends_s=ends_s)

    def release(self, lease: Lease) -> bool:
        with self.server.client():
            return bool(self._release(keys=[self.server.key("lock", lease.name)], args=[lease.owner]))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
