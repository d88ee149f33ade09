"""Every backend of the series store keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.series.port import SeriesStore
from headspring.knowledge.testing import SeriesStoreContract
from headspring.knowledge.testing.series import OpenSeriesStore, batch, series, where


class FlushingStore(DuckDbSeriesStore):
    """Trims its memory with every write, so that nearly every read goes to the file as well."""

    def write(self, batch):  # type: ignore[no-untyped-def]  # the parent's signature
        super().write(batch)
        self.flush()


class EmbeddedContract(SeriesStoreContract):
    """What the embedded store promises beyond the port."""

    def test_of_two_samples_at_one_time_the_later_written_wins(self, open_store: OpenSeriesStore) -> None:
        store = open_store()
        store.register([series(7)])
        store.write(batch([(7, 0, 1.0), (7, 0, 2.0)]))
        store.write(batch([(7, 0, 3.0)]))
        assert self._points(store, where("__name__", "load")) == {7: [3.0]}
        store.close()
        store = open_store()
        assert self._points(store, where("__name__", "load")) == {7: [3.0]}
        store.write(batch([(7, 0, 2.5)]))
        assert self._points(store, where("__name__", "load")) == {7: [2.5]}
        store.close()

    def test_a_series_described_anew_is_not_found_by_its_old_labels(self, store: SeriesStore) -> None:
        store.register([series(1, zone="a")])
        store.register([series(1, zone="b")])
        assert store.find("default", where("zone", "a")) == []
        assert store.find("default", where("zone", "b")) == [series(1, zone="b")]


class TestDuckDb(EmbeddedContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenSeriesStore:
        return lambda: DuckDbSeriesStore(tmp_path / "series.duckdb")


class TestDuckDbFlushingAlways(EmbeddedContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenSeriesStore:
        return lambda: FlushingStore(tmp_path / "series.duckdb")
