"""The writer stages put what topics carry into the stores, and it is durable when they return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.testing.documents import alert, incident, logs
from headspring.knowledge.testing.series import START_NS, S, batch, series, where
from headspring.knowledge.testing.traces import span, spans
from headspring.knowledge.traces.ring import RingTraceStore
from headspring.knowledge.writers import DocumentWriter, SeriesWriter, TraceWriter
from headspring.proto.codec import encode
from headspring.proto.errors import ContractError
from headspring.proto.incident import Diagnosis
from headspring.proto.telemetry import Change
from headspring.proto.topics import ALERTS, CHANGES, DIAGNOSES, INCIDENTS, LOGS, METRICS, SERIES, SPANS


@dataclass(frozen=True)
class Payload:
    value: bytes
    time_ns: int = 0


@dataclass(frozen=True)
class Stored:
    record: Payload


def stored(*messages: object) -> list[Stored]:
    return [Stored(Payload(encode(message))) for message in messages]


def left_behind(folder: Path, name: str) -> Path:
    """A copy of the files as they are now: what a killed process leaves."""
    left = folder / "left"
    left.mkdir()
    for file in folder.glob(f"{name}*"):
        (left / file.name).write_bytes(file.read_bytes())
    return left / name


async def test_samples_survive_a_crash_right_after_the_writer_returned(tmp_path: Path) -> None:
    """The engine commits after `process`: what it returned from must be in the file, not only in memory."""
    store = DuckDbSeriesStore(tmp_path / "series.duckdb")
    writer = SeriesWriter(store)
    await writer.process(SERIES.name, stored(series(1)))
    await writer.process(METRICS.name, stored(batch([(1, 0, 1.0), (2, 0, 2.0)], new=[series(2)])))
    again = DuckDbSeriesStore(left_behind(tmp_path, "series.duckdb"))
    found = again.select("default", where("__name__", "load"), start_ns=0, end_ns=2**62)
    assert [one.value.tolist() for one in found] == [[1.0], [2.0]]
    again.close()
    store.close()


async def test_old_samples_go_with_a_tick() -> None:
    store = DuckDbSeriesStore(None)
    writer = SeriesWriter(store, retention=timedelta(seconds=10))
    await writer.process(METRICS.name, stored(batch([(1, 0, 0.0), (1, 30, 1.0)], new=[series(1)])))
    await writer.tick(START_NS + 35 * S)
    (found,) = store.select("default", [], start_ns=0, end_ns=2**62)
    assert found.value.tolist() == [1.0]


async def test_every_kind_of_document_is_written() -> None:
    store = SqliteDocumentStore(None)
    writer = DocumentWriter(store)
    await writer.process(INCIDENTS.name, stored(incident("in-1")))
    await writer.process(DIAGNOSES.name, stored(Diagnosis(incident_id="in-1", tenant="t")))
    await writer.process(ALERTS.name, stored(alert("al-1"), alert("al-2")))
    await writer.process(CHANGES.name, stored(Change(change_id="c", tenant="t")))
    await writer.process(LOGS.name, stored(logs("one", "two"), logs("three")))
    assert store.counts("t") == {"incidents": 1, "diagnoses": 1, "alerts": 2, "changes": 1, "logs": 3}
    await writer.tick(timedelta(days=8) // timedelta(microseconds=1) * 1000)
    assert store.counts("t")["logs"] == 0


async def test_a_record_that_cannot_be_read_is_named_and_nothing_of_the_call_is_kept() -> None:
    store = SqliteDocumentStore(None)
    with pytest.raises(ContractError):
        await DocumentWriter(store).process(ALERTS.name, [*stored(alert("al-1")), Stored(Payload(b"\xff\xff"))])
    assert store.counts("t")["alerts"] == 0


async def test_spans_are_written() -> None:
    store = RingTraceStore(None)
    await TraceWriter(store).process(SPANS.name, stored(spans(span("t", "1")), spans(span("t", "2"))))
    assert store.trace("default", "t").span_id.tolist() == ["1", "2"]


def test_the_tail_moves_up_when_it_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """More samples than memory may hold: the older half is read from the file, none is missing."""
    monkeypatch.setattr("headspring.knowledge.series.duckdb_store._MAX_TAIL_SAMPLES", 1000)
    store = DuckDbSeriesStore(None)
    store.register([series(one) for one in range(10)])
    for second in range(300):
        store.write(batch([(one, second, float(second)) for one in range(10)]))
        if second % 20 == 0:
            store.flush()
    store.flush()
    assert sum(len(tail) for tail in store._tails.values()) <= 1000
    found = store.select("default", [], start_ns=0, end_ns=2**62)
    assert [one.value.tolist() for one in found] == [np.arange(300.0).tolist()] * 10
