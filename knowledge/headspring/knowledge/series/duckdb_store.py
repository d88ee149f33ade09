"""The embedded series store: recent samples in memory, history in DuckDB.

Every sample goes to the memory tail at once and to DuckDB with the next `flush`. The tail holds
everything from a *floor* on (15 minutes back from the newest write), so a query that starts after the
floor never touches the disk; older queries read DuckDB below the floor and the tail for all the rest.
`SeriesWriter` flushes before it lets the log commit, so a crash loses no sample.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.series.index import LabelIndex
from headspring.knowledge.series.port import PRECISION_NS, Matcher, SeriesData
from headspring.knowledge.series.re2 import Re2
from headspring.knowledge.series.tail import Columns, Tail, concatenate, ordered
from headspring.proto.codec import decode, encode
from headspring.proto.errors import LimitExceeded, Unavailable
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

_TAIL_NS = 15 * 60 * 1_000_000_000
"""What detection and diagnosis ask for again and again: the incident and some baseline before it."""
_MAX_TAIL_SAMPLES = 4_000_000
"""Bound on memory: 32 bytes each, so 128 MB; beyond it the floor moves up and DuckDB serves the rest."""
_FLUSH_SAMPLES = 200_000
"""Samples that wait for DuckDB at most before `write` flushes by itself."""
_TRIM_EVERY_NS = 60 * 1_000_000_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS series (tenant VARCHAR, series_id UBIGINT, data BLOB)",
    "CREATE TABLE IF NOT EXISTS samples (tenant VARCHAR, series_id UBIGINT, time_ns BIGINT, value DOUBLE, "
    "sequence BIGINT)",
)


class DuckDbSeriesStore:
    """`SeriesStore` (see the port for the contract) for one process. `path=None` keeps history in memory."""

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            Unavailable: another process has the file open, or it cannot be written.
        """
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._db = self._connect()
        except duckdb.Error as error:
            raise Unavailable(f"series history {path}: {error}") from error
        self._lock = threading.RLock()
        """Guards the tail, the index and the pending list; held for microseconds."""
        self._db_lock = threading.RLock()
        """Guards the connection. Taken before `_lock` where both are needed."""
        self._regex = Re2()
        self._index: dict[str, LabelIndex] = {}
        self._tails: dict[str, Tail] = {}
        self._pending: list[tuple[str, Columns]] = []
        self._pending_series: list[SeriesDescriptor] = []
        self._pending_count = 0
        self._sequence = 0
        self._flushed_sequence = 0
        self._floor_ns = 0
        self._newest_ns = 0
        self._trimmed_ns = 0
        self._closed = False
        self._load()

    # -- writing

    def register(self, descriptors: Sequence[SeriesDescriptor]) -> None:
        with self._lock:
            for descriptor in descriptors:
                if self._index_of(descriptor.tenant).add(descriptor):
                    self._pending_series.append(descriptor)

    def write(self, batch: MetricBatch) -> None:
        if batch.new_series:
            self.register(batch.new_series)
        count = len(batch)
        if count == 0:
            return
        with self._lock:
            sequence = np.arange(self._sequence + 1, self._sequence + 1 + count, dtype=np.int64)
            self._sequence += count
            # Own copies: decoded columns are views into the message's bytes.
            columns = Columns(
                np.array(batch.series_id, dtype=np.uint64),
                np.asarray(batch.time_ns, dtype=np.int64) // PRECISION_NS * PRECISION_NS,
                np.array(batch.value, dtype=np.float64),
                sequence,
            )
            self._tails.setdefault(batch.tenant, Tail()).append(columns)
            self._pending.append((batch.tenant, columns))
            self._pending_count += count
            # Arrival says what "recent" means; a sample stamped years ahead must not empty the tail.
            self._newest_ns = max(self._newest_ns, batch.received_ns or int(columns.time_ns.max()))
            full = self._pending_count >= _FLUSH_SAMPLES
        if full:
            self.flush()

    def flush(self) -> None:
        """Everything written and registered so far is in the file when this returns.

        Raises:
            Unavailable: DuckDB cannot write; nothing is lost, the next flush tries again.
        """
        with self._db_lock:
            with self._lock:
                pending, series = self._pending, self._pending_series
                self._pending, self._pending_series, self._pending_count = [], [], 0
                sequence = self._sequence
            if pending or series:
                try:
                    self._insert(pending, series)
                except duckdb.Error as error:
                    with self._lock:
                        self._pending = pending + self._pending
                        self._pending_series = series + self._pending_series
                        self._pending_count += sum(len(columns) for _, columns in pending)
                    self._revive(error)
                    raise Unavailable(f"series history: {error}; check free disk space") from error
            with self._lock:
                self._flushed_sequence = sequence
                self._trim()

    def _insert(self, pending: list[tuple[str, Columns]], series: list[SeriesDescriptor]) -> None:
        by_tenant: dict[str, list[Columns]] = {}
        for tenant, columns in pending:
            by_tenant.setdefault(tenant, []).append(columns)
        self._db.execute("BEGIN")
        try:
            if series:
                # As lists in one statement: row by row DuckDB takes 0.2 ms each, thirty times as long.
                self._db.execute(
                    "INSERT INTO series SELECT unnest($1::VARCHAR[]), unnest($2::UBIGINT[]), unnest($3::BLOB[])",
                    [
                        [one.tenant for one in series],
                        [one.series_id for one in series],
                        [encode(one) for one in series],
                    ],
                )
            for tenant, parts in by_tenant.items():
                whole = concatenate(parts)
                self._db.register("incoming", {
                    "series_id": whole.series_id, "time_ns": whole.time_ns,
                    "value": whole.value, "sequence": whole.sequence,
                })  # fmt: skip
                self._db.execute(
                    "INSERT INTO samples SELECT ?, series_id, time_ns, value, sequence FROM incoming", [tenant]
                )
                self._db.unregister("incoming")
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a failed COMMIT has ended the transaction; its error is the one
                self._db.execute("ROLLBACK")
            raise

    def drop_before(self, time_ns: int) -> int:
        self.flush()
        with self._db_lock:
            try:
                row = self._db.execute("DELETE FROM samples WHERE time_ns < ?", [time_ns]).fetchone()
            except duckdb.Error as error:
                self._revive(error)
                raise Unavailable(f"series history: {error}; check free disk space") from error
            with self._lock:
                for tail in self._tails.values():
                    tail.trim(time_ns, up_to_sequence=self._sequence)
        return int(row[0]) if row else 0

    def delete_tenant(self, tenant: str) -> None:
        with self._db_lock:
            try:
                self._db.execute("BEGIN")
                for table in ("samples", "series"):
                    self._db.execute(f"DELETE FROM {table} WHERE tenant = ?", [tenant])  # noqa: S608 — our own names
                self._db.execute("COMMIT")
            except duckdb.Error as error:
                with contextlib.suppress(duckdb.Error):
                    self._db.execute("ROLLBACK")
                self._revive(error)
                raise Unavailable(f"series history: {error}; check free disk space") from error
            with self._lock:
                self._index.pop(tenant, None)
                self._tails.pop(tenant, None)
                self._pending = [one for one in self._pending if one[0] != tenant]
                self._pending_series = [one for one in self._pending_series if one.tenant != tenant]
                self._pending_count = sum(len(columns) for _, columns in self._pending)

    # -- reading

    def tenants(self) -> Sequence[str]:
        with self._lock:
            return sorted(tenant for tenant, index in self._index.items() if index.descriptors)

    def descriptor(self, tenant: str, series_id: int) -> SeriesDescriptor | None:
        with self._lock:
            return self._index_of(tenant).descriptors.get(series_id)

    def find(self, tenant: str, matchers: Sequence[Matcher], *, limit: int = 10_000) -> Sequence[SeriesDescriptor]:
        """The first `limit` matches in listing order.

        Raises:
            QueryError: a regular expression is not valid RE2.
        """
        with self._lock:
            return self._index_of(tenant).find(matchers)[:limit]

    def select(
        self, tenant: str, matchers: Sequence[Matcher], *, start_ns: int, end_ns: int, limit: int = 10_000
    ) -> Sequence[SeriesData]:
        found = self.find(tenant, matchers, limit=limit + 1)
        if len(found) > limit:
            raise LimitExceeded(f"more than {limit} series match; add conditions that match fewer")
        data = self.select_ids(tenant, [one.series_id for one in found], start_ns=start_ns, end_ns=end_ns)
        return [data[one.series_id] for one in found if one.series_id in data]

    def select_ids(
        self, tenant: str, series_ids: Sequence[int], *, start_ns: int, end_ns: int
    ) -> Mapping[int, SeriesData]:
        """By id; series without a sample in the range, or not registered for the tenant, are left out."""
        with self._lock:
            known = self._index_of(tenant).descriptors
            wanted = np.unique(np.array([one for one in series_ids if one in known], dtype=np.uint64))
            if wanted.size == 0 or start_ns >= end_ns:
                return {}
            tail = self._tails.get(tenant)
            parts = tail.select(wanted, start_ns, end_ns) if tail is not None else []
            floor_ns = self._floor_ns
            descriptors = {int(one): known[int(one)] for one in wanted}
        if start_ns < floor_ns:
            # The tail was read first: what a flush moves meanwhile is then in both, never in neither.
            parts.append(self._history(tenant, wanted, start_ns, min(end_ns, floor_ns)))
        found = ordered(concatenate(parts))
        low = np.searchsorted(found.series_id, wanted, "left")
        high = np.searchsorted(found.series_id, wanted, "right")
        return {
            int(series_id): SeriesData(
                descriptor=descriptors[int(series_id)], time_ns=found.time_ns[a:b], value=found.value[a:b]
            )
            for series_id, a, b in zip(wanted, low, high, strict=True)
            if a < b
        }

    def _history(self, tenant: str, series_ids: NDArray[np.uint64], start_ns: int, end_ns: int) -> Columns:
        with self._db_lock:
            try:
                try:
                    columns = self._read(tenant, series_ids, start_ns, end_ns)
                except duckdb.FatalException as error:
                    self._revive(error)
                    columns = self._read(tenant, series_ids, start_ns, end_ns)
            except duckdb.Error as error:
                raise Unavailable(f"series history: {error}") from error
        return _from_duckdb(columns)

    def _read(
        self, tenant: str, series_ids: NDArray[np.uint64], start_ns: int, end_ns: int
    ) -> Mapping[str, NDArray[np.generic]]:
        self._db.register("wanted", {"series_id": series_ids})
        columns: Mapping[str, NDArray[np.generic]] = self._db.execute(
            "SELECT series_id, time_ns, value, sequence FROM samples SEMI JOIN wanted USING (series_id) "
            "WHERE tenant = ? AND time_ns >= ? AND time_ns < ?",
            [tenant, start_ns, end_ns],
        ).fetchnumpy()
        self._db.unregister("wanted")
        return columns

    def settle(self) -> None:
        """At once: no other process can have the file open."""

    def close(self) -> None:
        with self._db_lock:
            if self._closed:
                return
            self.flush()
            self._closed = True
            self._regex.close()
            self._db.close()

    # -- inside

    def _connect(self) -> duckdb.DuckDBPyConnection:
        target = str(self._path) if self._path is not None else ":memory:"
        database = duckdb.connect(target, config={"threads": 2})
        for statement in _SCHEMA:
            database.execute(statement)
        return database

    def _revive(self, error: duckdb.Error) -> None:
        """Opens the file anew where DuckDB takes no more calls: so it is after a checkpoint that found the disk full.

        Every committed row is there again, out of the file and its log. The connection lock is held.
        """
        if self._path is None or not isinstance(error, duckdb.FatalException):
            return
        with contextlib.suppress(duckdb.Error):
            self._db.close()
        try:
            self._db = self._connect()
        except duckdb.Error as failure:
            raise Unavailable(f"series history {self._path} cannot be opened again: {failure}") from error

    def _index_of(self, tenant: str) -> LabelIndex:
        index = self._index.get(tenant)
        if index is None:
            index = self._index[tenant] = LabelIndex(self._regex.match)
        return index

    def _load(self) -> None:
        """Descriptors, the newest quarter of an hour and the next sequence number from the file."""
        for (data,) in self._db.execute("SELECT data FROM series ORDER BY rowid").fetchall():
            descriptor = decode(SeriesDescriptor, data)
            self._index_of(descriptor.tenant).add(descriptor)
        newest, sequence = self._db.execute("SELECT max(time_ns), max(sequence) FROM samples").fetchone() or (
            None,
            None,
        )
        if newest is None:
            return
        self._sequence = self._flushed_sequence = int(sequence)
        self._floor_ns = int(newest) - _TAIL_NS
        for (tenant,) in self._db.execute("SELECT DISTINCT tenant FROM samples").fetchall():
            rows = self._db.execute(
                "SELECT series_id, time_ns, value, sequence FROM samples WHERE tenant = ? AND time_ns >= ?",
                [tenant, self._floor_ns],
            ).fetchnumpy()
            tail = self._tails[tenant] = Tail()
            tail.append(_from_duckdb(rows))

    def _trim(self) -> None:
        """Moves the floor up and drops what DuckDB holds below it. The lock is held."""
        count = sum(len(tail) for tail in self._tails.values())
        if self._newest_ns - self._trimmed_ns < _TRIM_EVERY_NS and count <= _MAX_TAIL_SAMPLES:
            return
        self._trimmed_ns = self._newest_ns
        floor_ns = self._newest_ns - _TAIL_NS
        if count > _MAX_TAIL_SAMPLES:
            times = np.concatenate([tail.times() for tail in self._tails.values()])
            # Halve it, so that this does not happen again with the next sample.
            floor_ns = max(floor_ns, int(np.partition(times, times.size // 2)[times.size // 2]))
        self._floor_ns = max(self._floor_ns, floor_ns)
        for tail in self._tails.values():
            tail.trim(self._floor_ns, up_to_sequence=self._flushed_sequence)


def _from_duckdb(columns: Mapping[str, NDArray[np.generic]]) -> Columns:
    # DuckDB's NumPy scan stores NaN as NULL and gives NULL back masked: both ways it is our stale marker.
    value = np.ma.filled(columns["value"].astype(np.float64), np.nan)
    return Columns(
        np.asarray(columns["series_id"], dtype=np.uint64),
        np.asarray(columns["time_ns"], dtype=np.int64),
        np.asarray(value, dtype=np.float64),
        np.asarray(columns["sequence"], dtype=np.int64),
    )
