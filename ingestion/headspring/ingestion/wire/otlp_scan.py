"""OTLP metric requests in one compiled pass over their bytes, without message objects.

Writes one row a sample: time, value, kind, a hash of all bytes that name its series, and where these
bytes are. Field numbers: opentelemetry-proto, metrics/v1/metrics.proto; a tag is number × 8 + wire type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headspring.ingestion.wire.fields import NOT_TAKEN, OK, field, varint
from headspring.ingestion.wire.hashing import hash_range, load_u64
from headspring.ingestion.wire.jit import compiled, inlined
from headspring.ingestion.wire.output import (
    COUNT,
    DATA_TAG,
    EXPONENT_BITS,
    MAGNITUDE_BITS,
    METRIC_START,
    METRIC_STOP,
    METRICS,
    PLAIN,
    REJECTED_TIME,
    REJECTED_VALUE,
    RESOURCE_START,
    RESOURCE_STOP,
    ROWS,
    SCOPE_START,
    SCOPE_STOP,
    SUM,
    Output,
)

MIN_ROW_BYTES = 10
"""A stored row takes at least half a fixed64 time (a histogram's two rows share one) and its framing,
and mostly a fixed64 value."""
GAUGE_TAG, SUM_TAG, HISTOGRAM_TAG, EXPONENTIAL_TAG, SUMMARY_TAG = 42, 58, 74, 82, 90

_GAUGE, _COUNTER, _DELTA, _UPDOWN = 1, 2, 3, 4  # METRIC_KIND_CODE
_NAN_BITS = 0x7FF8000000000000
_ABSENT, _DOUBLE, _INTEGER, _GAP, _NONE, _MALFORMED = 0, 1, 2, 3, 4, 5
"""What a data point's value is: not there, bits of a double, an integer, not recorded; no such row; not readable."""
_SPREAD = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: makes small numbers differ in all bits."""


@compiled
def scan_otlp(buffer: Any, size: int, out: Output) -> int:
    """OK, or NOT_TAKEN with `out` undefined. `buffer` is the address of the request,
    which has 8 bytes of padding behind `size`."""
    position = 0
    while position < size:
        tag, start, stop = field(buffer, position, size)
        if stop < 0:
            return NOT_TAKEN
        position = stop
        if tag == 10 and _resource_metrics(buffer, start, stop, out) != OK:
            return NOT_TAKEN
    return OK


@compiled
def _only(buffer: Any, start: int, stop: int, wanted: int) -> Any:
    """(OK, start, stop) of the one field `wanted`, an empty range where it is absent. NOT_TAKEN where it
    comes twice (protobuf would merge the two) or any field is malformed."""
    position, found, found_start, found_stop = start, 0, start, start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return NOT_TAKEN, 0, 0
        if tag == wanted:
            found, found_start, found_stop = found + 1, field_start, field_stop
        position = field_stop
    return OK if found < 2 else NOT_TAKEN, found_start, found_stop


@compiled
def _resource_metrics(buffer: Any, start: int, stop: int, out: Output) -> int:
    code, resource_start, resource_stop = _only(buffer, start, stop, 10)
    if code != OK:
        return NOT_TAKEN
    seed = hash_range(buffer, resource_start, resource_stop, np.uint64(_SPREAD), out.keys)
    position, first = start, out.state[METRICS]
    while position < stop:
        tag, inner_start, inner_stop = field(buffer, position, stop)
        position = inner_stop
        if tag == 18 and _scope_metrics(buffer, inner_start, inner_stop, seed, out) != OK:
            return NOT_TAKEN
    out.metrics[first : out.state[METRICS], RESOURCE_START] = resource_start
    out.metrics[first : out.state[METRICS], RESOURCE_STOP] = resource_stop
    return OK


@compiled
def _scope_metrics(buffer: Any, start: int, stop: int, seed: Any, out: Output) -> int:
    code, scope_start, scope_stop = _only(buffer, start, stop, 10)
    if code != OK:
        return NOT_TAKEN
    seed = hash_range(buffer, scope_start, scope_stop, seed, out.keys)
    position, first = start, out.state[METRICS]
    while position < stop:
        tag, inner_start, inner_stop = field(buffer, position, stop)
        position = inner_stop
        if tag == 18 and _metric(buffer, inner_start, inner_stop, seed, out) != OK:
            return NOT_TAKEN
    out.metrics[first : out.state[METRICS], SCOPE_START] = scope_start
    out.metrics[first : out.state[METRICS], SCOPE_STOP] = scope_stop
    return OK


@compiled
def _metric(buffer: Any, start: int, stop: int, seed: Any, out: Output) -> int:
    name_start = name_stop = unit_start = unit_stop = data_start = data_stop = start
    data_tag, found, position = 0, 0, start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return NOT_TAKEN
        position = field_stop
        if tag == 10:
            name_start, name_stop = field_start, field_stop
        elif tag == 26:
            unit_start, unit_stop = field_start, field_stop
        elif tag in (GAUGE_TAG, SUM_TAG, HISTOGRAM_TAG, EXPONENTIAL_TAG, SUMMARY_TAG):
            data_tag, data_start, data_stop, found = tag, field_start, field_stop, found + 1
    if found == 0:
        return OK
    kind = _kind(buffer, data_start, data_stop, data_tag)
    if found > 1 or kind < 0:
        return NOT_TAKEN
    seed = hash_range(buffer, name_start, name_stop, seed, out.keys)
    seed = hash_range(buffer, unit_start, unit_stop, seed, out.keys)
    seed = seed ^ (np.uint64(data_tag * 8 + kind) * np.uint64(_SPREAD))
    metric, first = out.state[METRICS], out.state[ROWS]
    if metric >= out.metrics.shape[0]:
        return NOT_TAKEN
    # Taken out once, and kept out of `_point`: compiled code counts references to arrays wherever it hands them on.
    times, bits, values, raws, variants = out.times, out.bits, out.values, out.raws, out.variants
    kinds, row_metric, row_start, row_stop = out.kinds, out.row_metric, out.row_start, out.row_stop
    number = data_tag in (GAUGE_TAG, SUM_TAG)
    row, wrong_time, wrong_value, position = first, 0, 0, data_start
    while position < data_stop:
        tag, point_start, point_stop = field(buffer, position, data_stop)
        position = point_stop
        if tag != 10:
            continue
        if row + 2 > times.shape[0]:
            return NOT_TAKEN
        time, word, form, sum_word, sum_form, raw = _point(buffer, point_start, point_stop, data_tag, seed, out.keys)
        if form == _MALFORMED:
            return NOT_TAKEN
        variant = PLAIN if number else COUNT
        while True:
            if time < np.uint64(out.oldest_ns) or time > np.uint64(out.newest_ns):
                wrong_time += 1
            elif form == _ABSENT or (
                form == _DOUBLE and (word & np.uint64(MAGNITUDE_BITS)) == np.uint64(EXPONENT_BITS)
            ):
                wrong_value += 1
            else:
                times[row] = np.int64(time)
                bits[row] = word if form == _DOUBLE else np.uint64(_NAN_BITS)
                if form == _INTEGER:
                    values[row] = np.float64(np.int64(word)) if number else np.float64(word)
                raws[row] = raw ^ (np.uint64(variant) * np.uint64(_SPREAD))
                variants[row] = variant
                kinds[row] = kind
                row_metric[row] = metric
                row_start[row] = point_start
                row_stop[row] = point_stop
                row += 1
            if variant != COUNT or sum_form == _NONE:
                break
            variant, word, form = SUM, sum_word, sum_form
    out.state[ROWS] = row
    out.state[REJECTED_TIME] += wrong_time
    out.state[REJECTED_VALUE] += wrong_value
    if row > first:
        out.metrics[metric, METRIC_START] = start
        out.metrics[metric, METRIC_STOP] = stop
        out.metrics[metric, DATA_TAG] = data_tag
        out.state[METRICS] = metric + 1
    return OK


@compiled
def _kind(buffer: Any, start: int, stop: int, data_tag: int) -> int:
    """METRIC_KIND_CODE of a data message, -1 where it is malformed. Its fields are all checked here."""
    temporality, monotonic, position = np.uint64(0), False, start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return -1
        position = field_stop
        if tag == 16:
            temporality, _ = varint(buffer, field_start, field_stop)
            temporality &= np.uint64(0xFFFFFFFF)  # an enum is an int32
        elif tag == 24:
            value, _ = varint(buffer, field_start, field_stop)
            monotonic = value != np.uint64(0)
    if data_tag == GAUGE_TAG:
        return _GAUGE
    if data_tag == SUMMARY_TAG:
        return _COUNTER
    if temporality == np.uint64(1):
        return _DELTA
    return _COUNTER if monotonic or data_tag != SUM_TAG else _UPDOWN


@inlined
def _point(buffer: Any, start: int, stop: int, data_tag: int, seed: Any, keys: Any) -> Any:
    """(time, word and form of the value or the count, word and form of the sum, hash) of one data point.

    The first form is _MALFORMED where the point is not taken, the sum's is _NONE where the point has no such row."""
    number = data_tag in (GAUGE_TAG, SUM_TAG)
    attribute_tag = 74 if data_tag == HISTOGRAM_TAG else 10 if data_tag == EXPONENTIAL_TAG else 58
    flags_tag = 80 if data_tag in (HISTOGRAM_TAG, EXPONENTIAL_TAG) else 64
    time, flags = np.uint64(0), np.uint64(0)
    # An absent count is 0, as proto3 leaves out zeros.
    word, form = np.uint64(0), _ABSENT if number else _INTEGER
    sum_word, sum_form = np.uint64(0), _DOUBLE if data_tag == SUMMARY_TAG else _NONE
    raw, position = seed, start
    while position < stop:
        tag, field_start, field_stop = field(buffer, position, stop)
        if field_stop < 0:
            return time, word, _MALFORMED, sum_word, sum_form, raw
        position = field_stop
        if tag == attribute_tag:
            raw = hash_range(buffer, field_start, field_stop, raw, keys)
        elif tag == 25:
            time = load_u64(buffer, field_start)
        elif tag == 33:
            word, form = load_u64(buffer, field_start), _DOUBLE if number else _INTEGER
        elif tag == 49 and number:
            word, form = load_u64(buffer, field_start), _INTEGER
        elif tag == 41 and not number:
            sum_word, sum_form = load_u64(buffer, field_start), _DOUBLE
        elif tag == flags_tag:
            flags, _ = varint(buffer, field_start, field_stop)
    if (flags & np.uint64(1)) != np.uint64(0):  # "no recorded value"
        form = _GAP
        if sum_form != _NONE:
            sum_form = _GAP
    return time, word, form, sum_word, sum_form, raw
