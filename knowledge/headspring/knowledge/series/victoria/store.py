"""The series store of the distributed shape: a single-node VictoriaMetrics.

Its retention is the server's own (`-retentionPeriod`). What it knows of series is in their labels on the server
(`labels.py`), so every process reads the same, whoever wrote it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from headspring.knowledge.series.port import PRECISION_NS, VISIBLE_WITHIN_S, Matcher, SeriesData
from headspring.knowledge.series.victoria import facts
from headspring.knowledge.series.victoria.client import VictoriaClient
from headspring.knowledge.series.victoria.facts import MIN_VERSION, WANTED_LABELS, ServerFacts
from headspring.knowledge.series.victoria.reader import VictoriaReader
from headspring.knowledge.series.victoria.writer import VictoriaWriter
from headspring.proto.errors import ConfigError, Unavailable, Unreachable
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

logger = logging.getLogger(__name__)

_KEPT_S = 400 * 86_400
"""How far back is looked where the server does not tell its retention."""
_GONE_WITHIN_S = 15.0


class VictoriaSeriesStore:
    """`SeriesStore` (see the port for the contract); any number of processes may have the same server open."""

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        retention: timedelta | None = None,
        must_answer: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            headers: sent with every request, for a proxy in between; e.g. a bearer token.
            retention: what is wanted of the server; `notes` tells where it keeps less.
            must_answer: False: a server that is away now is no error, but used when it comes, as one of which
                nothing is known.

        Raises:
            ConfigError: the address or the sign-in cannot be used, or the server is too old.
            Unavailable: nothing answers at the address, and it must.
        """
        self._client = VictoriaClient(
            url, user=user, password=password, headers=headers, ca_file=ca_file, timeout_s=timeout_s
        )
        try:
            self.server, self.notes = self._look(retention)
        except Unavailable as error:
            if must_answer:
                self._client.close()
                raise Unreachable(f"{error}; start it, or correct victoria_url") from error
            self.server, self.notes = ServerFacts(), (f"{error}; its version and retention are not known",)
        except BaseException:
            self._client.close()
            raise
        for note in self.notes:
            logger.warning("the series store is not as it should be: %s", note)
        kept = self.server.retention
        self._writer = VictoriaWriter(self._client, self.server, self._look_up, monotonic=monotonic)
        self._reader = VictoriaReader(
            self._client, kept_s=int(kept.total_seconds()) if kept else _KEPT_S, is_current=self._writer.is_current
        )
        self._monotonic = monotonic

    # -- writing

    def register(self, descriptors: Sequence[SeriesDescriptor]) -> None:
        self._writer.register(descriptors)

    def write(self, batch: MetricBatch) -> None:
        """
        Raises:
            Unavailable: the server is away and too much waits; write the batch again.
        """
        self._writer.write(batch)

    def flush(self) -> None:
        """Everything written so far has been taken by the server when this returns, and is sent again should the
        server be killed before it has it on disk.

        Raises:
            Unavailable: the server is away; nothing is lost, the next flush tries again.
            Rejected: the server will never take some of these samples; they are let go.
        """
        self._writer.flush()

    def drop_before(self, time_ns: int) -> int:
        """0: the server forgets by its own retention."""
        self._writer.flush()  # also where nothing new comes: this is the tick at which a restart is noticed
        return 0

    def delete_tenant(self, tenant: str) -> None:
        """
        Raises:
            Unavailable: the server is away, or still shows the tenant; do it again.
        """
        self._writer.forget(tenant)
        deadline_s = self._monotonic() + _GONE_WITHIN_S
        while True:
            # The server deletes what it has in its index; what it has just taken gets there first.
            if not self._client.make_visible():
                time.sleep(VISIBLE_WITHIN_S)
            self._reader.see_all()
            if self._reader.is_empty(tenant):
                return
            if self._monotonic() > deadline_s:
                raise Unavailable(f"VictoriaMetrics still shows series of tenant {tenant!r} after it deleted them")
            self._client.delete(self._reader.everything_of(tenant))

    # -- reading

    def tenants(self) -> Sequence[str]:
        self._own_writes()
        return self._reader.tenants()

    def descriptor(self, tenant: str, series_id: int) -> SeriesDescriptor | None:
        self._own_writes()
        return next(iter(self._reader.describe(tenant, [series_id])), None)

    def find(self, tenant: str, matchers: Sequence[Matcher], *, limit: int = 10_000) -> Sequence[SeriesDescriptor]:
        """The first `limit` matches in listing order.

        Raises:
            QueryError: a regular expression is not valid RE2.
            LimitExceeded: more match than the server lists (`-search.maxSeries`).
        """
        self._own_writes()
        return self._reader.find(tenant, matchers)[:limit]

    def select(
        self, tenant: str, matchers: Sequence[Matcher], *, start_ns: int, end_ns: int, limit: int = 10_000
    ) -> Sequence[SeriesData]:
        self._own_writes()
        start_ms, end_ms = _milliseconds(start_ns, end_ns)
        own = self._writer.recent(tenant, start_ms, end_ms)
        return self._reader.select(tenant, matchers, start_ms=start_ms, end_ms=end_ms, limit=limit, own=own)

    def select_ids(
        self, tenant: str, series_ids: Sequence[int], *, start_ns: int, end_ns: int
    ) -> Mapping[int, SeriesData]:
        """By id; series without a sample in the range, or not registered for the tenant, are left out."""
        self._own_writes()
        start_ms, end_ms = _milliseconds(start_ns, end_ns)
        own = self._writer.recent(tenant, start_ms, end_ms)
        return self._reader.select_ids(tenant, series_ids, start_ms=start_ms, end_ms=end_ms, own=own)

    def settle(self) -> None:
        """Returns when every process reads what this one wrote before: after three seconds at most, or twelve
        where the server does not let us flush it."""
        self._own_writes()
        time.sleep(self._writer.shown_in_s())

    # -- the server

    def ping(self) -> None:
        """
        Raises:
            Unavailable: the server does not answer as it should.
        """
        status = self._client.probe()
        if status != 200:
            raise Unavailable(f"VictoriaMetrics at {self._client.where} answers {status}")

    def counters(self) -> Mapping[str, int]:
        """What happened here so far, by metric name."""
        return dict(self._writer.counters)

    def close(self) -> None:
        """Sends what waits; that fails with `Unavailable` while the server is away."""
        try:
            self._writer.flush()
        finally:
            self._reader.close()
            self._client.close()

    def _own_writes(self) -> None:
        """Every series that this process has written to is in the next answer; `recent` adds the samples.

        `/internal/force_flush` waits for what a background flush has in hand of the index, not of the samples.
        """
        self._writer.make_visible(self._reader.see_all)

    def _look_up(self, tenant: str, series_ids: Sequence[int]) -> Sequence[SeriesDescriptor]:
        """For the writer: another process may have written a series' first sample a moment ago."""
        self._client.make_visible()
        self._reader.see_all()
        return self._reader.describe(tenant, series_ids)

    def _look(self, retention: timedelta | None) -> tuple[ServerFacts, tuple[str, ...]]:
        """What the server is, and what of it costs something without being wrong."""
        where = self._client.where
        status = self._client.probe()
        if status in (401, 403):
            raise ConfigError(
                f"VictoriaMetrics at {where} refuses the sign-in ({status}); correct victoria_user and "
                "victoria_password"
            )
        if status == 429 or status >= 500:
            raise Unavailable(f"VictoriaMetrics at {where} answers {status}")
        text = self._client.metrics()
        server = facts.parse(text) if text is not None else ServerFacts()
        if status != 200 or server is None:
            raise ConfigError(
                f"what answers at victoria_url {where} is not VictoriaMetrics; wanted its address, "
                "http[s]://HOST:PORT, without a path unless a proxy wants one"
            )
        if server.version and server.version[: len(MIN_VERSION)] < MIN_VERSION:
            raise ConfigError(
                f"VictoriaMetrics at {where} is version {'.'.join(map(str, server.version))}; "
                f"wanted {'.'.join(map(str, MIN_VERSION))} or newer: upgrade it"
            )
        notes: list[str] = []
        if text is None:
            notes.append("/metrics is not shown to us: its version, limits and restarts are not known")
        if retention is not None and server.retention is not None and server.retention < retention:
            notes.append(
                f"keeps samples {_days(server.retention)}, wanted {_days(retention)}: "
                f"start it with -retentionPeriod={-(-retention // timedelta(days=1))}d"
            )
        if server.limits.max_labels < WANTED_LABELS:
            notes.append(
                f"keeps {server.limits.max_labels} labels of a series: of one with more, some can be asked for "
                f"slowly only; start it with -maxLabelsPerTimeseries={WANTED_LABELS}"
            )
        if not self._client.make_visible():
            notes.append(f"/internal/force_flush is refused: what we write is seen after {VISIBLE_WITHIN_S:g} s only")
        return server, tuple(notes)


def _milliseconds(start_ns: int, end_ns: int) -> tuple[int, int]:
    """The first whole millisecond at or after the start, the last before the end."""
    return -(-start_ns // PRECISION_NS), -(-end_ns // PRECISION_NS) - 1


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"
