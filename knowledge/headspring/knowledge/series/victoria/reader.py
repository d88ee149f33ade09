"""The reading half: series by their labels and by id, samples by `/api/v1/export`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.series.index import LabelIndex, sort_key
from headspring.knowledge.series.port import PRECISION_NS, Matcher, SeriesData
from headspring.knowledge.series.re2 import Re2
from headspring.knowledge.series.victoria.client import VictoriaClient
from headspring.knowledge.series.victoria.export import Described, ExportReader, Line, described
from headspring.knowledge.series.victoria.labels import TENANT
from headspring.knowledge.series.victoria.samples import Samples, by_series, once
from headspring.knowledge.series.victoria.selectors import Plan, by_ids, of_tenant, plan
from headspring.proto.errors import LimitExceeded
from headspring.proto.telemetry import SeriesDescriptor

_IDS_PER_REQUEST = 500
_MAX_ANSWER_SAMPLES = 50_000_000
"""800 MB of columns: more is not a question but an export."""


class VictoriaReader:
    """Thread-safe; keeps nothing but descriptors that it has seen."""

    def __init__(
        self, client: VictoriaClient, *, kept_s: int, is_current: Callable[[SeriesDescriptor], bool] = lambda _: False
    ) -> None:
        """
        Args:
            kept_s: the server's retention; how far back a series' last sample can be.
            is_current: whether this process writes a series under this description.
        """
        self._client = client
        self._is_current = is_current
        self._kept_s = kept_s
        self._lines = ExportReader()
        self._regex = Re2()
        self._fresh = ""

    def see_all(self) -> None:
        """What the server shows from now on is answered, not what it remembers of an earlier answer."""
        self._fresh = secrets.token_hex(6)  # no other process may have asked with it

    def close(self) -> None:
        self._regex.close()

    # -- series

    def tenants(self) -> Sequence[str]:
        return sorted(self._client.label_values(TENANT))

    def everything_of(self, tenant: str) -> str:
        """The selector of it."""
        return of_tenant(tenant, self._fresh)

    def is_empty(self, tenant: str) -> bool:
        try:
            return not self._client.series([self.everything_of(tenant)])
        except LimitExceeded:
            return False

    def find(self, tenant: str, matchers: Sequence[Matcher]) -> Sequence[SeriesDescriptor]:
        """All series that match, in listing order."""
        plan_ = plan(tenant, matchers, self._fresh)
        found = [one for one in map(described, self._client.series(plan_.selectors)) if one is not None]
        return sorted(self._newest(tenant, self._matching(plan_, found)), key=sort_key)

    def describe(self, tenant: str, series_ids: Sequence[int]) -> Sequence[SeriesDescriptor]:
        """The newest descriptors of series with these ids, of those that have one, in no order."""
        found: list[SeriesDescriptor] = []
        for start in range(0, len(series_ids), _IDS_PER_REQUEST):
            metrics = self._client.series([by_ids(tenant, series_ids[start : start + _IDS_PER_REQUEST], self._fresh)])
            found += self._newest(tenant, [one for one in map(described, metrics) if one is not None])
        return found

    def _newest(self, tenant: str, found: Iterable[Described]) -> Sequence[SeriesDescriptor]:
        """One descriptor a series: of one that was described anew, the one it is written under now."""
        by_id: dict[int, list[SeriesDescriptor]] = {}
        for one in found:
            if one.descriptor is not None:
                by_id.setdefault(one.series_id, []).append(one.descriptor)
        newest = {series_id: self._current(descriptors) for series_id, descriptors in by_id.items()}
        asked = [series_id for series_id, descriptor in newest.items() if descriptor is None]
        last_s = dict.fromkeys(asked, 0.0)
        for start in range(0, len(asked), _IDS_PER_REQUEST):
            selector = by_ids(tenant, asked[start : start + _IDS_PER_REQUEST], self._fresh)
            for metric, time_s in self._client.last_times(selector, within_s=self._kept_s):
                last = described(metric)
                if (
                    last is not None
                    and last.descriptor in by_id.get(last.series_id, ())
                    and time_s >= last_s.get(last.series_id, math.inf)
                ):
                    newest[last.series_id], last_s[last.series_id] = last.descriptor, time_s
        return [descriptor or by_id[series_id][0] for series_id, descriptor in newest.items()]

    def _current(self, descriptors: Sequence[SeriesDescriptor]) -> SeriesDescriptor | None:
        """The only one, or the one that this process writes under; None if that is none of them."""
        if len(descriptors) == 1:
            return descriptors[0]
        return next(filter(self._is_current, descriptors), None)

    def _matching(self, plan_: Plan, found: Sequence[Described]) -> Sequence[Described]:
        """Those that are meant: conditions are looked at again where the selectors may find too much."""
        if not plan_.recheck:
            return found
        doubtful = [one for one in found if one.descriptor is not None and (one.odd or plan_.recheck_all)]
        sure = [one for one in found if not (one.odd or plan_.recheck_all)]
        if not doubtful:
            return sure
        # The embedded index says what conditions mean; numbered, because several descriptions share an id.
        index = LabelIndex(self._regex.match)
        for number, one in enumerate(doubtful):
            if one.descriptor is not None:
                index.add(replace(one.descriptor, series_id=number))
        return [*sure, *(doubtful[one.series_id] for one in index.find(plan_.recheck))]

    # -- samples

    def select(
        self, tenant: str, matchers: Sequence[Matcher], *, start_ms: int, end_ms: int, limit: int, own: Samples
    ) -> Sequence[SeriesData]:
        """`own`: samples of this process that the server may not show yet; of any series."""
        plan_ = plan(tenant, matchers, self._fresh)
        certain: set[int] = set()
        found: list[tuple[Described, Line]] = []
        with closing(self._export(plan_.selectors, start_ms, end_ms)) as lines:
            for one, line in lines:
                if one.descriptor is None:
                    continue
                found.append((one, line))
                if not (plan_.recheck and (one.odd or plan_.recheck_all)):
                    certain.add(one.series_id)
                if len(certain) > limit:
                    raise _too_many(limit)
        meant = {id(one) for one in self._matching(plan_, [one for one, _ in found])}
        parts = [_part(one, line) for one, line in found if id(one) in meant]
        if len(own):
            known = {one.series_id: one for one in self.find(tenant, matchers)}
            parts += _own_parts(own, known)
        data = self._merged(parts)
        if len(data) > limit:
            raise _too_many(limit)
        return sorted(data.values(), key=lambda one: sort_key(one.descriptor))

    def select_ids(
        self, tenant: str, series_ids: Sequence[int], *, start_ms: int, end_ms: int, own: Samples
    ) -> Mapping[int, SeriesData]:
        wanted = sorted(set(series_ids))
        parts: list[_Part] = []
        for start in range(0, len(wanted), _IDS_PER_REQUEST):
            selector = by_ids(tenant, wanted[start : start + _IDS_PER_REQUEST], self._fresh)
            parts += [_part(one, line) for one, line in self._export([selector], start_ms, end_ms)]
        if len(own):
            parts += _own_parts(own, dict.fromkeys(wanted))
        nameless = {part.series_id for part in parts} - {part.series_id for part in parts if part.descriptor}
        if nameless:
            # Samples that came before their series was described, or of this process.
            known = {one.series_id: one for one in self.describe(tenant, sorted(nameless))}
            parts = [replace(part, descriptor=part.descriptor or known.get(part.series_id)) for part in parts]
        return self._merged(parts)

    def _merged(self, parts: Iterable[_Part]) -> dict[int, SeriesData]:
        """One entry a series, from all its descriptions."""
        by_id: dict[int, list[_Part]] = {}
        for part in parts:
            by_id.setdefault(part.series_id, []).append(part)
        data: dict[int, SeriesData] = {}
        for series_id, same in by_id.items():
            named = sorted((part for part in same if part.descriptor), key=lambda part: -int(part.time_ms[-1]))
            descriptors = [part.descriptor for part in named if part.descriptor is not None]
            if not descriptors:
                continue
            if len(same) == 1:
                time_ms, value = once(same[0].time_ms, same[0].value)
            else:
                time_ms, value = once(
                    np.concatenate([part.time_ms for part in same]), np.concatenate([part.value for part in same])
                )
            data[series_id] = SeriesData(
                descriptor=self._current(descriptors) or descriptors[0], time_ns=time_ms * PRECISION_NS, value=value
            )
        return data

    def _export(
        self, selectors: Sequence[str], start_ms: int, end_ms: int
    ) -> Generator[tuple[Described, Line], None, None]:
        if end_ms < start_ms:
            return
        samples = 0
        with self._client.export(selectors, start_ms=start_ms, end_ms=end_ms) as lines:
            for text in lines:
                line = self._lines.read(text)
                samples += line.time_ms.size
                if samples > _MAX_ANSWER_SAMPLES:
                    raise LimitExceeded(
                        f"more than {_MAX_ANSWER_SAMPLES} samples match; ask for a shorter time or fewer series"
                    )
                if line.series is not None and line.time_ms.size:
                    yield line.series, line


@dataclass(frozen=True, slots=True)
class _Part:
    """Some samples of a series."""

    series_id: int
    descriptor: SeriesDescriptor | None
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]


def _part(series: Described, line: Line) -> _Part:
    return _Part(series.series_id, series.descriptor, line.time_ms, line.value)


def _own_parts(own: Samples, wanted: Mapping[int, SeriesDescriptor | None]) -> list[_Part]:
    """Samples of the series that are wanted."""
    samples, starts = by_series([own])
    ends = [*starts[1:].tolist(), len(samples)]
    return [
        _Part(series_id, wanted[series_id], samples.time_ms[start:end], samples.value[start:end])
        for series_id, start, end in zip(samples.series_id[starts].tolist(), starts.tolist(), ends, strict=True)
        if series_id in wanted
    ]


def _too_many(limit: int) -> LimitExceeded:
    return LimitExceeded(f"more than {limit} series match; add conditions that match fewer")
