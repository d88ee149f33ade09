"""Remote-write 1.0 requests in one compiled pass; the rows are as in `otlp_scan`.

Field numbers: prometheus/prompb/types.proto. Requests with metadata or native histograms are left to
the plain path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headspring.ingestion.wire.fields import NOT_TAKEN, OK, field, varint
from headspring.ingestion.wire.hashing import hash_range, load_u64
from headspring.ingestion.wire.jit import compiled, inlined
from headspring.ingestion.wire.output import EXPONENT_BITS, MAGNITUDE_BITS, REJECTED_TIME, REJECTED_VALUE, ROWS, Output

MIN_ROW_BYTES = 5
"""A stored row takes at least its framing and a varint of milliseconds after 1970."""
_SEED = 0xD1B54A32D192ED03
"""Any odd constant; the secret comes with the keys."""
_MS = 1_000_000
_MAX_MS = (2**63 - 1) // _MS


@compiled
def scan_remote_write(buffer: Any, size: int, out: Output) -> int:
    """OK, or NOT_TAKEN with `out` undefined. `buffer` is the address of the request,
    which has 8 bytes of padding behind `size`."""
    position = 0
    while position < size:
        tag, start, stop = field(buffer, position, size)
        if stop < 0 or tag == 26:
            return NOT_TAKEN
        position = stop
        if tag == 10 and _series(buffer, start, stop, out) != OK:
            return NOT_TAKEN
    return OK


@inlined
def _series(buffer: Any, start: int, stop: int, out: Output) -> int:
    raw, position, samples = np.uint64(_SEED), start, stop
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0 or tag == 34:
            return NOT_TAKEN
        before, position = position, field_stop
        if tag == 10:
            raw = hash_range(buffer, field_start, field_stop, raw, out.keys)
        elif tag == 18 and samples == stop:
            samples = before
    position = samples  # by now all is checked, and labels usually come first
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        position = field_stop
        if tag == 18:
            row = out.state[ROWS]
            if row >= out.times.shape[0] or _sample(buffer, field_start, field_stop, raw, out) != OK:
                return NOT_TAKEN
            if out.state[ROWS] > row:
                out.row_start[row] = start
                out.row_stop[row] = stop
    return OK


@inlined
def _sample(buffer: Any, start: int, stop: int, raw: Any, out: Output) -> int:
    word, time_ms, position = np.uint64(0), np.int64(0), start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return NOT_TAKEN
        position = field_stop
        if tag == 9:
            word = load_u64(buffer, field_start)
        elif tag == 16:
            value, _ = varint(buffer, field_start, field_stop)
            time_ms = np.int64(value)
    time_ns = time_ms * np.int64(_MS) if -_MAX_MS <= time_ms <= _MAX_MS else np.int64(0)
    if time_ns < out.oldest_ns or time_ns > out.newest_ns:
        out.state[REJECTED_TIME] += 1
    elif (word & np.uint64(MAGNITUDE_BITS)) == np.uint64(EXPONENT_BITS):
        out.state[REJECTED_VALUE] += 1
    else:
        row = out.state[ROWS]
        out.times[row] = time_ns
        out.bits[row] = word
        out.raws[row] = raw
        out.state[ROWS] = row + 1
    return OK
