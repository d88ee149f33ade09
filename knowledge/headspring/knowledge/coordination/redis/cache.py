"""`Cache` on Redis."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from headspring.knowledge.coordination.redis.server import RedisServer
from headspring.knowledge.coordination.redis.user import OnRedis
from headspring.proto.errors import Unavailable

logger = logging.getLogger(__name__)


class RedisCache(OnRedis):
    """While Redis is away nothing is found and nothing is kept; `missed` counts such calls."""

    def __init__(self, server: RedisServer | str, *, password: str = "") -> None:
        """As `RedisServer`."""
        super().__init__(server, password)
        self.missed = 0

    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        if not keys:
            return {}
        try:
            with self.server.client() as client:
                values = client.mget([self.server.key("cache", key) for key in keys])
        except Unavailable as error:
            self._miss(error)
            return {}
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def put_many(self, items: Mapping[str, bytes], *, ttl_s: float) -> None:
        if not items:
            return
        ttl_ms = max(1, round(ttl_s * 1000))
        try:
            with self.server.client() as client, client.pipeline(transaction=False) as pipe:
                for key, value in items.items():
                    pipe.set(self.server.key("cache", key), value, px=ttl_ms)
                pipe.execute()
        except Unavailable as error:
            self._miss(error)

    def _miss(self, error: Unavailable) -> None:
        if self.missed == 0:
            logger.warning("the cache is away and taken for empty: %s", error)
        self.missed += 1
