"""What the basic tier knows of each series of one tenant: flat arrays around the kernel, one row a series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.detect.basic import kernel
from headspring.analytics.detect.config import DetectConfig, Rule
from headspring.analytics.detect.roles import Role
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import FeatureBatch
from headspring.proto.errors import ContractError

_FIRST_ROWS = 256
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_RULE_FIELDS = (
    "up", "down", "deviations", "relative_floor", "absolute_floor", "slow_share", "min_updates", "min_observed_s",
    "silence", "saturation", "full", "flat_s",
)  # fmt: skip
"""Of `Rule`, in the order of the kernel's first columns."""


def rule_row(rule: Rule, role: Role) -> Floats:
    """A rule as the kernel reads it, shape (RULE_COLUMNS,)."""
    row = np.zeros(kernel.RULE_COLUMNS)
    row[: len(_RULE_FIELDS)] = [float(getattr(rule, name)) for name in _RULE_FIELDS]
    row[kernel.RATIO] = role is Role.ERROR_RATIO
    row[kernel.TRAFFIC] = role is Role.TRAFFIC
    row[kernel.ENABLED] = rule.enabled
    row[kernel.HOLD_EVALUATIONS] = rule.hold_evaluations
    row[kernel.HOLD] = rule.hold_s
    row[kernel.RECOVER] = rule.recover_s
    row[kernel.NO_DATA] = rule.no_data_s
    return row


UNKNOWN = rule_row(Rule(enabled=False), Role.DETAIL)
"""Until a series is described it is learned and not alerted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of the features of one batch that had something new; columns of equal length."""

    slots: Ints
    time_ns: Ints
    score: Floats
    about: Ints
    value: Floats
    low: Floats
    high: Floats


class Basic:
    """State of many series; `score` is a function of it and its arguments, nothing else."""

    def __init__(self, *, max_series: int) -> None:
        self.homeless = 0
        """Features of series beyond the limit."""
        self._max = max_series
        self.size = 0
        self.ids: NDArray[np.uint64] = np.zeros(_FIRST_ROWS, dtype=np.uint64)
        self.rules: Floats = np.zeros((_FIRST_ROWS, kernel.RULE_COLUMNS))
        self.ring: Floats = np.zeros((_FIRST_ROWS, kernel.RING))
        self.ordered: Floats = np.zeros((_FIRST_ROWS, kernel.RING))
        self.ints: Ints = np.zeros((_FIRST_ROWS, kernel.INTS), dtype=np.int64)
        self.floats: Floats = np.zeros((_FIRST_ROWS, kernel.FLOATS))
        self._sorted: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._order: Ints = np.zeros(0, dtype=np.int64)

    def slots_of(self, ids: NDArray[np.uint64], *, add: bool) -> Ints:
        """Row of each series, shape (n,); -1 for one that is unknown, or beyond the limit where `add`."""
        slots = self._find(ids)
        if add and (slots < 0).any():
            fresh = np.unique(ids[slots < 0])[: max(0, self._max - self.size)]
            if fresh.size:
                self._reserve(self.size + fresh.size)
                rows = slice(self.size, self.size + fresh.size)
                self.ids[rows] = fresh
                self.rules[rows] = UNKNOWN
                self.ints[rows] = 0
                self.ints[rows, kernel.SEEN] = kernel.NEVER
                self.ints[rows, kernel.ODD_FROM] = kernel.NEVER
                self.ints[rows, kernel.RATE_SLOT] = -1
                self.floats[rows] = 0.0
                self.size += fresh.size
                self._index()
            slots = self._find(ids)
        return slots

    def score(self, batch: FeatureBatch, config: DetectConfig) -> Scores:
        """Scores the features and learns from them.

        Raises:
            ContractError: a series is in the batch twice.
        """
        slots = self.slots_of(batch.series_id, add=True)
        home = slots >= 0
        self.homeless += int(slots.size - home.sum())
        slots = slots[home]
        if np.unique(slots).size != slots.size:
            raise ContractError("a feature batch holds a series twice")
        n = slots.size
        times = np.ascontiguousarray(batch.last_time_ns[home], dtype=np.int64)
        score, value, low, high = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
        about = np.empty(n, dtype=np.int64)
        kernel.evaluate(
            slots,
            times,
            np.ascontiguousarray(batch.last[home], dtype=np.float64),
            np.ascontiguousarray(batch.recent_mean[home], dtype=np.float64),
            np.ascontiguousarray(batch.recent_count[home], dtype=np.int64),
            self.rules,
            self.ring,
            self.ordered,
            self.ints,
            self.floats,
            round(config.horizon_s * NS_PER_S),
            round(config.adopt_s * NS_PER_S),
            config.sensitivity,
            score,
            about,
            value,
            low,
            high,
        )
        new = ~np.isnan(score)
        return Scores(
            slots=slots[new],
            time_ns=times[new],
            score=score[new],
            about=about[new],
            value=value[new],
            low=low[new],
            high=high[new],
        )

    def keep(self, kept: NDArray[np.bool_]) -> Ints:
        """Forgets the rows that are False in `kept`, shape (size,). Returns each old row's new one, -1 gone."""
        moved = np.where(kept, np.cumsum(kept) - 1, -1)
        count = int(kept.sum())
        for array in (self.ids, self.rules, self.ring, self.ordered, self.ints, self.floats):
            array[:count] = array[: self.size][kept]
        self.size = count
        pairs = self.ints[:count, kernel.RATE_SLOT]
        self.ints[:count, kernel.RATE_SLOT] = np.where(pairs >= 0, moved[pairs], -1)
        self._index()
        return moved

    def dump(self) -> dict[str, NDArray[Any]]:
        """Arrays that `load` takes; rules are not among them, they follow from the descriptors."""
        return {
            "ids": self.ids[: self.size],
            "ring": self.ring[: self.size],
            "ordered": self.ordered[: self.size],
            "ints": self.ints[: self.size],
            "floats": self.floats[: self.size],
        }

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes what `dump` gave.

        Raises:
            ContractError: the arrays have other shapes.
        """
        size = int(arrays["ids"].size)
        wanted = {
            "ids": (size,),
            "ring": (size, kernel.RING),
            "ordered": (size, kernel.RING),
            "ints": (size, kernel.INTS),
            "floats": (size, kernel.FLOATS),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise ContractError(f"snapshot column {name} has shape {arrays[name].shape}, wanted {shape}")
        self._reserve(size)
        self.size = size
        for name in wanted:
            getattr(self, name)[:size] = arrays[name]
        self.rules[:size] = UNKNOWN
        self._index()

    def _find(self, ids: NDArray[np.uint64]) -> Ints:
        if not self._sorted.size:
            return np.full(ids.size, -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, ids), self._sorted.size - 1)
        return np.where(self._sorted[at] == ids, self._order[at], -1)

    def _index(self) -> None:
        self._order = np.argsort(self.ids[: self.size], kind="stable")
        self._sorted = self.ids[: self.size][self._order]

    def _reserve(self, rows: int) -> None:
        have = self.ids.size
        if rows <= have:
            return
        more = max(rows, 2 * have) - have
        for name in ("ids", "rules", "ring", "ordered", "ints", "floats"):
            array = getattr(self, name)
            grown = np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=array.dtype)])
            setattr(self, name, grown)
