"""Samples that a server has taken and may still lose.

VictoriaMetrics answers before it writes to disk and keeps the last seconds in memory (`-inmemoryDataFlushInterval`,
5 s): killed, it has lost them, while the event log counts them as stored. So they are kept here until it has
certainly written them, and are sent again when it turns out that it was started anew meanwhile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from headspring.knowledge.series.victoria.samples import Samples


@dataclass(frozen=True, slots=True)
class Sent:
    """One tenant's samples of one flush."""

    tenant: str
    samples: Samples
    at_s: float
    """Monotonic seconds at which the server had taken them."""


class Unsettled:
    """Not thread-safe: its store holds the lock."""

    def __init__(self, *, max_samples: int) -> None:
        self._max_samples = max_samples
        self._sent: deque[Sent] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, tenant: str, since_s: float) -> list[Samples]:
        """A tenant's that were taken since then, oldest first."""
        return [one.samples for one in self._sent if one.tenant == tenant and one.at_s >= since_s]

    def take(self) -> list[Sent]:
        """All of them, oldest first; none is left here."""
        sent, self._sent, self._count = list(self._sent), deque(), 0
        return sent

    def add(self, tenant: str, samples: Samples, at_s: float) -> int:
        """Returns how many were let go before they were settled, for want of room."""
        self._sent.append(Sent(tenant, samples, at_s))
        self._count += len(samples)
        given_up = 0
        while self._count > self._max_samples and len(self._sent) > 1:
            given_up += self._pop()
        return given_up

    def settle(self, before_s: float) -> None:
        """Lets go of what was taken before then: the server lives and has written it."""
        while self._sent and self._sent[0].at_s < before_s:
            self._pop()

    def forget(self, tenant: str) -> None:
        """Samples of a tenant that is deleted are not to come back."""
        self._sent = deque(one for one in self._sent if one.tenant != tenant)
        self._count = sum(len(one.samples) for one in self._sent)

    def _pop(self) -> int:
        count = len(self._sent.popleft().samples)
        self._count -= count
        return count
