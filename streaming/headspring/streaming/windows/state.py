"""The window state of one shard: flat arrays around the pane kernel, with growth, forgetting and snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.proto.errors import ContractError
from headspring.streaming.windows.kernel import CELL, NONE_NS, Floats, Ids, Ints, admit, evaluate, find_slots, group

_FIRST_SERIES = 1024
_SETTLE_AT = 1 << 18
"""Waiting samples that make room by settling although nobody asked for features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """Shape of the windows of one stage; a snapshot only fits the spec it was made with."""

    pane_ns: int
    panes: int
    """Panes in a window."""
    lateness_ns: int
    max_series: int
    """More series than this are counted and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Columns of equal length, one row a series; see `FeatureBatch` for their meaning."""

    series_id: Ids
    count: Ints
    mean: Floats
    std: Floats
    minimum: Floats
    maximum: Floats
    first: Floats
    last: Floats
    last_time_ns: Ints
    recent_mean: Floats
    recent_count: Ints

    def __len__(self) -> int:
        return int(self.series_id.size)


class PaneState:
    """Panes of many series. `update` is a function of this state and its arguments, nothing else."""

    def __init__(self, spec: WindowSpec) -> None:
        self.spec = spec
        self.series = 0
        """Series known."""
        self.late = 0
        """Samples that came later than the lateness allows, or again after that."""
        self.homeless = 0
        """Samples of series beyond `max_series`."""
        self.repeated = 0
        """Samples with the time of another of their series; one of them counts."""
        self._waiting = 0
        self._unsettled = 0
        """Samples that had to go on waiting at the last evaluation. Only twice as many are worth the next one, or
        series with many samples within the lateness would be sorted anew with every batch."""
        self._allocate(_FIRST_SERIES)
        self._allocate_waiting(4096)

    def update(self, ids: Ids, times: Ints, values: Floats, kinds: NDArray[np.uint8], watermark_ns: int) -> Features:
        """Takes a batch, forgets series that have been silent since `watermark_ns`, returns changed features."""
        self.take(ids, times, values, kinds)
        self.forget(watermark_ns)
        return self.features()

    def take(self, ids: Ids, times: Ints, values: Floats, kinds: NDArray[np.uint8]) -> None:
        """Takes samples (columns of equal length) in order of arrival."""
        slots = self._slots(np.ascontiguousarray(ids, dtype=np.uint64))
        keep = np.empty(slots.size, dtype=np.uint8)
        late, homeless = admit(slots, times, values, self.spec.lateness_ns, self._newest, self._changed, keep)
        self.late += late
        self.homeless += homeless
        if late or homeless:
            kept = keep.astype(bool)
            slots, times, values, kinds = slots[kept], times[kept], values[kept], kinds[kept]
        end = self._waiting + slots.size
        self._make_room(end)
        where = slice(self._waiting, end)
        self._w_slot[where], self._w_time[where] = slots, times
        self._w_value[where], self._w_kind[where] = values, kinds
        self._waiting = end
        if end > max(_SETTLE_AT, 4 * self.series, 2 * self._unsettled):
            self._evaluate(emit=False)

    def features(self, *, everything: bool = False) -> Features:
        """Rows of the series that had samples since the last call; of all that have any, with `everything`."""
        if everything:
            self._changed[: self.series] = 1
        rows, ints, floats = self._evaluate(emit=True)
        return Features(
            series_id=self._ids[rows],
            count=ints[:, 0].copy(),
            mean=floats[:, 0].copy(),
            std=np.sqrt(floats[:, 1]),
            minimum=floats[:, 2].copy(),
            maximum=floats[:, 3].copy(),
            first=floats[:, 4].copy(),
            last=floats[:, 5].copy(),
            last_time_ns=ints[:, 1].copy(),
            recent_mean=floats[:, 6].copy(),
            recent_count=ints[:, 2].copy(),
        )

    @property
    def newest_ns(self) -> int:
        """Newest event time of any series; 0 if there is none."""
        return int(self._newest[: self.series].max()) if self.series else 0

    def forget(self, before_ns: int) -> int:
        """Drops series whose newest sample is older than `before_ns`, once they are a quarter of all."""
        stale = self._newest[: self.series] < before_ns
        gone = int(stale.sum())
        if gone * 4 < self.series or gone == 0:
            return 0
        stay = np.flatnonzero(~stale)
        moved = np.full(self.series, -1, dtype=np.int64)
        moved[stay] = np.arange(stay.size)
        slots = moved[self._w_slot[: self._waiting]]
        kept = slots >= 0
        columns = {name: column[: self.series][stay] for name, column in self._columns().items()}
        waiting = {name: column[: self._waiting][kept] for name, column in self._waiting_columns().items()}
        waiting["w_slot"] = slots[kept]
        self._fill({**columns, **waiting})
        return gone

    def dump(self) -> dict[str, NDArray[Any]]:
        """All state as arrays; `load` takes them back."""
        columns = {name: column[: self.series] for name, column in self._columns().items()}
        waiting = {name: column[: self._waiting] for name, column in self._waiting_columns().items()}
        spec = self.spec
        numbers = np.array(
            [spec.pane_ns, spec.panes, spec.lateness_ns, self.late, self.homeless, self.repeated], dtype=np.int64
        )
        return {**columns, **waiting, "numbers": numbers}

    @classmethod
    def load(cls, spec: WindowSpec, arrays: Mapping[str, NDArray[Any]]) -> PaneState | None:
        """The state that `dump` gave; None where it was made with other windows and so means nothing here.

        Raises:
            ContractError: the arrays are not such a dump.
        """
        state = cls(spec)
        try:
            pane_ns, panes, _, state.late, state.homeless, state.repeated = (int(n) for n in arrays["numbers"])
            if (pane_ns, panes) != (spec.pane_ns, spec.panes):
                return None
            state._fill(arrays)
        except (KeyError, ValueError) as error:
            raise ContractError(f"a window snapshot does not hold what it should: {error!r}") from error
        return state

    # Inside

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {
            "ids": self._ids,
            "cells": self._cells,
            "newest": self._newest,
            "last_time": self._last_time,
            "prev_time": self._prev_time,
            "prev_value": self._prev_value,
            "changed": self._changed,
        }

    def _waiting_columns(self) -> dict[str, NDArray[Any]]:
        return {"w_slot": self._w_slot, "w_time": self._w_time, "w_value": self._w_value, "w_kind": self._w_kind}

    def _allocate(self, capacity: int) -> None:
        self._ids = np.zeros(capacity, dtype=np.uint64)
        self._cells = np.zeros((capacity, self.spec.panes, CELL), dtype=np.float64)
        self._newest = np.full(capacity, NONE_NS, dtype=np.int64)
        self._last_time = np.full(capacity, NONE_NS, dtype=np.int64)
        self._prev_time = np.full(capacity, NONE_NS, dtype=np.int64)
        self._prev_value = np.zeros(capacity, dtype=np.float64)
        self._changed = np.zeros(capacity, dtype=np.uint8)
        self._table = np.zeros(1 << (2 * capacity).bit_length(), dtype=np.int64)

    def _make_room(self, samples: int) -> None:
        if samples <= self._w_slot.size:
            return
        have = self._waiting_columns()
        self._allocate_waiting(1 << samples.bit_length())
        for name, column in self._waiting_columns().items():
            column[: self._waiting] = have[name][: self._waiting]

    def _allocate_waiting(self, size: int) -> None:
        self._w_slot = np.empty(size, dtype=np.int64)
        self._w_time = np.empty(size, dtype=np.int64)
        self._w_value = np.empty(size, dtype=np.float64)
        self._w_kind = np.empty(size, dtype=np.uint8)

    def _fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Becomes what the arrays say: known series in slot order, and waiting samples."""
        series = int(arrays["ids"].size)
        self._allocate(max(_FIRST_SERIES, 1 << series.bit_length()))
        for name, column in self._columns().items():
            column[:series] = arrays[name]
        self.series = series
        self._reindex()
        self._waiting = 0
        waiting = int(arrays["w_slot"].size)
        self._make_room(waiting)
        for name, column in self._waiting_columns().items():
            column[:waiting] = arrays[name]
        if waiting and not 0 <= int(self._w_slot[:waiting].min()) <= int(self._w_slot[:waiting].max()) < series:
            raise ContractError("a window snapshot has waiting samples of series it does not have")
        self._waiting = waiting

    def _reindex(self) -> None:
        known = self._ids[: self.series].copy()
        _, found = find_slots(self._table, self._ids, 0, known.size, known, np.empty(known.size, dtype=np.int64))
        if found != self.series:
            raise ContractError(f"a window snapshot has {self.series} series, {found} of them different")

    def _slots(self, ids: Ids) -> Ints:
        slots = np.empty(ids.size, dtype=np.int64)
        done = 0
        while True:
            step, self.series = find_slots(
                self._table, self._ids, self.series, self.spec.max_series, ids[done:], slots[done:]
            )
            done += step
            if done == ids.size:
                return slots
            self._grow()

    def _grow(self) -> None:
        old = self._columns()
        self._allocate(2 * self._ids.size)
        for name, column in self._columns().items():
            column[: self.series] = old[name][: self.series]
        self._reindex()

    def _evaluate(self, *, emit: bool) -> tuple[Ints, Ints, Floats]:
        used = slice(0, self._waiting)
        slots, times = self._w_slot[used], self._w_time[used]
        values, kinds = self._w_value[used], self._w_kind[used]
        order, starts = group(slots, times, values, self.series)
        waiting = np.empty(self._waiting, dtype=np.int64)
        most = int(self._changed[: self.series].sum()) if emit else 0
        rows = np.empty(most, dtype=np.int64)
        ints = np.empty((most, 3), dtype=np.int64)
        floats = np.empty((most, 7), dtype=np.float64)
        left, made, repeated = evaluate(
            order, starts, times, values, kinds, self.spec.lateness_ns, self.spec.pane_ns, self._cells, self._newest,
            self._last_time, self._prev_time, self._prev_value, self._changed, emit, waiting, rows, ints, floats,
        )  # fmt: skip
        self.repeated += repeated
        kept = waiting[:left]
        for column in (self._w_slot, self._w_time, self._w_value, self._w_kind):
            column[:left] = column[used][kept]
        self._waiting = self._unsettled = left
        return rows[:made], ints[:made], floats[:made]
