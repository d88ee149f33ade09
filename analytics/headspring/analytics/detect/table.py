"""What detection knows of one tenant's series: flat columns, one row a series, with growth, lookup and snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.detect.baseline import RING, usual
from headspring.analytics.detect.judge import RECENT
from headspring.analytics.detect.policy import Policy, rule_of
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import SeriesDescriptor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FIRST_ROWS = 256
_FORGET_NS = 3600 * NS_PER_S
"""Where room is needed, a series silent for so long makes it: its windows are gone by then too."""
_GAP_S = 300.0
"""Values from before a gap of a window's length are not "now"."""
_LAG_FADE = 0.99
_COLUMNS: dict[str, tuple[str, tuple[int, ...], float]] = {
    "ids": ("u8", (), 0), "policy": ("u1", (), 0), "edge": ("u1", (), 0), "floor": ("f8", (), 0),
    "scale": ("f8", (), 1), "link": ("i8", (), -1), "first_ns": ("i8", (), 0), "last_ns": ("i8", (), 0),
    "learned_ns": ("i8", (), 0), "masked_ns": ("i8", (), 0), "low_from_ns": ("i8", (), 0), "count": ("i8", (), 0),
    "head": ("i8", (), 0), "updates": ("i8", (), 0), "interval_s": ("f8", (), 0), "lag_s": ("f8", (), 0),
    "ring": ("f4", (RING,), np.inf), "recent": ("f4", (RECENT,), np.nan), "median": ("f8", (), 0),
    "up": ("f8", (), 0), "down": ("f8", (), 0), "mean": ("f8", (), 0), "variance": ("f8", (), 0),
    "state": ("u1", (), 0), "since_ns": ("i8", (), 0), "streak": ("i8", (), 0), "judge": ("u1", (), 0),
    "starts_ns": ("i8", (), 0), "told_ns": ("i8", (), 0), "severity": ("u1", (), 0), "score": ("f8", (), 0),
    "value": ("f8", (), 0), "low": ("f8", (), 0), "high": ("f8", (), 0),
}  # fmt: skip
"""Column → type, shape of a row, value of a fresh row. All of it is in snapshots."""


class Table:
    """Columns are attributes in `col`; only their first `size` rows mean anything."""

    def __init__(self, *, max_series: int) -> None:
        self.size = 0
        self.homeless = 0
        """Series that found no room."""
        self.max_series = max_series
        self.series: list[SeriesDescriptor] = []
        """Of each row."""
        self.heard_s: Floats = np.zeros(_FIRST_ROWS)
        """Monotonic time each row last reported, of this process; not in snapshots."""
        self.silence_from_s = 0.0
        """Monotonic time from which silence means something, of this process; not in snapshots."""
        self.col: dict[str, NDArray[Any]] = {
            name: np.full((_FIRST_ROWS, *shape), fresh, dtype=kind) for name, (kind, shape, fresh) in _COLUMNS.items()
        }
        self._row_of: dict[int, int] = {}
        self._rates: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._waiting: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        self._sorted: NDArray[np.uint64] | None = None
        self._order: Ints = np.zeros(0, dtype=np.int64)

    def describe(self, series: SeriesDescriptor, now_s: float) -> None:
        """A series that is new, or described anew; one that nobody judges gets no row."""
        rule = rule_of(series)
        row = self._row_of.get(series.series_id)
        if row is None:
            if rule.policy is Policy.NONE or not self._room():
                return
            row = self.size
            self._grow(row + 1)
            self.size += 1
            self.series.append(series)
            self._row_of[series.series_id] = row
            self._sorted = None
            for name, (_, _, fresh) in _COLUMNS.items():
                self.col[name][row] = fresh
            self.col["ids"][row] = series.series_id
            self.heard_s[row] = now_s
        self.series[row] = series
        self.col["policy"][row], self.col["edge"][row] = rule.policy, rule.edge
        self.col["floor"][row], self.col["scale"][row] = rule.floor, rule.scale
        self._join(row)

    def find(self, ids: NDArray[np.uint64]) -> Ints:
        """Row of each series, shape (n,); -1 where there is none."""
        if not self.size:
            return np.full(ids.size, -1, dtype=np.int64)
        if self._sorted is None:
            known = self.col["ids"][: self.size]
            self._order = np.argsort(known, kind="stable")
            self._sorted = known[self._order]
        at = np.minimum(np.searchsorted(self._sorted, ids), self._sorted.size - 1)
        return np.where(self._sorted[at] == ids, self._order[at], -1)

    def take(self, rows: Ints, times: Ints, values: Floats, newest_ns: int, now_s: float) -> None:
        """The newest value of each of `rows` (all different), newer than what they had."""
        col = self.col
        before = col["last_ns"][rows]
        first = before == 0
        gap_s = np.where(first, 0.0, (times - before) / NS_PER_S)
        interval = col["interval_s"][rows]
        known = interval > 0
        moved = interval + (np.minimum(gap_s, 4 * interval) - interval) / 8
        col["interval_s"][rows] = np.where(known, moved, gap_s)
        col["lag_s"][rows] = np.maximum(col["lag_s"][rows] * _LAG_FADE, np.maximum(newest_ns - times, 0) / NS_PER_S)
        recent = col["recent"][rows]
        recent[gap_s > _GAP_S] = np.nan
        recent[:, 1:] = recent[:, :-1].copy()
        recent[:, 0] = values
        col["recent"][rows] = recent
        col["first_ns"][rows] = np.where(first, times, col["first_ns"][rows])
        col["last_ns"][rows] = times
        col["updates"][rows] += 1
        self.heard_s[rows] = now_s

    def learn(self, rows: Ints, times: Ints, every_ns: int) -> None:
        """Takes the newest values of `rows` into their baselines where it is time."""
        col = self.col
        due = (col["count"][rows] < RING) | (times - col["learned_ns"][rows] >= every_ns)
        rows, times = rows[due], times[due]
        if not rows.size:
            return
        col["ring"][rows, col["head"][rows]] = col["recent"][rows, 0]
        col["head"][rows] = (col["head"][rows] + 1) % RING
        col["count"][rows] = np.minimum(col["count"][rows] + 1, RING)
        col["learned_ns"][rows] = times
        found = usual(col["ring"][rows], col["count"][rows])
        for name in ("median", "up", "down", "mean", "variance"):
            col[name][rows] = getattr(found, name)

    def start_again(self, rows: Ints) -> None:
        """Forgets what was usual: the present is the new normal, learned from here on."""
        for name in ("count", "head", "updates", "first_ns", "masked_ns", "median", "up", "down", "mean", "variance"):
            self.col[name][rows] = 0
        self.col["first_ns"][rows] = self.col["last_ns"][rows]
        self.col["ring"][rows] = np.inf

    def dump(self) -> dict[str, NDArray[Any]]:
        """All state as arrays; descriptors as length-prefixed protobuf."""
        encoded = [codec.encode(series) for series in self.series]
        return {
            **{name: column[: self.size] for name, column in self.col.items()},
            "text": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "lengths": np.array([len(one) for one in encoded], dtype=np.int64),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], *, max_series: int, now_s: float) -> Table:
        """What `dump` gave.

        Raises:
            ContractError: the arrays are not such a dump.
        """
        table = cls(max_series=max_series)
        size = int(arrays["ids"].size)
        table._grow(size)
        for name, (kind, shape, _) in _COLUMNS.items():
            if arrays[name].shape != (size, *shape) or arrays[name].dtype != np.dtype(kind):
                raise ContractError(f"snapshot column {name} is {arrays[name].dtype} {arrays[name].shape}")
            table.col[name][:size] = arrays[name]
        text, at = arrays["text"].tobytes(), 0
        for length in arrays["lengths"].tolist():
            table.series.append(codec.decode(SeriesDescriptor, text[at : at + length]))
            at += length
        if len(table.series) != size:
            raise ContractError(f"a snapshot has {len(table.series)} descriptors for {size} series")
        table.size = size
        table.heard_s[:size] = now_s
        table._reindex()
        return table

    # Inside

    def _join(self, row: int) -> None:
        """Error ratios and latencies learn which request rate is theirs, whichever is described first."""
        series = self.series[row]
        key = (series.entity, tuple(sorted(series.labels.items())))
        if series.name in (semantics.SERVICE_REQUEST_RATE, semantics.EDGE_REQUEST_RATE):
            self._rates[key] = row
            for other in self._waiting.pop(key, ()):
                self.col["link"][other] = row
        elif series.name in semantics.DERIVED_METRICS:
            self.col["link"][row] = self._rates.get(key, -1)
            if key not in self._rates and row not in (waiting := self._waiting.setdefault(key, [])):
                waiting.append(row)

    def _room(self) -> bool:
        if self.size < self.max_series:
            return True
        last = self.col["last_ns"][: self.size]
        stay = np.flatnonzero((last > last.max() - _FORGET_NS) | (self.col["state"][: self.size] != 0))
        if stay.size == self.size:
            self.homeless += 1
            return False
        for name, column in self.col.items():
            self.col[name][: stay.size] = column[stay]
        self.heard_s[: stay.size] = self.heard_s[stay]
        self.series = [self.series[row] for row in stay.tolist()]
        self.size = int(stay.size)
        self._reindex()
        return True

    def _reindex(self) -> None:
        self._row_of = {series.series_id: row for row, series in enumerate(self.series)}
        self._rates, self._waiting, self._sorted = {}, {}, None
        for row in range(self.size):
            self._join(row)

    def _grow(self, rows: int) -> None:
        have = self.heard_s.size
        if rows <= have:
            return
        more = max(rows, 2 * have) - have
        self.heard_s = np.concatenate([self.heard_s, np.zeros(more)])
        for name, (kind, shape, fresh) in _COLUMNS.items():
            self.col[name] = np.concatenate([self.col[name], np.full((more, *shape), fresh, dtype=kind)])
