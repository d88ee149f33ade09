"""Every backend of the trace store keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.knowledge.testing import TraceStoreContract
from headspring.knowledge.testing.traces import OpenTraceStore, span, spans
from headspring.knowledge.traces.ring import RingTraceStore


class TestRing(TraceStoreContract):
    @pytest.fixture
    def open_traces(self, tmp_path: Path) -> OpenTraceStore:
        return lambda: RingTraceStore(tmp_path / "traces.db", max_spans=self.max_spans)

    def test_spans_are_there_after_opening_again_within_the_bounds(self, open_traces: OpenTraceStore) -> None:
        store = open_traces()
        for one in range(self.max_spans + 5):
            store.add(spans(span(f"t{one}", str(one), second=one / 10)))
        before = store.select("default", start_ns=0, end_ns=2**62)
        after = open_traces().select("default", start_ns=0, end_ns=2**62)
        assert after.span_id.tolist() == before.span_id.tolist()
        assert after.entity.tolist() == before.entity.tolist()


class TestRingInMemory(TraceStoreContract):
    @pytest.fixture
    def open_traces(self) -> OpenTraceStore:
        return lambda: RingTraceStore(None, max_spans=self.max_spans)
