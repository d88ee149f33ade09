"""Series identity: 64-bit keyed hashes, known or new, never confused.

The id is a keyed BLAKE2b of tenant, name, unit and sorted labels, so it is the same for every protocol,
spelling order and process of one installation, and senders cannot aim for collisions. A second part of
the digest is kept to tell a repeat from a collision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from headspring.ingestion.admit.limits import Limits
from headspring.ingestion.normalize.metrics import SeriesDraft
from headspring.proto.semantics import DERIVED_METRICS
from headspring.proto.telemetry import METRIC_KIND_CODE, SeriesDescriptor
from headspring.proto.topics import SHARD_SHIFT

_KIND_MASK = 0xFF
_CHECK_MASK = 2**64 - 1 - _KIND_MASK
_LOWER_HALF = 2**SHARD_SHIFT - 1
_STAMP_SHIFT = 64
_LOADED_GRACE_S = 900
"""A series loaded at start must show itself within this time: far more than any usual reporting interval,
short enough that series of long ago do not hold up the limit."""
_EXPIRE_EVERY_S = 600
KEY_BYTES = 16


def identify(key: bytes, tenant: str, name: str, unit: str, labels: Mapping[str, str]) -> tuple[int, int]:
    """Series id and check, 64 bits each; the order of labels does not matter. The id is never 0.

    The upper half of an id says which shard the series goes to. Rate, errors and durations of one service or call share
    it, because detection judges them together; so that no large exporter fills a shard, other series share nothing.
    """
    said: list[str] = []
    for label in sorted(labels):
        said += (label, labels[label])
    digest = _digest(key, (tenant, name, unit, *said))
    series_id, check = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    if name in DERIVED_METRICS:
        family = _digest(key, (tenant, *said))
        series_id = int.from_bytes(family[:4], "little") << SHARD_SHIFT | series_id & _LOWER_HALF
    return series_id or 1, check


def _digest(key: bytes, parts: Iterable[str]) -> bytes:
    hasher = hashlib.blake2b(digest_size=16, key=key)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(4, "little"))
        hasher.update(data)
    return hasher.digest()


class SeriesRegistry:
    """All series of this installation, by tenant. One event loop uses it.

    Memory is bounded by `Limits.max_series` per tenant, about 150 bytes each.
    """

    def __init__(self, *, key: bytes, limits: Limits) -> None:
        """`key` is the installation's secret, 16 bytes; another key makes every series a new one."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"the series key has {len(key)} bytes, wanted {KEY_BYTES}")
        self._key = key
        self._limits = limits
        # series id → second of the last admission, upper 56 bits of the check, kind code in the lowest byte
        self._known: dict[str, dict[int, int]] = {}
        self._first_tick_s = 0
        self._expired_s = 0
        self.now_s = 0
        self.on_expire: list[Callable[[str, int], set[int]]] = []
        """Caches of ids, asked by (tenant, second) which ids they saw since; they forget the others."""

    def load(self, descriptors: Iterable[SeriesDescriptor]) -> int:
        """Fills the registry at start from `telemetry.series`; returns how many were taken.

        A descriptor whose id does not follow from its content (made by another stage, or with another
        key) is left out: it belongs to whoever made it.
        """
        taken = 0
        for descriptor in descriptors:
            series_id, check = identify(
                self._key, descriptor.tenant, descriptor.name, descriptor.unit, descriptor.labels
            )
            if series_id == descriptor.series_id:
                known = self._known.setdefault(descriptor.tenant, {})
                known[series_id] = (check & _CHECK_MASK) | METRIC_KIND_CODE[descriptor.kind]
                taken += 1
        return taken

    def tick(self, now_s: int) -> None:
        """Tells the time, unix seconds; every ten minutes series that fell silent are forgotten."""
        self.now_s = now_s
        if not self._first_tick_s:
            self._first_tick_s = self._expired_s = now_s
        if now_s - self._expired_s >= _EXPIRE_EVERY_S:
            self._expired_s = now_s
            for tenant in self._known:
                self._expire(tenant)

    def _expire(self, tenant: str) -> None:
        since = self.now_s - int(self._limits.series_idle_s)
        grace_over = self.now_s - self._first_tick_s >= _LOADED_GRACE_S
        live: set[int] = set().union(*(seen(tenant, since) for seen in self.on_expire))
        known = self._known[tenant]
        for series_id, entry in list(known.items()):
            stamp = entry >> _STAMP_SHIFT
            if series_id not in live and (stamp < since if stamp else grace_over):
                del known[series_id]

    def count(self, tenant: str) -> int:
        """Series known for a tenant."""
        return len(self._known.get(tenant, ()))

    def admission(self, tenant: str) -> Admission:
        """One request's view; nothing it admits is known to others before `commit`."""
        return Admission(self._key, self._limits, tenant, self._known.setdefault(tenant, {}), self.now_s)


class Admission:
    """Resolves the series of one request. `new` holds descriptors to publish before `commit`."""

    def __init__(self, key: bytes, limits: Limits, tenant: str, known: dict[int, int], now_s: int) -> None:
        self._key = key
        self._limits = limits
        self._known = known
        self._pending: dict[int, int] = {}
        self.tenant = tenant
        self.now_s = now_s
        self.new: dict[int, SeriesDescriptor] = {}
        self.on_commit: list[Callable[[], None]] = []
        """Called by `commit`: what others may remember once the descriptors are durable."""
        self.reason = ""
        """Why the last `admit` gave None."""

    def admit(self, draft: SeriesDraft) -> tuple[int, int] | None:
        """Series id and kind code, or None where the series may not come in: then `reason` says why."""
        self.reason = self._shape(draft)
        if self.reason:
            return None
        series_id, check = identify(self._key, self.tenant, draft.name, draft.unit, draft.labels)
        found = self._pending.get(series_id) or self._known.get(series_id)
        if found is not None:
            if (found ^ check) & _CHECK_MASK:
                self.reason = "its id collides with another series"
                return None
            self._pending[series_id] = self._entry(check, found & _KIND_MASK)
            return series_id, found & _KIND_MASK
        if len(self._known) + len(self.new) >= self._limits.max_series:
            self.reason = f"the tenant's limit of {self._limits.max_series} series is reached"
            return None
        code = METRIC_KIND_CODE[draft.kind]
        self._pending[series_id] = self._entry(check, code)
        self.new[series_id] = SeriesDescriptor(
            series_id=series_id,
            tenant=self.tenant,
            name=draft.name,
            unit=draft.unit,
            kind=draft.kind,
            entity=draft.entity,
            labels=draft.labels,
        )
        return series_id, code

    def commit(self) -> None:
        """The descriptors are durable: the series are known from now on."""
        self._known.update(self._pending)
        self._pending.clear()
        for call in self.on_commit:
            call()
        self.on_commit.clear()

    def _entry(self, check: int, code: int) -> int:
        return self.now_s << _STAMP_SHIFT | (check & _CHECK_MASK) | code

    def _shape(self, draft: SeriesDraft) -> str:
        if not draft.name:
            return "the metric has no name"
        if len(draft.labels) > self._limits.max_labels:
            return f"{draft.name[:80]} has more than {self._limits.max_labels} labels"
        longest = self._limits.max_label_bytes
        for text in (draft.name, draft.unit, *draft.labels.keys(), *draft.labels.values()):
            if len(text) * 4 > longest and len(text.encode("utf-8", "replace")) > longest:
                return f"{draft.name[:80]} has a name or label of more than {longest} bytes"
        return ""
