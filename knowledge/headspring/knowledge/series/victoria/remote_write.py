"""Columns of samples as Prometheus remote-write requests (protobuf inside snappy).

It costs us less than JSON lines (`tests/benchmarks/results/series_stores.md`), sends an eighth of the bytes, and it
alone carries the stale marker that our gaps are. The labels of a series are encoded once and kept; the samples of a
whole batch are laid out by NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cramjam
import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.series.victoria.labels import Labels

STALE_BITS = 0x7FF0000000000002
"""Prometheus' stale marker, a NaN of these bits (model/value/value.go); other NaNs are dropped by the server."""
_SAMPLE_BYTES = 18
_TIME_BYTES = 6
MIN_MS, MAX_MS = 1 << 35, (1 << 42) - 1
"""Times whose varint has six bytes: February 1971 to May 2109. No server keeps others."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples as one request."""

    body: bytes
    count: int


def encoded_labels(labels: Labels) -> bytes:
    """The repeated field `labels` of a TimeSeries."""
    return b"".join(_field(0x0A, _field(0x0A, name.encode()) + _field(0x12, value.encode())) for name, value in labels)


def requests(
    labels: Sequence[bytes], counts: NDArray[np.int64], time_ms: NDArray[np.int64], value: NDArray[np.float64],
    *, max_bytes: int,
) -> Iterator[Part]:  # fmt: skip
    """Requests of about `max_bytes` before compression at most.

    Args:
        labels: of each series, encoded.
        counts: of each series' samples, which follow one another in `time_ms` and `value`.
        time_ms: within MIN_MS..MAX_MS.
    """
    rows = _samples(time_ms, value)
    ends = np.cumsum(counts)
    sizes = np.fromiter(map(len, labels), dtype=np.int64, count=len(labels)) + counts * _SAMPLE_BYTES
    request = np.cumsum(sizes) // max_bytes
    cuts = [0, *(np.flatnonzero(np.diff(request)) + 1).tolist(), len(labels)]
    at = [0, *(ends * _SAMPLE_BYTES).tolist()]
    for first, end in pairwise(cuts):
        # Columns of pieces, interleaved: a loop over series in the interpreter costs three times as much.
        parts: list[bytes] = [b""] * (3 * (end - first))
        parts[0::3] = [_head(size) for size in sizes[first:end].tolist()]
        parts[1::3] = labels[first:end]
        parts[2::3] = [rows[left:right] for left, right in pairwise(at[first : end + 1])]
        yield Part(bytes(cramjam.snappy.compress_raw(b"".join(parts))), int(counts[first:end].sum()))


@lru_cache(maxsize=16_384)
def _head(size: int) -> bytes:
    """Tag and length of a TimeSeries of so many bytes; series of a kind have few lengths."""
    return b"\x0a" + _varint(size)


def _samples(time_ms: NDArray[np.int64], value: NDArray[np.float64]) -> bytes:
    """Each sample as the field `samples`: 2 bytes of header, double, varint of six bytes."""
    bits = value.astype("<f8").view("<u8")
    bits[np.isnan(value)] = STALE_BITS
    rows = np.empty((value.size, _SAMPLE_BYTES), dtype=np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = 0x12, _SAMPLE_BYTES - 2, 0x09
    rows[:, 3:11] = bits.view(np.uint8).reshape(-1, 8)
    rows[:, 11] = 0x10
    for index in range(_TIME_BYTES):
        more = 0x80 if index < _TIME_BYTES - 1 else 0
        rows[:, 12 + index] = ((time_ms >> (7 * index)) & 0x7F) | more
    return rows.tobytes()


def _field(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
