"""Descriptors of the embedded series store come back from its file as they were."""

from __future__ import annotations

import time
from pathlib import Path

from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.proto.telemetry import MetricKind, SeriesDescriptor


def described(series_id: int, **labels: str) -> SeriesDescriptor:
    return SeriesDescriptor(
        series_id=series_id, tenant="default", name="app.work", unit="s", kind=MetricKind.GAUGE,
        entity="service:default/shop", labels=labels,
    )  # fmt: skip


def reopened(file: Path, descriptors: list[SeriesDescriptor]) -> DuckDbSeriesStore:
    store = DuckDbSeriesStore(file)
    store.register(descriptors)
    store.flush()
    store.close()
    return DuckDbSeriesStore(file)


def test_ids_of_all_64_bits_and_any_text_survive_a_restart(tmp_path: Path) -> None:
    odd = [
        described(1),
        described(2**63, path="C:\\x41 'quoted', {braces}", empty=""),
        described(2**64 - 1, text="naïve \u0000 → 漢字"),
    ]
    store = reopened(tmp_path / "series.duckdb", odd)
    assert [store.descriptor("default", one.series_id) for one in odd] == odd
    store.close()


def test_ten_thousand_new_series_take_less_than_two_seconds_of_cpu_time(tmp_path: Path) -> None:
    many = [described(1 + number, instance=str(number)) for number in range(10_000)]
    store = DuckDbSeriesStore(tmp_path / "series.duckdb")
    store.register(many)
    start = time.process_time()
    store.flush()
    assert time.process_time() - start < 2.0
    store.close()
