"""What the VictoriaMetrics backend computes without a server: labels, selectors, requests, facts."""

from __future__ import annotations

import math
import struct
from datetime import timedelta

import cramjam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headspring.knowledge.series.port import Matcher, MatchOp
from headspring.knowledge.series.victoria import facts
from headspring.knowledge.series.victoria.export import ExportReader, lines
from headspring.knowledge.series.victoria.labels import LabelLimits, from_labels, to_labels
from headspring.knowledge.series.victoria.remote_write import STALE_BITS, encoded_labels, requests
from headspring.knowledge.series.victoria.samples import Samples, by_series
from headspring.knowledge.series.victoria.selectors import plan
from headspring.knowledge.series.victoria.unsettled import Unsettled
from headspring.proto.errors import QueryError, Unavailable
from headspring.proto.telemetry import MetricKind, SeriesDescriptor

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DESCRIPTORS = st.builds(
    SeriesDescriptor,
    series_id=st.integers(0, 2**64 - 1),
    tenant=TEXT.filter(bool),
    name=TEXT.filter(bool),
    unit=TEXT,
    kind=st.sampled_from(MetricKind),
    entity=TEXT,
    labels=st.dictionaries(TEXT | st.sampled_from(["a.b", "a_b", "a-b", "__rest__", "__name__"]), TEXT, max_size=12),
)


@settings(deadline=None)
@given(DESCRIPTORS, st.integers(10, 40))
def test_labels_hold_the_whole_descriptor(descriptor: SeriesDescriptor, max_labels: int) -> None:
    limits = LabelLimits(max_labels=max_labels)
    spelt = to_labels(descriptor, limits)
    assert spelt.cut == ()
    names = [name for name, _ in spelt.labels]
    assert len(names) == len(set(names)) <= max_labels
    assert all(name and value and len(value.encode()) <= limits.max_value_bytes for name, value in spelt.labels)
    assert from_labels(dict(spelt.labels)) == descriptor


def test_what_fits_nowhere_is_told() -> None:
    labels = {"__rest__": "x" * 5000, "zone": "a"}
    spelt = to_labels(SeriesDescriptor(series_id=1, tenant="t", name="n", labels=labels), LabelLimits())
    assert spelt.cut == ("__rest__",)
    found = from_labels(dict(spelt.labels))
    assert found is not None
    assert found.labels == {"zone": "a"}


def test_a_selector_cannot_be_broken_out_of() -> None:
    evil = Matcher(label="zone", op=MatchOp.EQUAL, value='a"} or {__tenant__="other')
    (selector, odd) = plan('t"} or {x="', [evil]).selectors
    assert selector == r'{__tenant__="t\"} or {x=\"",zone="a\"} or {__tenant__=\"other"}'
    assert odd == r'{__tenant__="t\"} or {x=\"",__rest__!=""}'
    named = Matcher(label='a="b"} or {c', op=MatchOp.EQUAL, value="v")
    assert plan("t", [named]).selectors[0] == '{__tenant__="t",a__b___or__c="v"}'
    with pytest.raises(QueryError):
        plan("t", [Matcher(label="zone", op=MatchOp.EQUAL, value="\ud800")])


def test_requests_hold_every_sample_once_in_pieces_of_the_size_asked_for() -> None:
    labels = [encoded_labels((("__name__", f"m{number}"),)) for number in range(100)]
    time_ms = np.arange(300) + 1_700_000_000_000
    value = np.where(np.arange(300) % 7 == 0, np.nan, np.arange(300) / 3)
    parts = list(requests(labels, np.full(100, 3), time_ms, value, max_bytes=2000))
    assert len(parts) > 3
    assert sum(part.count for part in parts) == 300
    body = b"".join(bytes(cramjam.snappy.decompress_raw(part.body)) for part in parts)
    assert body.count(struct.pack("<Q", STALE_BITS)) == math.ceil(300 / 7)
    assert body.count(struct.pack("<d", 100 / 3)) == 1
    assert all(encoded in body for encoded in labels)


def test_samples_are_sorted_and_the_last_written_of_one_time_is_sent() -> None:
    first = Samples(np.array([2, 1, 2], np.uint64), np.array([5, 5, 4]), np.array([1.0, 2.0, 3.0]))
    second = Samples(np.array([2], np.uint64), np.array([5]), np.array([9.0]))
    whole, starts = by_series([first, second])
    assert (whole.series_id.tolist(), whole.time_ms.tolist(), whole.value.tolist(), starts.tolist()) == (
        [1, 2, 2], [5, 4, 5], [2.0, 3.0, 9.0], [0, 1],
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30).filter(lambda one: b"\n" not in one), max_size=20), st.integers(1, 40))
def test_lines_are_whole_however_they_were_cut(told: list[bytes], size: int) -> None:
    whole = b"".join(one + b"\n" for one in told)
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert list(lines(chunks)) == [one for one in told if one]


@pytest.mark.parametrize(
    "line", [b"", b"oops", b'{"metric":{"__series__":"1"}}', b'{"metric":{},"values":[1,2],"timestamps":[1]}']
)
def test_a_broken_line_is_an_error(line: bytes) -> None:
    with pytest.raises(Unavailable):
        ExportReader().read(line)


def test_numbers_are_read_in_every_spelling() -> None:
    line = b'{"metric":{"a":"b"},"values":[1,null,+Inf,-Inf,"Infinity","-Infinity",1e-7],"timestamps":[1,2,3,4,5,6,7]}'
    read = ExportReader().read(line)
    assert read.series is None
    np.testing.assert_equal(read.value, [1, math.nan, math.inf, -math.inf, math.inf, -math.inf, 1e-7])


@pytest.mark.parametrize(
    ("text", "days"), [("30d", 30), ("1", 31), ("2w", 14), ("1y", 365), ("36h", 1.5), ("1d12h", 1.5), ("soon", None)]
)
def test_a_server_tells_its_retention(text: str, days: float | None) -> None:
    metrics = (
        'vm_app_version{version="victoria-metrics-20240101-tags-v1.96.0-0-g1", short_version="v1.96.0"} 1\n'
        f'vm_app_start_timestamp 1795712027\nflag{{name="retentionPeriod", value="{text}", is_set="true"}} 1\n'
    )
    found = facts.parse(metrics)
    assert found is not None
    assert (found.version, found.started_s) == ((1, 96, 0), 1795712027.0)
    assert found.retention == (timedelta(days=days) if days is not None else None)
    assert facts.parse("go_goroutines 7\n") is None


def test_what_is_unsettled_is_bounded() -> None:
    kept = Unsettled(max_samples=25)
    for second in range(5):
        some = Samples(np.zeros(10, np.uint64), np.zeros(10, np.int64), np.zeros(10))
        assert kept.add("t", some, float(second)) == (0 if second < 2 else 10)
    assert [one.at_s for one in kept.take()] == [3.0, 4.0]
    assert len(kept) == 0
