"""The coordination ports: a cache, locks, rate limits and cool-downs that several processes share.

Contract (proved by `headspring.knowledge.testing.CoordinationContract` on every backend):

- Nothing here is durable. A backend may lose everything at any moment, and then a cache is empty, no lock is held,
  no limit is used up. What must not happen twice for that is guarded where it happens: with a lock's token.
- *Cache*: what was put is got until its time is over or the backend lets go of it; a miss is never an error.
- *Locks*: at most one holder at a time, as long as the backend keeps its data. Every acquisition of a name has a
  greater token than all before it, also after the backend lost its data, so a resource that keeps the greatest
  token it has seen can refuse a holder that was overtaken. A lease ends by itself.
- *Rate limits*: within any `window_s`, at most `limit` of a key is allowed, over all processes. What was used comes
  back at the latest a tenth of the window late.
- *Cool-downs*: of several that begin one at the same time, one is told that it did.
- While the backend is away, locks and cool-downs raise `Unavailable` (nobody may go on unguarded); a cache has
  nothing; rate limits count within each process, and `degraded` tells so.
- Keys are texts. Whatever belongs to a tenant has it in its key: `scoped`.
- Calls block; run them in a thread from an event loop. Objects may be used by several threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote


def scoped(tenant: str, *parts: str) -> str:
    """A key of a tenant; no two lists of parts give the same.

    >>> scoped("a", "b/c") == scoped("a", "b", "c")
    False
    """
    return "/".join(quote(part, safe="") for part in (tenant, *parts))


class Cache(Protocol):
    """See the module's contract."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """What is there, by key."""
        ...

    def put_many(self, items: Mapping[str, bytes], *, ttl_s: float) -> None:
        """Replaces what was there; each is gone after `ttl_s`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lock that is held."""

    name: str
    owner: str
    """Who holds it: random, and known to the holder alone."""
    token: int
    """Greater than that of every earlier holder; to be stored and compared by what the lock guards."""
    ends_s: float
    """On the holder's monotonic clock, reckoned from before it asked: the backend's lease ends no earlier."""


class Locks(Protocol):
    """See the module's contract."""

    def acquire(self, name: str, *, ttl_s: float) -> Lease | None:
        """None: somebody holds it.

        Raises:
            Unavailable
        """
        ...

    def renew(self, lease: Lease, *, ttl_s: float) -> Lease:
        """The same lease, token and all, for `ttl_s` from now.

        Raises:
            Conflict: it ended, and whatever it guarded may be another's by now.
            Unavailable
        """
        ...

    def release(self, lease: Lease) -> bool:
        """Whether it was held until now.

        Raises:
            Unavailable: it ends by itself in time.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a rate limit says."""

    allowed: bool
    remaining: int
    """Of the limit, after this."""
    retry_after_s: float
    """Until the same is allowed, if nobody takes it first; 0 when allowed."""


class RateLimiter(Protocol):
    """See the module's contract."""

    @property
    def degraded(self) -> bool:
        """Whether it counts for this process alone, because the backend is away."""
        ...

    def allow(self, key: str, *, limit: int, window_s: float, cost: int = 1) -> Decision:
        """Takes `cost` from the key's limit if there is so much left, and nothing otherwise. A cost of 0 takes
        nothing and tells whether 1 would be allowed.

        Raises:
            ValueError: limit or window are not above 0, or the cost is more than the limit.
        """
        ...


class CoolDowns(Protocol):
    """See the module's contract."""

    def begin(self, key: str, *, duration_s: float) -> bool:
        """Whether it began now; False while an earlier one lasts.

        Raises:
            Unavailable
        """
        ...

    def left_s(self, key: str) -> float:
        """Until it is over; 0 when there is none.

        Raises:
            Unavailable
        """
        ...
