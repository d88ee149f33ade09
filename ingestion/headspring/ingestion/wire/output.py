"""What the compiled scanners write into, as one argument."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headspring.ingestion.wire.columns import TimeWindow
from headspring.ingestion.wire.hashing import Keys

# Places in `Output.state`.
ROWS, METRICS, REJECTED_TIME, REJECTED_VALUE = 0, 1, 2, 3
# Columns of `Output.metrics`: byte ranges of what a row's series is named by.
RESOURCE_START, RESOURCE_STOP, SCOPE_START, SCOPE_STOP, METRIC_START, METRIC_STOP, DATA_TAG = 0, 1, 2, 3, 4, 5, 6
# Which of a data point's samples a row is.
PLAIN, COUNT, SUM = 0, 1, 2

EXPONENT_BITS = 0x7FF0000000000000
"""Of a double: all set and the rest (but the sign) zero is an infinity."""
MAGNITUDE_BITS = 0x7FFFFFFFFFFFFFFF


class Output(NamedTuple):
    """Arrays of one capacity; rows before `state[ROWS]` are written. A named tuple, because compiled code
    takes those as they are."""

    oldest_ns: int
    newest_ns: int
    keys: Keys
    """Secret words of the hash."""
    times: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """Values as the bits of a double."""
    values: NDArray[np.float64]
    """The same memory as `bits`."""
    raws: NDArray[np.uint64]
    """Hash of all bytes that name the row's series."""
    kinds: NDArray[np.uint8]
    variants: NDArray[np.uint8]
    row_metric: NDArray[np.int32]
    """Row of `metrics`; unused by remote write."""
    row_start: NDArray[np.int32]
    """Where the data point (OTLP) or time series (remote write) is, in bytes."""
    row_stop: NDArray[np.int32]
    metrics: NDArray[np.int32]
    state: NDArray[np.int64]


def new_output(capacity: int, keys: Keys, window: TimeWindow, *, with_metrics: bool) -> Output:
    """Arrays for at most `capacity` rows; memory is only touched where rows are written."""
    bits = np.empty(capacity, dtype=np.uint64)
    return Output(
        oldest_ns=window.oldest_ns,
        newest_ns=window.newest_ns,
        keys=keys,
        times=np.empty(capacity, dtype=np.int64),
        bits=bits,
        values=bits.view(np.float64),
        raws=np.empty(capacity, dtype=np.uint64),
        kinds=np.empty(capacity, dtype=np.uint8),
        variants=np.empty(capacity, dtype=np.uint8),
        row_metric=np.empty(capacity, dtype=np.int32),
        row_start=np.empty(capacity, dtype=np.int32),
        row_stop=np.empty(capacity, dtype=np.int32),
        metrics=np.empty((capacity if with_metrics else 1, 7), dtype=np.int32),
        state=np.zeros(4, dtype=np.int64),
    )
