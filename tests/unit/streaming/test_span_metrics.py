"""Rate, errors and duration out of spans: what is measured, what waits, what silence looks like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor, Span, SpanBatch, SpanKind, SpanStatus
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.features.span_join import covered_ns
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.port import Record, StoredRecord

START_S = 1_700_000_000
MS = 1_000_000
A, B = "service:default/a", "service:default/b"


def span(
    span_id: str,
    *,
    start_s: float,
    ms: float,
    kind: SpanKind = SpanKind.SERVER,
    parent: str = "",
    trace: str = "t",
    error: bool = False,
    peer: str = "",
) -> Span:
    return Span(
        trace_id=trace,
        span_id=span_id,
        parent_span_id=parent,
        kind=kind,
        start_ns=START_S * NS_PER_S + round(start_s * NS_PER_S),
        duration_ns=round(ms * MS),
        status=SpanStatus.ERROR if error else SpanStatus.UNSET,
        peer=peer,
    )


class Bench:
    """A stage with its clock and what it said."""

    def __init__(self) -> None:
        self.clock = ManualClock(start_ns=START_S * NS_PER_S)
        self.stage = SpanMetricsStage(clock=self.clock)
        self.stage.restore(b"")
        self.series: dict[int, SeriesDescriptor] = {}
        self.samples: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        """(metric, label values in order of names …) → (second, value)."""

    async def send(self, entity: str, *spans: Span) -> None:
        batch = SpanBatch(tenant="default", entity=entity, received_ns=self.clock.now_ns(), spans=spans)
        record = Record(key=b"", value=codec.encode(batch), time_ns=self.clock.now_ns())
        stored = StoredRecord(topic="telemetry.spans", partition=0, offset=0, record=record)
        self.hear(await self.stage.process("telemetry.spans", [stored]))

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            self.hear(await self.stage.tick(self.clock.now_ns()))

    def hear(self, out: Sequence[Outgoing]) -> None:
        for item in out:
            if item.topic == "telemetry.series":
                series = codec.decode(SeriesDescriptor, item.value)
                self.series[series.series_id] = series
                continue
            batch = codec.decode(MetricBatch, item.value)
            for sid, time_ns, value in zip(batch.series_id, batch.time_ns, batch.value, strict=True):
                series = self.series[int(sid)]
                key = (series.name, *(series.labels[name] for name in sorted(series.labels, reverse=True)))
                self.samples[key].append((time_ns / NS_PER_S - START_S, float(value)))

    def only(self, *key: str) -> float:
        """The one value of a series that is not zero."""
        found = [value for _, value in self.samples[key] if value]
        assert len(found) == 1, (key, self.samples[key])
        return found[0]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_service_gets_rate_errors_and_durations_of_its_server_spans(bench: Bench) -> None:
    await bench.pass_time(2)
    await bench.send(A, *(span(f"s{n}", start_s=0.5, ms=n + 1, trace=f"t{n}", error=n < 5) for n in range(20)))
    await bench.pass_time(4)
    assert bench.only(semantics.SERVICE_REQUEST_RATE, "a") == 10.0
    assert bench.only(semantics.SERVICE_ERROR_RATIO, "a") == 0.25
    assert bench.only(semantics.SERVICE_LATENCY_MEAN, "a") == pytest.approx(0.0105)
    assert bench.only(semantics.SERVICE_LATENCY_P95, "a") == pytest.approx(np.percentile(np.arange(1, 21), 95) / 1000)
    assert bench.only(semantics.SERVICE_SELF_TIME_MEAN, "a") == pytest.approx(0.0105)
    described = next(series for series in bench.series.values() if series.name == semantics.SERVICE_LATENCY_MEAN)
    assert (described.entity, described.unit, dict(described.labels)) == (A, "s", {"service": "a"})


async def test_self_time_leaves_out_calls_to_others_once_even_beneath_internal_spans(bench: Bench) -> None:
    await bench.send(
        A,
        span("c1", start_s=0.01, ms=30, kind=SpanKind.CLIENT, parent="in"),
        span("c2", start_s=0.02, ms=40, kind=SpanKind.CLIENT, parent="s"),
        span("in", start_s=0.005, ms=80, kind=SpanKind.INTERNAL, parent="s"),
    )
    bench.clock.advance(1)
    await bench.send(A, span("s", start_s=0.0, ms=100))
    await bench.pass_time(6)
    assert bench.only(semantics.SERVICE_SELF_TIME_MEAN, "a") == pytest.approx(0.050)


async def test_a_call_is_counted_from_its_client_span_with_the_callee_that_served_it(bench: Bench) -> None:
    await bench.send(A, span("c", start_s=0.0, ms=30, kind=SpanKind.CLIENT, parent="s", error=True))
    bench.clock.advance(1)
    await bench.send(B, span("x", start_s=0.005, ms=20, parent="c"))
    await bench.pass_time(6)
    assert bench.only(semantics.EDGE_LATENCY_MEAN, "a", "b") == pytest.approx(0.030)
    assert bench.only(semantics.EDGE_ERROR_RATIO, "a", "b") == 1.0
    assert bench.only(semantics.EDGE_REQUEST_RATE, "a", "b") == 0.5
    edge = next(series for series in bench.series.values() if series.name == semantics.EDGE_LATENCY_MEAN)
    assert (edge.entity, dict(edge.labels)) == (A, {"caller": "a", "callee": "b"})


async def test_a_named_peer_is_the_callee_without_any_span_of_its_own(bench: Bench) -> None:
    await bench.send(A, span("c", start_s=0.0, ms=5, kind=SpanKind.CLIENT, parent="s", peer="database:default/orders"))
    await bench.pass_time(6)
    assert bench.only(semantics.EDGE_LATENCY_MEAN, "a", "orders") == pytest.approx(0.005)


async def test_a_service_that_serves_nobody_is_measured_by_its_topmost_spans(bench: Bench) -> None:
    await bench.send(
        A,
        span("inner", start_s=0.0, ms=5, kind=SpanKind.INTERNAL, parent="job"),
        span("job", start_s=0.0, ms=50, kind=SpanKind.INTERNAL),
    )
    await bench.pass_time(6)
    assert bench.only(semantics.SERVICE_LATENCY_MEAN, "a") == pytest.approx(0.050)
    assert bench.only(semantics.SERVICE_REQUEST_RATE, "a") == 0.5


async def test_inner_spans_of_a_service_with_server_spans_are_not_requests(bench: Bench) -> None:
    await bench.send(A, span("s", start_s=0, ms=10), span("i", start_s=0, ms=99, kind=SpanKind.INTERNAL))
    await bench.pass_time(6)
    assert bench.only(semantics.SERVICE_LATENCY_MEAN, "a") == pytest.approx(0.010)


async def test_a_silent_service_reports_zero_requests_for_ten_minutes_then_nothing(bench: Bench) -> None:
    await bench.send(A, span("s", start_s=0, ms=10))
    await bench.pass_time(60)
    rates = bench.samples[semantics.SERVICE_REQUEST_RATE, "a"]
    assert [value for _, value in rates][:3] == [0.5, 0.0, 0.0]
    assert 27 <= len(rates) <= 30
    await bench.pass_time(600)
    count = len(rates)
    assert 295 <= count <= 301
    await bench.pass_time(30)
    assert len(rates) == count
    assert len(bench.samples[semantics.SERVICE_LATENCY_MEAN, "a"]) == 1


async def test_an_exporter_that_holds_spans_back_five_seconds_shows_no_false_silence(bench: Bench) -> None:
    for burst in range(10):
        await bench.pass_time(5)
        start_s = burst * 5
        await bench.send(A, *(span(f"{burst}.{n}", start_s=start_s + n / 10, ms=10) for n in range(50)))
    rates = [value for _, value in bench.samples[semantics.SERVICE_REQUEST_RATE, "a"]]
    assert len(rates) >= 18
    assert rates[1:] == pytest.approx([10.0] * (len(rates) - 1), abs=0.6)


async def test_late_spans_still_count(bench: Bench) -> None:
    await bench.send(A, span("s", start_s=0, ms=10))
    await bench.pass_time(10)
    await bench.send(A, span("late", start_s=0.5, ms=10))
    await bench.pass_time(15)
    assert sum(value for _, value in bench.samples[semantics.SERVICE_REQUEST_RATE, "a"]) == 1.0


async def test_a_clock_that_runs_ahead_does_not_hold_its_spans_back(bench: Bench) -> None:
    await bench.send(A, span("s", start_s=3600, ms=10))
    await bench.pass_time(6)
    assert bench.only(semantics.SERVICE_REQUEST_RATE, "a") == 0.5


async def test_a_backlog_is_bucketed_by_its_own_time_and_shows_no_false_silence(bench: Bench) -> None:
    out: list[tuple[float, float]] = bench.samples[semantics.SERVICE_REQUEST_RATE, "a"]
    stored = []
    for second in range(120):
        batch = SpanBatch(
            tenant="default",
            entity=A,
            received_ns=(START_S + second + 1) * NS_PER_S,
            spans=(span(f"s{second}", start_s=second + 0.5, ms=10),),
        )
        record = Record(key=b"", value=codec.encode(batch), time_ns=batch.received_ns)
        stored.append(StoredRecord(topic="telemetry.spans", partition=0, offset=second, record=record))
    bench.clock.advance(300)
    for start in range(0, 120, 40):
        bench.hear(await bench.stage.process("telemetry.spans", stored[start : start + 40]))
        bench.hear(await bench.stage.tick(bench.clock.now_ns()))
    assert len(out) >= 55
    assert [value for _, value in out] == [1.0] * len(out)


async def test_ids_are_the_same_after_a_restart_and_open_buckets_are_kept(bench: Bench) -> None:
    await bench.send(A, span("s", start_s=0, ms=10))
    other = Bench()
    other.stage.restore(bench.stage.snapshot())
    await bench.pass_time(10)
    await other.pass_time(10)
    assert other.samples == bench.samples
    assert other.series == bench.series
    assert len(bench.series) == 5


@pytest.mark.parametrize("state", [b"{", b"[]", b'{"default": {"a": {"nonsense": 1}}}'])
def test_a_broken_snapshot_is_refused(bench: Bench, state: bytes) -> None:
    with pytest.raises(ContractError, match="no span metrics snapshot"):
        bench.stage.restore(state)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12))
def test_the_covered_time_is_the_number_of_instants_inside_any_interval(intervals: list[tuple[int, int]]) -> None:
    assert covered_ns(intervals) == sum(any(start <= t < end for start, end in intervals) for t in range(51))
