"""The compiled scanner gives what the plain reference gives, on any request, and never more than that."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.admit.registry import Admission, SeriesRegistry
from headspring.ingestion.testing import KEY, NOW_NS
from headspring.ingestion.wire import reference
from headspring.ingestion.wire.columns import Columns, TimeWindow
from headspring.ingestion.wire.hashing import hash_range, random_keys
from headspring.ingestion.wire.jit import compiled
from headspring.ingestion.wire.prompb import WriteRequest
from headspring.ingestion.wire.scanner import WireScanner
from headspring.proto.errors import ContractError

WINDOW = TimeWindow(oldest_ns=NOW_NS - 10**12, newest_ns=NOW_NS + 10**12)
LIMITS = Limits(max_labels=12, max_label_bytes=64)
SCANNER_KEYS = random_keys()
PROFILE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(max_size=12) | st.sampled_from(["a", "b", "service.name", "x" * 70])
times = st.sampled_from([NOW_NS, NOW_NS + 1, 0, 1, 2**63, 2**64 - 1, WINDOW.oldest_ns, WINDOW.newest_ns + 1])
doubles = st.floats() | st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), float("nan")])
fixed64 = st.integers(0, 2**64 - 1)
signed64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def keyvalues(draw: st.DrawFn, target: Any) -> None:
    for _ in range(draw(st.integers(0, 3))):
        pair = target.add(key=draw(texts))
        which = draw(st.integers(0, 5))
        if which == 0:
            pair.value.string_value = draw(texts)
        elif which == 1:
            pair.value.int_value = draw(signed64)
        elif which == 2:
            pair.value.double_value = draw(doubles)
        elif which == 3:
            pair.value.bool_value = draw(st.booleans())
        elif which == 4:
            pair.value.array_value.values.add().string_value = draw(texts)


@st.composite
def otlp_requests(draw: st.DrawFn) -> bytes:
    request = ExportMetricsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource_metrics = request.resource_metrics.add(schema_url=draw(texts))
        draw(keyvalues(resource_metrics.resource.attributes))
        for _ in range(draw(st.integers(0, 2))):
            scope_metrics = resource_metrics.scope_metrics.add()
            if draw(st.booleans()):
                scope_metrics.scope.name = draw(texts)
            for _ in range(draw(st.integers(0, 3))):
                draw(metrics(scope_metrics.metrics.add(name=draw(texts), unit=draw(texts), description=draw(texts))))
    data: bytes = request.SerializeToString()
    return data


@st.composite
def metrics(draw: st.DrawFn, metric: Any) -> None:
    which = draw(st.sampled_from(["", "gauge", "sum", "histogram", "exponential_histogram", "summary"]))
    if not which:
        return
    data = getattr(metric, which)
    data.SetInParent()
    if which in ("sum", "histogram", "exponential_histogram"):
        data.aggregation_temporality = draw(st.integers(0, 3))
    if which == "sum":
        data.is_monotonic = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        point = data.data_points.add(
            time_unix_nano=draw(times), start_time_unix_nano=draw(fixed64), flags=draw(st.integers(0, 3))
        )
        draw(keyvalues(point.attributes))
        if which in ("gauge", "sum"):
            form = draw(st.integers(0, 2))
            if form == 0:
                point.as_double = draw(doubles)
            elif form == 1:
                point.as_int = draw(signed64)
        else:
            point.count = draw(fixed64)
            if draw(st.booleans()):
                point.sum = draw(doubles)


@st.composite
def write_requests(draw: st.DrawFn) -> bytes:
    request = WriteRequest()
    for _ in range(draw(st.integers(0, 4))):
        series = request.timeseries.add()
        for _ in range(draw(st.integers(0, 4))):
            series.labels.add(name=draw(texts | st.just("__name__")), value=draw(texts))
        for _ in range(draw(st.integers(0, 3))):
            series.samples.add(value=draw(doubles), timestamp=draw(times | signed64) % 2**63 // draw(st.just(10**6)))
        if draw(st.integers(0, 9)) == 0:
            series.histograms.add(count_int=draw(st.integers(0, 9)), sum=1.0, timestamp=NOW_NS // 10**6)
    data: bytes = request.SerializeToString()
    return data


def admission() -> Admission:
    return SeriesRegistry(key=KEY, limits=LIMITS).admission("t")


def plain_otlp(body: bytes, into: Admission) -> Columns:
    return reference.otlp_columns(reference.parse_otlp(body), into, WINDOW)


def plain_write(body: bytes, into: Admission) -> Columns:
    return reference.remote_write_columns(reference.parse_remote_write(body), into, WINDOW, {})


def fast_otlp(scanner: WireScanner, body: bytes, into: Admission) -> Columns | None:
    return scanner.otlp(body, into, WINDOW)


def fast_write(scanner: WireScanner, body: bytes, into: Admission) -> Columns | None:
    return scanner.remote_write(body, into, WINDOW, {})


Plain = Callable[[bytes, Admission], Columns]
Fast = Callable[[WireScanner, bytes, Admission], Columns | None]


def assert_equal(left: Columns, right: Columns) -> None:
    assert left.series_id.tolist() == right.series_id.tolist()
    assert left.time_ns.tolist() == right.time_ns.tolist()
    np.testing.assert_array_equal(left.value, right.value)
    assert left.kind.tolist() == right.kind.tolist()
    assert left.rejected == right.rejected


def check(body: bytes, plain: Plain, fast: Fast, *, must_take: bool) -> bool:
    """Cold (all series new) and warm (all known by their bytes) scans equal the reference."""
    scanner = WireScanner(LIMITS, keys=SCANNER_KEYS)
    first, wanted_admission = admission(), admission()
    columns = fast(scanner, body, first)
    try:
        wanted = plain(body, wanted_admission)
    except ContractError:
        # The scanner does not look at what it has no use for (texts of descriptions, exemplars).
        assert columns is None or not must_take
        return False
    if columns is None:
        assert not must_take
        return False
    assert_equal(columns, wanted)
    assert dict(first.new) == dict(wanted_admission.new)
    first.commit()
    again = fast(scanner, body, first)
    assert again is not None
    assert_equal(again, wanted)
    return True


@PROFILE
@given(otlp_requests())
def test_every_well_formed_otlp_request_is_scanned_to_the_references_columns(body: bytes) -> None:
    assert check(body, plain_otlp, fast_otlp, must_take=True)


@PROFILE
@given(write_requests())
def test_remote_write_requests_scan_to_the_references_columns(body: bytes) -> None:
    holds_histograms = any(series.histograms for series in WriteRequest.FromString(body).timeseries)
    assert check(body, plain_write, fast_write, must_take=not holds_histograms) or holds_histograms


@PROFILE
@given(st.one_of(otlp_requests(), write_requests()), st.randoms(use_true_random=False))
def test_mutated_bytes_never_crash_nor_give_other_columns_than_the_reference(body: bytes, rng: random.Random) -> None:
    for _ in range(5):
        mutated = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            if mutated:
                place = rng.randrange(len(mutated))
                action = rng.randrange(3)
                if action == 0:
                    mutated[place] = rng.randrange(256)
                elif action == 1:
                    del mutated[place:]
                else:
                    mutated.insert(place, rng.randrange(256))
        for plain, fast in ((plain_otlp, fast_otlp), (plain_write, fast_write)):
            check(bytes(mutated), plain, fast, must_take=False)


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # length of 2^64 - 1
        b"\x0a" + b"\xff" * 11,  # varint of eleven bytes
        b"\x0b\x0c",  # a group
        b"\x02\x00",  # field number 0
        b"\x0a\x05\x12",  # cut
    ],
)
def test_malformed_framing_is_not_taken(body: bytes) -> None:
    scanner = WireScanner(LIMITS, keys=SCANNER_KEYS)
    assert scanner.otlp(body, admission(), WINDOW) is None
    assert scanner.remote_write(body, admission(), WINDOW, {}) is None


def test_series_that_were_not_committed_are_asked_for_again() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="x")
    metric.gauge.data_points.add(time_unix_nano=NOW_NS, as_int=1)
    scanner = WireScanner(LIMITS, keys=SCANNER_KEYS)
    registry = SeriesRegistry(key=KEY, limits=LIMITS)
    for _ in range(2):
        lost = registry.admission("t")
        scanner.otlp(request.SerializeToString(), lost, WINDOW)
        assert len(lost.new) == 1
    lost.commit()
    kept = registry.admission("t")
    assert scanner.otlp(request.SerializeToString(), kept, WINDOW) is not None
    assert not kept.new


def delimited(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


POINT = b"\x19" + NOW_NS.to_bytes(8, "little") + b"\x21" + np.float64(2.5).tobytes()
GAUGE = delimited(1, POINT)
NAME = delimited(1, b"m")
RESOURCE = delimited(1, delimited(1, delimited(1, b"service.name") + delimited(2, delimited(1, b"cart"))))
OTHER_RESOURCE = delimited(1, delimited(1, delimited(1, b"zone") + delimited(2, delimited(1, b"b"))))
METRICS = delimited(2, NAME + delimited(5, GAUGE))


@pytest.mark.parametrize(
    ("resource_metrics", "taken"),
    [
        (RESOURCE + delimited(2, METRICS), True),
        (delimited(2, METRICS) + RESOURCE, True),  # fields in another order
        (RESOURCE + delimited(2, delimited(2, delimited(5, GAUGE) + NAME)), True),  # name after data
        (RESOURCE + delimited(2, METRICS) + delimited(15, b"unknown") + b"\x78\x05", True),
        (RESOURCE + OTHER_RESOURCE + delimited(2, METRICS), False),  # to be merged
        (RESOURCE + delimited(2, delimited(2, NAME + delimited(5, GAUGE) + delimited(7, GAUGE))), False),  # last counts
        (
            RESOURCE + delimited(2, delimited(2, NAME + delimited(5, GAUGE) + delimited(5, GAUGE))),
            False,
        ),  # to be merged
        (RESOURCE + delimited(2, delimited(1, NAME) + delimited(1, b"") + METRICS), False),  # two scopes
    ],
)
def test_odd_but_legal_encodings_are_scanned_right_or_left_to_the_reference(
    resource_metrics: bytes, taken: bool
) -> None:
    body = delimited(1, resource_metrics)
    assert len(plain_otlp(body, admission())) >= 1
    assert check(body, plain_otlp, fast_otlp, must_take=taken) is taken


def test_counts_are_unsigned_and_integers_signed() -> None:
    request = ExportMetricsServiceRequest()
    scope_metrics = request.resource_metrics.add().scope_metrics.add()
    histogram = scope_metrics.metrics.add(name="h").histogram
    histogram.data_points.add(time_unix_nano=NOW_NS, count=2**63 + 2**62)
    scope_metrics.metrics.add(name="g").gauge.data_points.add(time_unix_nano=NOW_NS, as_int=-(2**40))
    assert check(request.SerializeToString(), plain_otlp, fast_otlp, must_take=True)
    columns = fast_otlp(WireScanner(LIMITS, keys=SCANNER_KEYS), request.SerializeToString(), admission())
    assert columns is not None
    assert columns.value.tolist() == [float(2**63 + 2**62), float(-(2**40))]


def test_samples_of_refused_series_are_counted_alike_on_both_paths() -> None:
    request = ExportMetricsServiceRequest()
    scope_metrics = request.resource_metrics.add().scope_metrics.add()
    for index in range(4):
        points = scope_metrics.metrics.add(name=f"m{index}").gauge.data_points
        points.add(time_unix_nano=NOW_NS, as_int=1)
        points.add(time_unix_nano=NOW_NS + 1, as_int=2)
    limits = Limits(max_series=2)
    body = request.SerializeToString()
    fast = WireScanner(limits, keys=SCANNER_KEYS).otlp(
        body, SeriesRegistry(key=KEY, limits=limits).admission("t"), WINDOW
    )
    plain = plain_otlp(body, SeriesRegistry(key=KEY, limits=limits).admission("t"))
    assert fast is not None
    assert_equal(fast, plain)
    assert (len(fast), sum(fast.rejected.values())) == (4, 4)


@compiled
def hash_all(address: Any, width: int, count: int, seed: Any, keys: Any, out: Any) -> None:
    for index in range(count):
        out[index] = hash_range(address, index * width, (index + 1) * width, seed, keys)


@pytest.mark.parametrize("width", [3, 8, 11, 16, 24])
def test_a_million_ranges_that_differ_in_few_bits_have_distinct_hashes(width: int) -> None:
    count = 1_000_000
    data = np.zeros((count + 1, width), dtype=np.uint8)
    numbers = np.arange(count, dtype=np.uint32)
    for place in range(3):
        # Spread over the range, so that differences in several words could cancel out.
        data[:count, place * (width - 1) // 2] ^= (numbers >> np.uint32(8 * place)).astype(np.uint8)
    out = np.empty(count, dtype=np.uint64)
    hash_all(np.uint64(data.ctypes.data), width, count, np.uint64(1), SCANNER_KEYS, out)
    assert np.unique(out).size == count
    # Every bit is set about half of the time.
    shares = [float(((out >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert 0.49 < min(shares) <= max(shares) < 0.51


def test_cutting_a_text_elsewhere_gives_another_hash() -> None:
    data = np.frombuffer(b"abcdefghijklmnop" + bytes(8), dtype=np.uint8).copy()
    address = np.uint64(data.ctypes.data)
    hashes = set()
    for cut in range(17):
        first = hash_range(address, 0, cut, np.uint64(1), SCANNER_KEYS)
        hashes.add(int(hash_range(address, cut, 16, np.uint64(first), SCANNER_KEYS)))
    assert len(hashes) == 17
