"""Recorded series are scored from their past alone, whatever their unit, and gaps stay gaps; entities as a whole."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from headspring.analytics.detect.agile.memory import SIZE, SPAN, keep, quantile, start
from headspring.analytics.detect.agile.score import together
from headspring.analytics.detect.backtest import run, score_series
from headspring.proto.errors import ContractError


@pytest.fixture
def values() -> NDArray[np.float64]:
    rng = np.random.default_rng(3)
    wave = 10 + 3 * np.sin(np.arange(2000) / 50) + rng.normal(0, 0.3, 2000)
    wave[1500:1515] += 8
    return wave


def test_a_step_is_found_and_quiet_rows_are_not(values: NDArray[np.float64]) -> None:
    scores, alarms = score_series(values)
    assert np.nanmax(scores[1500:1515]) > 1
    assert alarms[1500:1515].any()
    assert alarms[400:1500].sum() == 0


def test_a_score_depends_on_the_past_only(values: NDArray[np.float64]) -> None:
    whole, _ = score_series(values)
    for cut in (300, 901, 1507):
        part, _ = score_series(values[:cut])
        np.testing.assert_array_equal(part, whole[:cut])


@pytest.mark.parametrize(("factor", "shift"), [(1e3, 0.0), (1e-3, 5.0), (-2.0, 100.0)])
def test_unit_and_offset_do_not_matter(values: NDArray[np.float64], factor: float, shift: float) -> None:
    plain, _ = score_series(values)
    other, _ = score_series(values * factor + shift)
    np.testing.assert_allclose(other, plain, rtol=1e-5, atol=1e-6)


def test_gaps_have_no_score_and_a_constant_series_no_alert(values: NDArray[np.float64]) -> None:
    values[600:620] = np.nan
    scores, _ = score_series(values)
    assert np.isnan(scores[600:620]).all()
    assert not score_series(np.full(3000, 7.0))[1].any()


def test_trouble_that_stays_keeps_its_score_and_ends_with_it(values: NDArray[np.float64]) -> None:
    values[1515:1560] += 8
    _, alarms = score_series(values)
    assert alarms[1505:1560].all()
    assert not alarms[1700:].any()


def test_quantiles_of_a_long_past_come_from_evenly_spaced_samples() -> None:
    rows = np.random.default_rng(1).permutation(SPAN).astype(np.float64)
    ring, order, at = start()
    for row, sample in enumerate(rows):
        keep(ring, order, at, row, sample)
    assert quantile(order, at, 0.5) == pytest.approx(SPAN / 2, rel=0.2)
    assert quantile(order, at, 0.9) == pytest.approx(SPAN * 0.9, rel=0.1)
    kept = np.flatnonzero(np.isin(rows, order[: at[0]]))
    assert SIZE // 2 <= kept.size <= SIZE
    assert np.unique(np.diff(kept)).size == 1


def test_evidence_of_an_entity_is_the_mean_of_its_five_strongest_series_at_each_moment() -> None:
    times = [np.array([10, 20, 30]), np.array([20, 30, 40])] + [np.array([30])] * 5
    strengths = [np.array([1.0, 2.0, 7.0]), np.array([4.0, np.nan, np.nan])] + [np.array([float(k)]) for k in range(5)]
    places, found = together(times, strengths)
    np.testing.assert_array_equal(found, [1.0, 3.0, (7 + 4 + 3 + 2 + 1) / 5, np.nan])
    np.testing.assert_array_equal(places[1], [1, 2, 3])


def test_metrics_of_one_machine_share_a_score_and_others_do_not(tmp_path: Path, values: NDArray[np.float64]) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    quiet = np.random.default_rng(4).normal(0, 1, values.size)
    names = ["m/cpu", "m/disk", "alone"]
    with duckdb.connect() as db:
        db.register("rows", {"series": np.repeat(names, 2000), "value": np.r_[values, quiet, quiet]})
        db.execute(
            "COPY (SELECT series, TIMESTAMPTZ '2026-01-01' + INTERVAL 1 MINUTE * ((row_number() OVER () - 1) % 2000)"
            f" AS timestamp, value FROM rows) TO '{source}' (FORMAT parquet)"
        )
        run(source, target)
        scores = [
            np.ma.filled(
                db.execute(
                    "SELECT score FROM read_parquet(?) WHERE series = ? ORDER BY timestamp", [str(target), name]
                ).fetchnumpy()["score"],
                np.nan,
            )
            for name in names
        ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert scores[0][1505:1515].max() > 1 > np.nanmax(scores[2])
    np.testing.assert_array_equal(scores[2], score_series(quiet)[0])


def test_a_file_comes_back_with_the_same_rows(tmp_path: Path, values: NDArray[np.float64]) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    with duckdb.connect() as db:
        db.register("rows", {"series": np.array(["b"] * 1000 + ["a"] * 1000), "value": values, "n": np.arange(2000)})
        db.execute(
            "COPY (SELECT series, TIMESTAMPTZ '2026-01-01' + INTERVAL 1 MINUTE * n AS timestamp, value FROM rows"
            f" ORDER BY n) TO '{source}' (FORMAT parquet)"
        )
        run(source, target)
        got = db.execute(
            "SELECT count(*), count(score), bool_or(alert) FROM read_parquet(?) JOIN read_parquet(?) USING (series,"
            " timestamp)",
            [str(source), str(target)],
        ).fetchone()
    assert got is not None
    assert got[0] == 2000
    assert got[1] > 1000
    expected, _ = score_series(values[1000:])
    with duckdb.connect() as db:
        scores = db.execute(
            "SELECT score FROM read_parquet(?) WHERE series = 'a' ORDER BY timestamp", [str(target)]
        ).fetchnumpy()["score"]
    np.testing.assert_array_equal(np.ma.filled(scores, np.nan), expected)


def test_what_is_no_such_file_is_refused_in_words(tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"not parquet")
    with pytest.raises(ContractError, match="wanted parquet"):
        run(bad, tmp_path / "out.parquet")
