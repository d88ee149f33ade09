"""The series port: samples in, ranges out.

Contract (proved by `headspring.knowledge.testing.SeriesStoreContract` on every backend):

- `write` is idempotent: the same (series, time) written twice reads back once, the later value wins.
- A written sample can be read at once. Durability is the event log's: after a crash the store is
  filled again from its committed position.
- `select` returns samples with start_ns <= time < end_ns in time order, each series once, series
  ordered by name and then by labels.
- Reads and writes may come from several threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headspring.proto.telemetry import MetricBatch, SeriesDescriptor


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

    def descriptor(self, tenant: str, series_id: int) -> SeriesDescriptor | None: ...

    def find(self, tenant: str, matchers: Sequence[Matcher], *, limit: int = 10_000) -> Sequence[SeriesDescriptor]:
        """Series that match, ordered by name and labels."""
        ...

    def select(
        self, tenant: str, matchers: Sequence[Matcher], *, start_ns: int, end_ns: int, limit: int = 10_000
    ) -> Sequence[SeriesData]:
        """Samples of the series that match.

        Raises:
            LimitExceeded: more than `limit` series match.
        """
        ...

    def select_ids(
        self, tenant: str, series_ids: Sequence[int], *, start_ns: int, end_ns: int
    ) -> Mapping[int, SeriesData]: ...

    def drop_before(self, time_ns: int) -> int:
        """Retention: forgets older samples; returns how many."""
        ...

    def close(self) -> None: ...
