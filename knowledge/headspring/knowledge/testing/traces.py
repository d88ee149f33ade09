"""The trace store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable

import pytest

from headspring.knowledge.traces.port import TraceStore
from headspring.proto.telemetry import Span, SpanBatch, SpanKind, SpanStatus

OpenTraceStore = Callable[[], TraceStore]
S = 1_000_000_000
START_NS = 1_800_000_000 * S
_EVER = 2**62


def span(trace: str, name: str, *, second: float = 0, parent: str = "") -> Span:
    return Span(
        trace_id=trace, span_id=name, parent_span_id=parent, operation=f"op {name}", kind=SpanKind.SERVER,
        start_ns=START_NS + round(second * S), duration_ns=5, status=SpanStatus.ERROR, status_message="bad",
        instance="i-1", peer="service:d/p",
    )  # fmt: skip


def spans(*items: Span, entity: str = "service:d/a", tenant: str = "default") -> SpanBatch:
    return SpanBatch(tenant=tenant, entity=entity, spans=items)


class TraceStoreContract:
    """Subclass it and give it an `open_traces` fixture whose store holds at least 1000 spans for 30 minutes."""

    max_spans = 1000

    @pytest.fixture
    def open_traces(self) -> OpenTraceStore:
        raise NotImplementedError("the binding gives a fixture open_traces")

    @pytest.fixture
    def traces(self, open_traces: OpenTraceStore) -> TraceStore:
        return open_traces()

    def test_a_span_reads_back_with_all_its_columns(self, traces: TraceStore) -> None:
        traces.add(spans(span("t", "1", parent="0")))
        table = traces.select("default", start_ns=START_NS, end_ns=START_NS + 1)
        row = {name: getattr(table, name).tolist() for name in table.__dataclass_fields__}
        assert row == {
            "trace_id": ["t"], "span_id": ["1"], "parent_span_id": ["0"], "entity": ["service:d/a"],
            "instance": ["i-1"], "operation": ["op 1"], "kind": ["server"], "peer": ["service:d/p"],
            "start_ns": [START_NS], "duration_ns": [5], "status": ["error"], "status_message": ["bad"],
        }  # fmt: skip

    def test_spans_come_by_start_and_the_range_excludes_its_end(self, traces: TraceStore) -> None:
        traces.add(spans(span("t", "3", second=3), span("t", "1", second=1)))
        traces.add(spans(span("t", "2", second=2), span("t", "0", second=0), entity="service:d/b"))
        table = traces.select("default", start_ns=START_NS, end_ns=START_NS + 3 * S)
        assert table.span_id.tolist() == ["0", "1", "2"]
        assert table.entity.tolist() == ["service:d/b", "service:d/a", "service:d/b"]

    def test_a_limit_keeps_the_newest(self, traces: TraceStore) -> None:
        traces.add(spans(*[span("t", str(one), second=one) for one in range(9)]))
        assert traces.select("default", start_ns=0, end_ns=_EVER, limit=2).span_id.tolist() == ["7", "8"]

    def test_a_span_delivered_again_is_there_once(self, traces: TraceStore) -> None:
        traces.add(spans(span("t", "1"), span("t", "2")))
        traces.add(spans(span("t", "2"), span("t", "3"), span("t", "3")))
        assert sorted(traces.select("default", start_ns=0, end_ns=_EVER).span_id.tolist()) == ["1", "2", "3"]

    def test_a_trace_is_found_over_services(self, traces: TraceStore) -> None:
        traces.add(spans(span("t", "2", second=1, parent="1"), entity="service:d/b"))
        traces.add(spans(span("t", "1"), span("u", "9")))
        assert traces.trace("default", "t").span_id.tolist() == ["1", "2"]
        assert len(traces.trace("default", "none")) == 0

    def test_tenants_do_not_see_each_other(self, traces: TraceStore) -> None:
        traces.add(spans(span("t", "1")))
        traces.add(spans(span("t", "2"), tenant="other"))
        assert traces.trace("default", "t").span_id.tolist() == ["1"]
        assert traces.select("other", start_ns=0, end_ns=_EVER).span_id.tolist() == ["2"]
        assert len(traces.select("nobody", start_ns=0, end_ns=_EVER)) == 0

    def test_the_oldest_leave_when_there_are_too_many(self, traces: TraceStore) -> None:
        for one in range(self.max_spans + 10):
            traces.add(spans(span(f"t{one}", str(one), second=one / 10)))
        table = traces.select("default", start_ns=0, end_ns=_EVER)
        assert len(table) == self.max_spans
        assert table.span_id[-1] == str(self.max_spans + 9)
        assert len(traces.trace("default", "t0")) == 0
        assert len(traces.trace("default", f"t{self.max_spans}")) == 1

    def test_old_spans_leave_when_newer_ones_come(self, traces: TraceStore) -> None:
        traces.add(spans(span("old", "1")))
        traces.add(spans(span("new", "2", second=3600)))
        assert traces.select("default", start_ns=0, end_ns=_EVER).span_id.tolist() == ["2"]

    def test_an_empty_store_answers_with_an_empty_table(self, traces: TraceStore) -> None:
        traces.add(spans())
        assert len(traces.select("default", start_ns=0, end_ns=_EVER)) == 0
