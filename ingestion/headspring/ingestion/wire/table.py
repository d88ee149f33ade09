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
def find(keys: Any, ids: Any, kinds: Any, raws: Any, out_ids: Any, out_kinds: Any) -> int:
    """Fills `out_ids` (0 = unknown) and `out_kinds`; returns how many are unknown. Slots are a power of two."""
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
    return missing


@compiled
def insert(keys: Any, ids: Any, kinds: Any, raws: Any, new_ids: Any, new_kinds: Any) -> int:
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
    return added


class RawTable:
    """Grows by doubling up to `max_entries`, then starts empty again."""

    def __init__(self, *, max_entries: int) -> None:
        self._max_entries = max_entries
        self._size = 0
        self._reset(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._size

    def lookup(self, raws: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint8], int]:
        """Ids (0 = unknown), kind codes and the number of unknown ones, for columns of non-zero hashes."""
        ids = np.empty(raws.size, dtype=np.uint64)
        kinds = np.zeros(raws.size, dtype=np.uint8)
        return ids, kinds, find(self._keys, self._ids, self._kinds, raws, ids, kinds)

    def put(self, raws: NDArray[np.uint64], ids: NDArray[np.uint64], kinds: NDArray[np.uint8]) -> None:
        """Remembers columns of equal length."""
        if self._size + raws.size > self._max_entries:
            self._reset(_FIRST_SLOTS)
        slots = self._keys.size
        while (self._size + raws.size) > slots * _MAX_LOAD:
            slots *= 2
        if slots != self._keys.size:
            keys, old_ids, old_kinds = self._keys, self._ids, self._kinds
            used = keys != 0
            self._reset(slots)
            self._size = insert(self._keys, self._ids, self._kinds, keys[used], old_ids[used], old_kinds[used])
        self._size += insert(self._keys, self._ids, self._kinds, raws, ids, kinds)

    def _reset(self, slots: int) -> None:
        self._keys = np.zeros(slots, dtype=np.uint64)
        self._ids = np.zeros(slots, dtype=np.uint64)
        self._kinds = np.zeros(slots, dtype=np.uint8)
        self._size = 0
