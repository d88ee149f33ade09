"""The series port: samples in, ranges out.

Contract (proved by `headspring.knowledge.testing.SeriesStoreContract` on every backend):

- Times are kept in whole milliseconds, rounded down (Prometheus' precision), whatever finer was sent. Values are
  kept to twelve significant digits, and to 1e-14 of the largest of their series; NaN, an explicit gap, and infinities
  stay what they are.
- The same (series, time) is read back once, however often it was written. Of different values for one time one
  stays; which of them is the backend's choice.
- A process reads what it wrote itself at once; others see it within `VISIBLE_WITHIN_S`, or when `settle` returned.
- Durability is the event log's. Where a store holds writes back until `flush`, samples are kept when `flush`
  returned; if it raises, write them again. A store that dies and comes back is filled again by who wrote to it.
- A series can be found from its first sample on. Samples that came before their series was registered are read
  by id.
- `select` returns samples with start_ns <= time < end_ns in time order, each series once, series
  ordered by name and then by labels.
- A series described anew is found by its new labels, with all its samples by id. By its old labels a backend may
  still find what was written under them.
- Samples that a server's retention no longer takes, or more than a day ahead of now, may be dropped.
- Reads and writes may come from several threads.
- Errors: `Unavailable` when the store cannot answer now; `QueryError` for a matcher that cannot be used;
  `LimitExceeded` when an answer would be larger than asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

PRECISION_NS = 1_000_000
"""Times are kept in multiples of this."""
VISIBLE_WITHIN_S = 12.0
"""From a write's return, or `flush`'s, until another process reads a series' first sample. `settle` waits for it."""
KNOWN_VISIBLE_WITHIN_S = 3.0
"""The same for further samples of a series."""


class MatchOp(StrEnum):
    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A label condition. The name of a metric is the label `__name__`, in its Prometheus spelling
    (`headspring.proto.semantics.prometheus_name`) or as it was sent. `__entity__` is the entity id.
    Regular expressions are anchored at both ends. A missing label counts as the empty string."""

    label: str
    op: MatchOp
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesData:
    descriptor: SeriesDescriptor
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]


class SeriesStore(Protocol):
    """See the module's contract."""

    def register(self, descriptors: Sequence[SeriesDescriptor]) -> None:
        """Makes series known; must come before their samples can be selected by label."""
        ...

    def write(self, batch: MetricBatch) -> None: ...

    def tenants(self) -> Sequence[str]:
        """Tenants that have series here, sorted."""
        ...

    def descriptor(self, tenant: str, series_id: int) -> SeriesDescriptor | None: ...

    def find(self, tenant: str, matchers: Sequence[Matcher], *, limit: int = 10_000) -> Sequence[SeriesDescriptor]:
        """The first `limit` series that match, ordered by name and labels."""
        ...

    def select(
        self, tenant: str, matchers: Sequence[Matcher], *, start_ns: int, end_ns: int, limit: int = 10_000
    ) -> Sequence[SeriesData]:
        """Samples of the series that match.

        Raises:
            LimitExceeded: more than `limit` series match; a backend may count those with samples in the range only.
        """
        ...

    def select_ids(
        self, tenant: str, series_ids: Sequence[int], *, start_ns: int, end_ns: int
    ) -> Mapping[int, SeriesData]:
        """By id; series without a sample in the range, or never registered for the tenant, are left out."""
        ...

    def drop_before(self, time_ns: int) -> int:
        """Retention: forgets older samples; returns how many. A server that has a retention of its own forgets
        by that one instead, and the answer is 0."""
        ...

    def delete_tenant(self, tenant: str) -> None:
        """Forgets a tenant that sends no more: its series and all their samples, before it returns."""
        ...

    def settle(self) -> None:
        """Returns when every process reads what this one wrote before."""
        ...

    def close(self) -> None: ...
