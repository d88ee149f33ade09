"""Every backend of the series store keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.testing import SeriesStoreContract
from headspring.knowledge.testing.series import OpenSeriesStore


class FlushingStore(DuckDbSeriesStore):
    """Trims its memory with every write, so that nearly every read goes to the file as well."""

    def write(self, batch):  # type: ignore[no-untyped-def]  # the parent's signature
        super().write(batch)
        self.flush()


class TestDuckDb(SeriesStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenSeriesStore:
        return lambda: DuckDbSeriesStore(tmp_path / "series.duckdb")


class TestDuckDbFlushingAlways(SeriesStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenSeriesStore:
        return lambda: FlushingStore(tmp_path / "series.duckdb")
