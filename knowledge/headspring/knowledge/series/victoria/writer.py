"""The writing half: batches are gathered, and sent with `flush`."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np

from headspring.knowledge.series.port import KNOWN_VISIBLE_WITHIN_S, PRECISION_NS, VISIBLE_WITHIN_S
from headspring.knowledge.series.victoria import facts
from headspring.knowledge.series.victoria.client import VictoriaClient
from headspring.knowledge.series.victoria.facts import ServerFacts
from headspring.knowledge.series.victoria.labels import to_labels, undescribed
from headspring.knowledge.series.victoria.remote_write import MAX_MS, MIN_MS, encoded_labels, requests
from headspring.knowledge.series.victoria.samples import Samples, between, by_series
from headspring.knowledge.series.victoria.unsettled import Unsettled
from headspring.proto.errors import Rejected, Unavailable
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

logger = logging.getLogger(__name__)

_FLUSH_SAMPLES = 100_000
"""Samples that wait at most before `write` sends them by itself."""
_MAX_PENDING = 1_000_000
"""Samples that wait while the server is away; then `write` takes no more. 24 bytes each."""
_MAX_UNSETTLED = 4_000_000
"""96 MB: 250 000 samples a second and more can be sent again after a server was killed."""
_REQUEST_BYTES = 8 << 20
"""Before compression; the server takes 32 MiB."""
_MAX_KNOWN = 500_000
"""Series whose encoded labels are kept, some 400 bytes each; others are asked of the server."""
_ASK_AGAIN_S = 60.0
"""An undescribed series is asked of the server so often."""

LookUp = Callable[[str, Sequence[int]], Iterable[SeriesDescriptor]]
"""(tenant, series ids) → descriptors that the server has of them."""


class VictoriaWriter:
    """Thread-safe. One flush at a time: who returns from `flush` knows that what it wrote before was taken."""

    def __init__(
        self, client: VictoriaClient, server: ServerFacts, look_up: LookUp, *,
        monotonic: Callable[[], float] = time.monotonic, max_known: int = _MAX_KNOWN,
    ) -> None:  # fmt: skip
        self._client = client
        self._look_up = look_up
        self._monotonic = monotonic
        self._max_known = max_known
        self._limits = server.limits
        self._flush_s = server.flush_s
        self._started_s = server.started_s
        self._looked_s = monotonic()
        self._doubt = False
        """Whether a request failed since the server was last looked at."""
        self._known: dict[str, dict[int, bytes]] = {}
        """Encoded labels by tenant and series."""
        self._unknown: dict[tuple[str, int], float] = {}
        """Undescribed series, and when the server is asked again."""
        self._pending: list[tuple[str, Samples]] = []
        self._pending_count = 0
        self._unsettled = Unsettled(max_samples=_MAX_UNSETTLED)
        self._sent_s = -VISIBLE_WITHIN_S
        """When something was sent last."""
        self._flushes = True
        """Whether the server lets us make new series visible."""
        self._lock = threading.Lock()
        """Guards what is in memory; held for microseconds. Taken after `_sending` where both are needed."""
        self._sending = threading.RLock()
        self._visible = True
        """Whether queries see everything that was sent, as far as this process knows."""
        self.counters: Counter[str] = Counter()

    def register(self, descriptors: Sequence[SeriesDescriptor]) -> None:
        for descriptor in descriptors:
            spelt = to_labels(descriptor, self._limits)
            encoded = encoded_labels(spelt.labels)
            if spelt.cut:
                self.counters["headspring_series_labels_cut_total"] += len(spelt.cut)
                logger.warning(
                    "labels of a series are too long for VictoriaMetrics and were left out",
                    extra={"series": descriptor.name, "labels": ", ".join(spelt.cut)[:200]},
                )
            with self._lock:
                known = self._known.setdefault(descriptor.tenant, {})
                known[descriptor.series_id] = encoded
                self._unknown.pop((descriptor.tenant, descriptor.series_id), None)
                if len(known) > self._max_known:
                    for series_id in list(known)[: self._max_known // 2]:  # the oldest half
                        del known[series_id]

    def write(self, batch: MetricBatch) -> None:
        """
        Raises:
            Unavailable: the server is away and too much waits; write the batch again.
        """
        if batch.new_series:
            self.register(batch.new_series)
        if len(batch) == 0:
            return
        if self._pending_count >= _MAX_PENDING:
            self.flush()
        time_ms = np.asarray(batch.time_ns, dtype=np.int64) // PRECISION_NS
        # Own copies: decoded columns are views into the message's bytes.
        samples = Samples(np.array(batch.series_id, dtype=np.uint64), time_ms, np.array(batch.value, dtype=np.float64))
        held = (time_ms >= MIN_MS) & (time_ms <= MAX_MS)
        if not held.all():
            self.counters["headspring_series_times_refused_total"] += int((~held).sum())
            samples = Samples(samples.series_id[held], time_ms[held], samples.value[held])
        with self._lock:
            self._pending.append((batch.tenant, samples))
            self._pending_count += len(samples)
            full = self._pending_count >= _FLUSH_SAMPLES
        if full:
            self.flush()

    def flush(self) -> None:
        """Everything written so far has been taken by the server when this returns.

        Raises:
            Unavailable: the server is away. What was written is kept and sent with the next flush, as far as
                there is room; write it again all the same if it is to be counted on.
            Rejected: the server will never take these samples; they are let go.
        """
        with self._sending:
            self._watch()
            with self._lock:
                pending, self._pending, self._pending_count = self._pending, [], 0
                self._visible = self._visible and not pending
            try:
                self._send_all(pending)
            except Unavailable:
                self._doubt = True
                with self._lock:
                    self._pending = pending + self._pending
                    self._pending_count = sum(len(samples) for _, samples in self._pending)
                raise

    def make_visible(self, then: Callable[[], None]) -> None:
        """Sends what waits and lets queries see it; calls `then` if there was anything that they might not see.

        Raises:
            Unavailable, Rejected: as `flush`.
        """
        with self._lock:
            if self._visible and not self._pending:
                return
        self.flush()
        with self._sending:
            if not self._visible:
                # Not allowed: then it is seen when the server shows it, within the port's bound.
                self._flushes = self._client.make_visible()
                then()
                self._visible = True

    def recent(self, tenant: str, start_ms: int, end_ms: int) -> Samples:
        """What this process wrote a moment ago: the server may be about to show it only."""
        with self._lock:
            parts = self._unsettled.of(tenant, self._monotonic() - KNOWN_VISIBLE_WITHIN_S)
        return between(parts, start_ms, end_ms)

    def is_current(self, descriptor: SeriesDescriptor) -> bool:
        """Whether this process writes the series under just this description."""
        with self._lock:
            known = self._known.get(descriptor.tenant, {}).get(descriptor.series_id)
        return known is not None and known == encoded_labels(to_labels(descriptor, self._limits).labels)

    def shown_in_s(self) -> float:
        """Seconds until the server must have shown everything to everybody."""
        bound_s = KNOWN_VISIBLE_WITHIN_S if self._flushes else VISIBLE_WITHIN_S
        return max(0.0, self._sent_s + bound_s - self._monotonic())

    def forget(self, tenant: str) -> None:
        """Whatever is in memory of a tenant."""
        with self._sending, self._lock:
            self._known.pop(tenant, None)
            self._unknown = {key: at_s for key, at_s in self._unknown.items() if key[0] != tenant}
            self._pending = [one for one in self._pending if one[0] != tenant]
            self._pending_count = sum(len(samples) for _, samples in self._pending)
            self._unsettled.forget(tenant)

    # -- inside; `_sending` is held

    def _send_all(self, pending: Sequence[tuple[str, Samples]]) -> None:
        by_tenant: dict[str, list[Samples]] = {}
        for tenant, samples in pending:
            if len(samples):
                by_tenant.setdefault(tenant, []).append(samples)
        refused: Rejected | None = None
        for tenant, parts in by_tenant.items():
            try:
                self._send(tenant, parts)
            except Rejected as error:  # the other tenants' samples are none the worse
                refused = error
        if refused is not None:
            raise refused

    def _send(self, tenant: str, parts: Sequence[Samples]) -> None:
        samples, starts = by_series(parts)
        labels = self._labels_of(tenant, samples.series_id[starts].tolist())
        counts = np.diff(np.append(starts, len(samples)))
        self._visible = False  # also of what is sent again
        for part in requests(labels, counts, samples.time_ms, samples.value, max_bytes=_REQUEST_BYTES):
            self._client.write(part.body)
            self.counters["headspring_series_samples_written_total"] += part.count
        self._sent_s = self._monotonic()
        with self._lock:
            given_up = self._unsettled.add(tenant, samples, self._sent_s)
        if given_up:
            self.counters["headspring_series_samples_not_kept_total"] += given_up

    def _labels_of(self, tenant: str, series_ids: Sequence[int]) -> list[bytes]:
        with self._lock:
            known = self._known.setdefault(tenant, {})
            found = list(map(known.get, series_ids))
        if None not in found:
            return cast(list[bytes], found)
        now_s = self._monotonic()
        missing = [
            series_id
            for series_id, encoded in zip(series_ids, found, strict=True)
            if encoded is None and self._unknown.get((tenant, series_id), now_s) <= now_s
        ]
        if missing:
            self.register(list(self._look_up(tenant, missing)))
        labels: list[bytes] = []
        with self._lock:
            for series_id, encoded in zip(series_ids, found, strict=True):
                encoded = encoded or self._known.get(tenant, {}).get(series_id)
                if encoded is None:
                    encoded = encoded_labels(undescribed(tenant, series_id))
                    self.counters["headspring_series_undescribed_total"] += 1
                    if self._unknown.get((tenant, series_id), now_s) <= now_s:
                        if len(self._unknown) >= self._max_known:
                            self._unknown.clear()
                        self._unknown[tenant, series_id] = now_s + _ASK_AGAIN_S
                labels.append(encoded)
        return labels

    def _watch(self) -> None:
        """Sends again what a server has lost that was killed and started anew since it was last looked at."""
        now_s = self._monotonic()
        if not len(self._unsettled) or (now_s - self._looked_s < self._flush_s and not self._doubt):
            return
        try:
            text = self._client.metrics()
            now = facts.parse(text) if text is not None else None
            started_s = now.started_s if now is not None else 0.0
            # Where the server does not say since when it runs, a failed request is what a restart looks like.
            if started_s != self._started_s if started_s and self._started_s else self._doubt:
                self._send_again()
            else:
                with self._lock:
                    self._unsettled.settle(now_s - 2 * self._flush_s)
        except Unavailable:
            self._doubt = True
            raise
        self._started_s, self._looked_s, self._doubt = started_s, now_s, False

    def _send_again(self) -> None:
        with self._lock:
            left = self._unsettled.take()
        count = sum(len(one.samples) for one in left)
        logger.warning("VictoriaMetrics was started anew; the last samples are sent again", extra={"samples": count})
        try:
            while left:
                self._send(left[0].tenant, [left[0].samples])
                self.counters["headspring_series_samples_resent_total"] += len(left.pop(0).samples)
        finally:
            with self._lock:
                for one in left:
                    self._unsettled.add(one.tenant, one.samples, one.at_s)
