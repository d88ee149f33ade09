"""Recorded series through the agile tier, causally: a score and an alert for each row of a parquet file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import duckdb
import numpy as np
from numba import njit
from numpy.typing import NDArray

from headspring.analytics.detect.agile.score import evidence, score, together
from headspring.proto.errors import ContractError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_HOLD = 2
"""Rows above 1 in a row before an alert begins."""
_CALM = 0.7
_RECOVER = 10
"""Rows below `_CALM` in a row before it ends."""
_REPORT_ROWS = 1_000_000
"""Rows between two lines of progress."""
_ROWS = """
    CREATE TEMP TABLE rows AS
    SELECT number, timestamp, coalesce(value::DOUBLE, 'nan'::DOUBLE) AS value
    FROM read_parquet(?, file_row_number = true) JOIN names USING (series)
    ORDER BY number, timestamp, file_row_number
"""
_COLUMNS = "SELECT number, epoch_ns(timestamp) AS time, value FROM rows"
_RESULT = """
    SELECT series, timestamp, score, alert FROM (SELECT * FROM rows POSITIONAL JOIN found) JOIN names USING (number)
"""


@njit(cache=True, nogil=True)
def alerts(scores: Floats) -> Flags:
    """What would reach a person: hold before an alert begins, recovery before it ends. Shape (n,) in and out."""
    out = np.zeros(scores.size, dtype=np.bool_)
    firing = False
    above = 0
    calm = 0
    for t in range(scores.size):
        above = above + 1 if scores[t] > 1.0 else 0
        calm = 0 if scores[t] >= _CALM else calm + 1
        if not firing and above >= _HOLD:
            firing = True
        elif firing and calm >= _RECOVER:
            firing = False
        out[t] = firing
    return out


def score_series(values: Floats) -> tuple[Floats, Flags]:
    """Scores and alerts of one series that belongs to no entity with others, in time order, both shape (n,)."""
    scores = score(evidence(np.ascontiguousarray(values, dtype=np.float64)))
    return scores, alerts(scores)


def run(input: Path, output: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Writes `series, timestamp, score, alert` for exactly the rows of `input`.

    Series whose names agree up to the last slash (`machine/metric`) belong to one entity. Their evidence is put
    together, and each of them has the score and the alert of the entity.

    Args:
        input: Parquet with `series` (text), `timestamp` and `value` (NaN or null where none was measured).
        output: Parquet file to write. A score above 1 means anomaly; it is NaN while nothing is known. `alert` is
            what would reach a person.
        progress: Told in words how far it is.

    A row's score and alert depend on the rows of its entity up to its time, and are the same on every run.

    Raises:
        ContractError: `input` is no parquet file with these columns.
    """
    with duckdb.connect() as db:
        try:
            db.execute(
                "CREATE TEMP TABLE names AS SELECT series, row_number() OVER (ORDER BY series) AS number,"
                " coalesce(nullif(regexp_extract(series, '^(.*)/', 1), ''), series) AS entity"
                " FROM (SELECT DISTINCT series FROM read_parquet(?))",
                [str(input)],
            )
            db.execute(_ROWS, [str(input)])
        except duckdb.Error as error:
            raise ContractError(
                f"{input} cannot be read: {error}; wanted parquet with series, timestamp and value"
            ) from error
        columns = db.execute(_COLUMNS).fetchnumpy()
        times, values = np.asarray(columns["time"], dtype=np.int64), np.asarray(columns["value"], dtype=np.float64)
        ends = np.flatnonzero(np.diff(np.asarray(columns["number"]), append=-1)) + 1
        rows = [slice(int(a), int(b)) for a, b in zip(np.r_[0, ends[:-1]], ends, strict=True)]
        entities: dict[str, list[slice]] = {}
        for (entity,), part in zip(db.sql("SELECT entity FROM names ORDER BY number").fetchall(), rows, strict=True):
            entities.setdefault(entity, []).append(part)
        scores, alarms = np.empty(values.size), np.empty(values.size, dtype=np.bool_)

        def judge(parts: list[slice]) -> int:
            strengths = [evidence(values[part]) for part in parts]
            places, strength = together([times[part] for part in parts], strengths)
            found = score(strength)
            firing = alerts(found)
            for part, place in zip(parts, places, strict=True):
                scores[part], alarms[part] = found[place], firing[place]
            return sum(place.size for place in places)

        done = reported = 0
        with ThreadPoolExecutor(cpu_count()) as pool:
            for size in pool.map(judge, entities.values()):
                done += size
                if progress is not None and (done - reported >= _REPORT_ROWS or done == values.size):
                    progress(f"{done:,} of {values.size:,} rows")
                    reported = done
        db.register("found", {"score": scores, "alert": alarms})
        db.sql(_RESULT).write_parquet(str(output))
