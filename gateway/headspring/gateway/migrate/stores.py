"""Parts that go from a store to a store of the same port: documents, series, topology, artifacts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headspring.gateway.migrate.part import Content, Digest
from headspring.knowledge.documents.port import Document, DocumentStore, LogHit
from headspring.knowledge.series.port import PRECISION_NS, SeriesData, SeriesStore
from headspring.knowledge.topology.port import TopologyGraph
from headspring.models.artifacts.port import ArtifactStore
from headspring.proto import codec
from headspring.proto.telemetry import METRIC_KIND_CODE, LogBatch, LogRecord, MetricBatch, SeriesDescriptor

_PAGE = 200
_SERIES_PAGE = 100
_MOST_SERIES = 10_000_000
_EVER_NS = 2**62
_KEPT = 1e-11
"""What twelve significant digits, cut off, may be off by."""
_KEPT_OF_LARGEST = 1e-14
"""Of the largest value of a series: as the port of series stores promises, both."""
Note = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class _Page:
    after: str
    """Goes on after this page."""
    documents: Sequence[Document]
    items: Sequence[bytes]
    """Canonical bytes of each, for the digest."""


class DocumentsPart:
    """Incidents with their diagnoses, alerts, changes and logs of every tenant."""

    name = "documents"

    def __init__(self, source: DocumentStore, target: DocumentStore, tenants: Sequence[str]) -> None:
        self._source = source
        self._target = target
        self._tenants = tuple(tenants)

    async def copy(self, after: str, note: Note) -> None:
        await asyncio.to_thread(self._copy, after, note)

    async def source(self) -> Content:
        return await asyncio.to_thread(self._content, self._source)

    async def target(self) -> Content:
        await asyncio.to_thread(self._target.settle)
        return await asyncio.to_thread(self._content, self._target)

    def _copy(self, after: str, note: Note) -> None:
        for page in self._pages(self._source, after):
            self._target.put_all(page.documents)
            note(page.after, len(page.items))

    def _content(self, store: DocumentStore) -> Content:
        digest = Digest()
        for page in self._pages(store, ""):
            digest.add_all(page.items)
        return digest.content()

    def _pages(self, store: DocumentStore, after: str) -> Iterator[_Page]:
        """Pages in a fixed order: by kind, tenant, newest first. A mark is `KIND/TENANT NUMBER/CURSOR`."""
        kinds: Sequence[tuple[str, Callable[[DocumentStore, str, str], tuple[Sequence[Document], list[bytes], str]]]]
        kinds = (("incidents", _incidents), ("alerts", _alerts), ("changes", _changes), ("logs", _logs))
        kind_after, _, rest = after.partition("/")
        number_after, _, cursor_after = rest.partition("/")
        skipping = bool(after)
        for kind, read in kinds:
            for number, tenant in enumerate(self._tenants):
                cursor = ""
                if skipping:
                    if (kind, str(number)) != (kind_after, number_after):
                        continue
                    skipping = False
                    if not cursor_after:
                        continue
                    cursor = cursor_after
                while True:
                    documents, items, cursor = read(store, tenant, cursor)
                    yield _Page(f"{kind}/{number}/{cursor}", documents, items)
                    if not cursor:
                        break


def _incidents(store: DocumentStore, tenant: str, cursor: str) -> tuple[Sequence[Document], list[bytes], str]:
    page = store.incidents(tenant, limit=_PAGE, cursor=cursor)
    diagnoses = store.diagnoses(tenant, [incident.incident_id for incident in page.items])
    documents: list[Document] = [*page.items, *diagnoses.values()]
    return documents, [_canonical(one) for one in documents], page.next_cursor


def _alerts(store: DocumentStore, tenant: str, cursor: str) -> tuple[Sequence[Document], list[bytes], str]:
    page = store.alerts(tenant, limit=_PAGE, cursor=cursor)
    return page.items, [_canonical(one) for one in page.items], page.next_cursor


def _changes(store: DocumentStore, tenant: str, cursor: str) -> tuple[Sequence[Document], list[bytes], str]:
    """The port lists changes by time, newest first, without cursors: the mark is the time that follows."""
    end_ns = int(cursor) if cursor else _EVER_NS
    found = list(store.changes(tenant, start_ns=0, end_ns=end_ns, limit=_PAGE))
    if len(found) < _PAGE:
        return found, [_canonical(one) for one in found], ""
    # The oldest time of the page may go on in the next one: it is read again there, whole.
    oldest_ns = found[-1].time_ns
    whole = [one for one in found if one.time_ns > oldest_ns]
    if not whole:
        raise ValueError(f"{_PAGE} changes have the same time {oldest_ns}; that many cannot be paged through")
    return whole, [_canonical(one) for one in whole], str(oldest_ns + 1)


def _logs(store: DocumentStore, tenant: str, cursor: str) -> tuple[Sequence[Document], list[bytes], str]:
    page = store.search_logs(tenant, "", limit=_PAGE * 5, cursor=cursor)
    by_entity: dict[str, list[LogRecord]] = {}
    for hit in page.items:
        by_entity.setdefault(hit.entity, []).append(hit.record)
    batches = [
        LogBatch(tenant=tenant, entity=entity, received_ns=max(one.time_ns for one in records), records=tuple(records))
        for entity, records in by_entity.items()
    ]
    return batches, [_line(tenant, hit) for hit in page.items], page.next_cursor


def _line(tenant: str, hit: LogHit) -> bytes:
    return _canonical(LogBatch(tenant=tenant, entity=hit.entity, received_ns=0, records=(hit.record,)))


def _canonical(document: Document) -> bytes:
    """The same bytes for the same content: protobuf writes the entries of a map in any order."""
    return json.dumps(codec.to_jsonable(document), sort_keys=True).encode()


class SeriesPart:
    """Samples of every series, with its description. Times in whole milliseconds, as every series store keeps them."""

    name = "series"

    def __init__(
        self, source: SeriesStore, target: SeriesStore, reopened: Callable[[], SeriesStore], *, since_ns: int = 0
    ) -> None:
        """
        Args:
            reopened: Opens the target anew, so that the proof is what the server says, not what this process wrote.
            since_ns: Older samples stay behind: the target would not keep them.
        """
        self._source = source
        self._target = target
        self._reopened = reopened
        self._since_ns = since_ns

    async def copy(self, after: str, note: Note) -> None:
        await asyncio.to_thread(self._copy, after, note)

    async def source(self) -> Content:
        return await asyncio.to_thread(self._content, self._source)

    async def target(self) -> Content:
        store = await asyncio.to_thread(self._reopened)
        try:
            return await asyncio.to_thread(self._content, store, like=self._source)
        finally:
            await asyncio.to_thread(store.close)

    def _copy(self, after: str, note: Note) -> None:
        tenant_after, _, id_after = after.rpartition("/")
        for group in self._groups(self._source):
            tenant = group[0].tenant
            if after and (tenant, group[-1].series_id) <= (tenant_after, int(id_after)):
                continue
            found = self._source.select_ids(
                tenant, [one.series_id for one in group], start_ns=self._since_ns, end_ns=_EVER_NS
            )
            for data in found.values():
                self._target.write(_batch(tenant, data.descriptor, data.time_ns, data.value))
            flush = getattr(self._target, "flush", None)
            if flush is not None:
                flush()
            note(f"{tenant}/{group[-1].series_id}", len(found))

    def _content(self, store: SeriesStore, *, like: SeriesStore | None = None) -> Content:
        """A value that is the one of `like` as far as stores keep values counts as that one."""
        digest = Digest()
        for group in self._groups(store):
            tenant, ids = group[0].tenant, [one.series_id for one in group]
            found, known = (
                one.select_ids(tenant, ids, start_ns=self._since_ns, end_ns=_EVER_NS) if one is not None else {}
                for one in (store, like)
            )
            for series_id, data in found.items():
                other = known.get(series_id)
                value = data.value if other is None else _kept(data, other)
                digest.add(_fingerprint(tenant, series_id, data.time_ns, value))
        return digest.content()

    def _groups(self, store: SeriesStore) -> Iterator[Sequence[SeriesDescriptor]]:
        """Series in order of tenant and id, in groups."""
        for tenant in store.tenants():
            known = sorted(store.find(tenant, [], limit=_MOST_SERIES), key=lambda one: one.series_id)
            for start in range(0, len(known), _SERIES_PAGE):
                yield known[start : start + _SERIES_PAGE]


def _batch(
    tenant: str, descriptor: SeriesDescriptor, time_ns: NDArray[np.int64], value: NDArray[np.float64]
) -> MetricBatch:
    size = time_ns.size
    return MetricBatch(
        tenant=tenant,
        series_id=np.full(size, descriptor.series_id, dtype=np.uint64),
        time_ns=time_ns,
        value=value,
        kind=np.full(size, METRIC_KIND_CODE[descriptor.kind], dtype=np.uint8),
        new_series=(descriptor,),
    )


def _kept(found: SeriesData, wanted: SeriesData) -> NDArray[np.float64]:
    """The values of `wanted` where `found` has them at the same times, to the digits that a store keeps.

    Rounding both sides would not do: a store that cuts the thirteenth digit off may end on the other side of any limit.
    """
    if not np.array_equal(found.time_ns // PRECISION_NS, wanted.time_ns // PRECISION_NS):
        return found.value
    largest = np.max(np.abs(wanted.value), initial=0.0, where=np.isfinite(wanted.value))
    same = np.isclose(found.value, wanted.value, rtol=_KEPT, atol=_KEPT_OF_LARGEST * largest, equal_nan=True)
    return np.where(same, wanted.value, found.value)


def _fingerprint(tenant: str, series_id: int, time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> bytes:
    """All NaNs are one."""
    plain = np.where(np.isnan(value), np.nan, value) + 0.0  # one zero, too
    parts = (np.ascontiguousarray(one).tobytes() for one in (time_ns // PRECISION_NS, plain))
    return f"{tenant}/{series_id}/{'/'.join(hashlib.sha256(part).hexdigest() for part in parts)}".encode()


class TopologyPart:
    """Edges and nodes with all their lives, and what operators declared."""

    name = "topology"

    def __init__(self, source: TopologyGraph, target: TopologyGraph) -> None:
        self._source = source
        self._target = target

    async def copy(self, after: str, note: Note) -> None:
        for tenant in await asyncio.to_thread(self._source.tenants):
            if after and tenant <= after:
                continue
            rows = await asyncio.to_thread(self._source.export, tenant)
            await asyncio.to_thread(self._target.load, tenant, rows)
            note(tenant, len(rows))

    async def source(self) -> Content:
        return await asyncio.to_thread(self._content, self._source)

    async def target(self) -> Content:
        return await asyncio.to_thread(self._content, self._target)

    def _content(self, graph: TopologyGraph) -> Content:
        digest = Digest()
        for tenant in self._source.tenants():
            rows = graph.export(tenant)
            digest.add_all(f"{tenant}/{key}/{row}".encode() for key, row in rows.edges.items())
            digest.add_all(f"{tenant}/{key}/{row}".encode() for key, row in rows.nodes.items())
        return digest.content()


class ArtifactsPart:
    """Bytes by digest, which is their proof."""

    name = "artifacts"

    def __init__(self, source: ArtifactStore, target: ArtifactStore) -> None:
        self._source = source
        self._target = target

    async def copy(self, after: str, note: Note) -> None:
        for digest in await asyncio.to_thread(lambda: list(self._source.digests())):
            if digest <= after:
                continue
            content = await asyncio.to_thread(self._source.get, digest)
            await asyncio.to_thread(self._target.put, content)
            note(digest, 1)

    async def source(self) -> Content:
        return await asyncio.to_thread(self._content, self._source)

    async def target(self) -> Content:
        return await asyncio.to_thread(self._content, self._target)

    def _content(self, store: ArtifactStore) -> Content:
        """`get` computes the digest again; what the target has beside is left out."""
        found = Digest()
        for digest in self._source.digests():
            if store.has(digest):
                store.get(digest)
                found.add(digest.encode())
        return found.content()
