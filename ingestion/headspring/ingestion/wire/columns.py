"""What decoding a metric request gives: columns, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headspring.proto.clock import NS_PER_S

TOO_OLD_OR_NEW = "the time is missing, too old or too far ahead"
NO_VALUE = "the data point has no finite value"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """Event times that are taken, both ends inclusive, unix nanoseconds."""

    oldest_ns: int
    newest_ns: int

    @classmethod
    def around(cls, now_ns: int, *, max_age_s: float, max_future_s: float) -> TimeWindow:
        return cls(
            # Time 0 means "not set" in OTLP, so it is never in.
            oldest_ns=max(1, now_ns - int(max_age_s * NS_PER_S)),
            newest_ns=now_ns + int(max_future_s * NS_PER_S),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Samples of one request, in wire order; columns of equal length n."""

    series_id: NDArray[np.uint64]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    kind: NDArray[np.uint8]
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples left out, by reason in words."""

    def __len__(self) -> int:
        return int(self.series_id.size)


class ColumnBuilder:
    """Rows one by one, for the plain paths."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, float, int]] = []
        self.rejected: Counter[str] = Counter()

    def add(self, series_id: int, time_ns: int, value: float, kind: int) -> None:
        self._rows.append((series_id, time_ns, value, kind))

    def build(self) -> Columns:
        ids, times, values, kinds = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        return Columns(
            series_id=np.array(ids, dtype=np.uint64),
            time_ns=np.array(times, dtype=np.int64),
            value=np.array(values, dtype=np.float64),
            kind=np.array(kinds, dtype=np.uint8),
            rejected=self.rejected,
        )
