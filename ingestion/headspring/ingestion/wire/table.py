"""Raw hash → series id and kind, for whole columns at once. A cache: it may be emptied at any time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.ingestion.wire.jit import compiled

_FIRST_SLOTS = 1024
_MAX_LOAD = 0.5
"""Open addressing stays near one probe up to here."""


@compiled
def find(keys: Any, ids: Any, kinds: Any, stamps: Any, raws: Any, now_s: int, out_ids: Any, out_kinds: Any) -> int:
    """Fills `out_ids` (0 = unknown) and `out_kinds`, stamps what was found; returns how many are unknown.

    The number of slots is a power of two."""
    mask = np.uint64(keys.size - 1)
    missing = 0
    for row in range(raws.size):
        slot = raws[row] & mask
        while keys[slot] != np.uint64(0) and keys[slot] != raws[row]:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == np.uint64(0):
            out_ids[row] = 0
            missing += 1
        else:
            out_ids[row] = ids[slot]
            out_kinds[row] = kinds[slot]
            stamps[slot] = now_s
    return missing


@compiled
def insert(
    keys: Any, ids: Any, kinds: Any, stamps: Any, raws: Any, new_ids: Any, new_kinds: Any, new_stamps: Any
) -> int:
    """Returns how many were not there yet; there is room for all of them."""
    mask = np.uint64(keys.size - 1)
    added = 0
    for row in range(raws.size):
        slot = raws[row] & mask
        while keys[slot] != np.uint64(0) and keys[slot] != raws[row]:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == np.uint64(0):
            added += 1
        keys[slot] = raws[row]
        ids[slot] = new_ids[row]
        kinds[slot] = new_kinds[row]
        stamps[slot] = new_stamps[row]
    return added


class RawTable:
    """Grows by doubling up to `max_entries`, then starts empty again."""

    def __init__(self, *, max_entries: int) -> None:
        self._max_entries = max_entries
        self._size = 0
        self._reset(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._size

    def lookup(self, raws: NDArray[np.uint64], now_s: int = 0) -> tuple[NDArray[np.uint64], NDArray[np.uint8], int]:
        """Ids (0 = unknown), kind codes and the number of unknown ones, for columns of non-zero hashes.

        What is found counts as seen at `now_s`, unix seconds."""
        ids = np.empty(raws.size, dtype=np.uint64)
        kinds = np.zeros(raws.size, dtype=np.uint8)
        return ids, kinds, find(self._keys, self._ids, self._kinds, self._stamps, raws, now_s, ids, kinds)

    def put(self, raws: NDArray[np.uint64], ids: NDArray[np.uint64], kinds: NDArray[np.uint8], now_s: int = 0) -> None:
        """Remembers columns of equal length."""
        if self._size + raws.size > self._max_entries:
            self._reset(_FIRST_SLOTS)
        slots = self._keys.size
        while (self._size + raws.size) > slots * _MAX_LOAD:
            slots *= 2
        if slots != self._keys.size:
            self._rebuild(slots, self._keys != 0)
        self._insert(raws, ids, kinds, np.full(raws.size, now_s, dtype=np.int64))

    def seen_since(self, since_s: int) -> set[int]:
        """Ids seen at `since_s` or later; the others are forgotten."""
        fresh = (self._keys != 0) & (self._stamps >= since_s)
        if int(fresh.sum()) < self._size:
            self._rebuild(self._keys.size, fresh)
        return set(self._ids[self._keys != 0].tolist())

    def _rebuild(self, slots: int, kept: NDArray[np.bool_]) -> None:
        columns = self._keys[kept], self._ids[kept], self._kinds[kept], self._stamps[kept]
        self._reset(slots)
        self._insert(*columns)

    def _insert(
        self, raws: NDArray[np.uint64], ids: NDArray[np.uint64], kinds: NDArray[np.uint8], stamps: NDArray[np.int64]
    ) -> None:
        self._size += insert(self._keys, self._ids, self._kinds, self._stamps, raws, ids, kinds, stamps)

    def _reset(self, slots: int) -> None:
        self._keys = np.zeros(slots, dtype=np.uint64)
        self._ids = np.zeros(slots, dtype=np.uint64)
        self._kinds = np.zeros(slots, dtype=np.uint8)
        self._stamps = np.zeros(slots, dtype=np.int64)
        self._size = 0
