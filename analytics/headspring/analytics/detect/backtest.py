"""Scores recorded series as a stream would have been scored: causally, one configuration for all of them.

Input: parquet with `series` (text), `timestamp`, `value` (NaN allowed), sorted by series and time. Output: the
same rows with `score` (more than 1 means anomaly; NaN while warming up) and `alert` (after hold and recovery).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
from numba import njit
from numpy.typing import NDArray

from headspring.analytics.detect.agile.autoregression import deviations
from headspring.proto.errors import ContractError

_ANOMALOUS = 4.0
"""Mean deviation over ten rows that scores 1: about one row in a thousand of a normal residual."""
_HOLD = 2
"""Rows beyond 1 before an alert begins."""
_CLEAR = 0.7
_RECOVER = 5
"""Rows below `_CLEAR` before it ends."""
_THREADS = 2
_REPORT_EVERY = 20


@njit(cache=True, nogil=True)
def alerts(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What would reach a person: hold before an alert begins, recovery before it ends. Shape (n,) in and out."""
    out = np.zeros(scores.size, dtype=np.bool_)
    firing = False
    above = 0
    below = 0
    for t in range(scores.size):
        score = scores[t]
        above = above + 1 if score > 1.0 else 0
        below = 0 if score >= _CLEAR else below + 1
        if not firing and above >= _HOLD:
            firing = True
            below = 0
        elif firing and below >= _RECOVER:
            firing = False
        out[t] = firing
    return out


def score_series(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and alerts of one series in time order, both shape (n,)."""
    scores = deviations(np.ascontiguousarray(values, dtype=np.float64)) / _ANOMALOUS
    return scores, alerts(scores)


def run(input: Path, output: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Scores every series of a file.

    Raises:
        ContractError: the file is no such parquet.
    """
    with duckdb.connect() as db:
        db.execute("SET preserve_insertion_order = true")
        try:
            table = db.execute(
                "SELECT series, value FROM read_parquet(?) ORDER BY series, timestamp", [str(input)]
            ).fetchnumpy()
        except duckdb.Error as error:
            raise ContractError(
                f"{input} cannot be read: {error}; wanted parquet with series, timestamp and value"
            ) from error
        names = np.asarray(table["series"])
        values = np.ma.filled(np.ma.asarray(table["value"], dtype=np.float64), np.nan)
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if names.size else np.zeros(0, dtype=np.intp)
        parts = np.split(values, starts[1:]) if names.size else []
        scores, alarms = np.empty(values.size), np.zeros(values.size, dtype=np.bool_)
        with ThreadPoolExecutor(_THREADS) as pool:
            for number, (start, found) in enumerate(zip(starts, pool.map(score_series, parts), strict=True), start=1):
                scores[start : start + found[0].size], alarms[start : start + found[0].size] = found
                if progress is not None and (number % _REPORT_EVERY == 0 or number == len(parts)):
                    progress(f"{number} of {len(parts)} series")
        _write(db, input, output, scores, alarms)


def _write(
    db: duckdb.DuckDBPyConnection, input: Path, output: Path, scores: NDArray[np.float64], alarms: NDArray[np.bool_]
) -> None:
    found = {"score": scores, "alert": alarms, "place": np.arange(scores.size, dtype=np.int64)}
    db.register("found", found)
    where = str(output).replace("'", "''")
    db.execute(
        "COPY (SELECT keys.series, keys.timestamp, found.score, found.alert FROM (SELECT series, timestamp,"  # noqa: S608
        " row_number() OVER (ORDER BY series, timestamp) - 1 AS place FROM read_parquet(?)) AS keys"
        f" JOIN found ON keys.place = found.place ORDER BY keys.place) TO '{where}' (FORMAT parquet)",
        [str(input)],
    )
