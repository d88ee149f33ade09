"""Series history while its file cannot grow: no sample is lost, reads go on, writing resumes without a restart."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.proto.errors import Unavailable
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

NOW_NS = 1_760_000_000_000_000_000
BATCH = 50_000
LARGEST_FILE = 18 * 1024 * 1024
"""Bytes: DuckDB's log, checkpointed at 16 MiB, fits and the second checkpoint's file does not."""


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process grows further: to a writer the same as a full disk (EFBIG in place of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def batch(number: int) -> MetricBatch:
    """Samples spread over time, so that all but the newest quarter of an hour are in the file alone."""
    at = NOW_NS + (number * BATCH + np.arange(BATCH, dtype=np.int64)) * 2_000_000
    return MetricBatch(
        tenant="default", received_ns=int(at[-1]), series_id=np.ones(BATCH, np.uint64), time_ns=at,
        value=np.random.default_rng(number).random(BATCH), kind=np.zeros(BATCH, np.uint8),
    )  # fmt: skip


def count(store: DuckDbSeriesStore) -> int:
    return len(store.select_ids("default", [1], start_ns=0, end_ns=2 * NOW_NS)[1].time_ns)


def test_a_history_that_duckdb_gave_up_is_read_and_written_again(tmp_path: Path) -> None:
    store = DuckDbSeriesStore(tmp_path / "series.duckdb")
    store.register([SeriesDescriptor(series_id=1, tenant="default", name="a")])
    written = 0
    with files_up_to(LARGEST_FILE):
        for refusals in range(3):  # DuckDB is invalid after the first one; the later ones must not find it so
            refused = ""
            while written < 80 and not refused:
                store.write(batch(written))
                written += 1
                try:
                    store.flush()
                except Unavailable as error:
                    refused = str(error)
            assert "check free disk space" in refused
            assert count(store) == written * BATCH, f"after {refusals + 1} refusals"
    store.flush()
    assert count(store) == written * BATCH
    store.close()
    opened = DuckDbSeriesStore(tmp_path / "series.duckdb")
    assert count(opened) == written * BATCH
    opened.close()
