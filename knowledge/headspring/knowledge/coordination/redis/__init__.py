"""Coordination on Redis: cache, locks, rate limits and cool-downs shared by processes.

Each class takes a `RedisServer`, which several may share, or an address.
"""

from headspring.knowledge.coordination.redis.cache import RedisCache
from headspring.knowledge.coordination.redis.limits import RedisCoolDowns, RedisRateLimiter
from headspring.knowledge.coordination.redis.locks import RedisLocks
from headspring.knowledge.coordination.redis.server import RedisServer

__all__ = ["RedisCache", "RedisCoolDowns", "RedisLocks", "RedisRateLimiter", "RedisServer"]
