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
_SERIES, _METADATA = 10, 26  # of WriteRequest
_LABELS, _SAMPLES, _HISTOGRAMS = 10, 18, 34  # of TimeSeries
_MS = 1_000_000
_MAX_MS = (2**63 - 1) // _MS


@compiled
def scan_remote_write(buffer: Any, size: int, out: Output) -> int:
    """OK, or NOT_TAKEN with `out` undefined. `buffer` is the address of the request,
    which has 8 bytes of padding behind `size`."""
    # Taken out once, and kept out of the functions below: compiled code counts references to arrays wherever it
    # hands them on, and these counts were a third of the scan.
    times, bits, raws, row_start, row_stop = out.times, out.bits, out.raws, out.row_start, out.row_stop
    oldest_ns, newest_ns, keys = out.oldest_ns, out.newest_ns, out.keys
    row, wrong_time, wrong_value, position = 0, 0, 0, 0
    while position < size:
        tag, start, stop = field(buffer, position, size)
        if stop < 0 or tag == _METADATA:
            return NOT_TAKEN
        position = stop
        if tag != _SERIES:
            continue
        raw, inner = _labels(buffer, start, stop, keys)
        if inner < 0:
            return NOT_TAKEN
        while inner < stop:
            tag, sample_start, sample_stop = field(buffer, inner, stop)
            inner = sample_stop
            if tag != _SAMPLES:
                continue
            word, time_ns = _sample(buffer, sample_start, sample_stop)
            if time_ns < 0 or row >= times.shape[0]:
                return NOT_TAKEN
            if time_ns < oldest_ns or time_ns > newest_ns:
                wrong_time += 1
            elif (word & np.uint64(MAGNITUDE_BITS)) == np.uint64(EXPONENT_BITS):
                wrong_value += 1
            else:
                times[row] = time_ns
                bits[row] = word
                raws[row] = raw
                row_start[row] = start
                row_stop[row] = stop
                row += 1
    out.state[ROWS] = row
    out.state[REJECTED_TIME] = wrong_time
    out.state[REJECTED_VALUE] = wrong_value
    return OK


@inlined
def _labels(buffer: Any, start: int, stop: int, keys: Any) -> Any:
    """(hash of a series' labels, position of its first sample); position -1 where it is not taken, `stop` where it
    has no sample. All its fields are checked here."""
    raw, position, first_sample = np.uint64(_SEED), start, stop
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0 or tag == _HISTOGRAMS:
            return raw, -1
        if tag == _LABELS:
            raw = hash_range(buffer, field_start, field_stop, raw, keys)
        elif tag == _SAMPLES and first_sample == stop:
            first_sample = position
        position = field_stop
    return raw, first_sample


@inlined
def _sample(buffer: Any, start: int, stop: int) -> Any:
    """(bits of the value, time in ns); time -1 where it is malformed, 0 where it cannot be told in ns."""
    word, time_ms, position = np.uint64(0), np.int64(0), start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return word, np.int64(-1)
        position = field_stop
        if tag == 9:
            word = load_u64(buffer, field_start)
        elif tag == 16:
            value, _ = varint(buffer, field_start, field_stop)
            time_ms = np.int64(value)
    return word, time_ms * np.int64(_MS) if 0 <= time_ms <= _MAX_MS else np.int64(0)
