"""Parts of a migration between real embedded stores: whole, provable, and harmless when repeated from any mark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from headspring.gateway.migrate.part import Journal, Mark, Part
from headspring.gateway.migrate.stores import DocumentsPart, SeriesPart, TopologyPart
from headspring.knowledge.documents.port import Document
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge, EdgeType
from headspring.proto.detection import Alert, Severity
from headspring.proto.errors import ConfigError
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Incident, IncidentState
from headspring.proto.telemetry import Change, LogBatch, LogRecord, MetricBatch, SeriesDescriptor

TENANTS = ("a", "a-b", "b")
NOW_NS = 1_700_000_000 * 10**9


def fill_documents(store: SqliteDocumentStore) -> None:
    everything: list[Document] = []
    for tenant in TENANTS:
        for number in range(250):
            everything += [
                Incident(incident_id=f"inc-{number}", tenant=tenant, version=2, state=IncidentState.RESOLVED,
                         opened_ns=NOW_NS + number // 3, title=f"{tenant} {number}"),
                Alert(alert_id=f"al-{number}", tenant=tenant, fingerprint="f", entity="service:default/x", name="n",
                      severity=Severity.ERROR, starts_ns=NOW_NS + number),
                Change(change_id=f"ch-{number}", tenant=tenant, time_ns=NOW_NS + number // 4),
            ]  # fmt: skip
        everything.append(
            Diagnosis(incident_id="inc-7", tenant=tenant, version=3, created_ns=NOW_NS, status=DiagnosisStatus.LIKELY)
        )
        records = tuple(
            LogRecord(time_ns=NOW_NS + number // 7, body=f"line {number}", attributes={"b": "2", "a": "1"})
            for number in range(1500)
        )
        everything.append(LogBatch(tenant=tenant, entity="service:default/x", received_ns=NOW_NS, records=records))
    store.put_all(everything)


def fill_series(store: DuckDbSeriesStore) -> None:
    for tenant in TENANTS:
        for series_id in range(1, 121):
            known = SeriesDescriptor(
                series_id=series_id * 2**55 + 1, tenant=tenant, name="load", labels={"n": str(series_id)}
            )
            store.write(
                MetricBatch(
                    tenant=tenant, series_id=np.full(4, known.series_id, dtype=np.uint64),
                    time_ns=NOW_NS + np.arange(4, dtype=np.int64) * 10**9,
                    value=np.array([0.1, float("nan"), 1e300, series_id]), kind=np.ones(4, dtype=np.uint8),
                    new_series=(known,),
                )
            )  # fmt: skip
    store.flush()


def fill_topology(graph: EmbeddedTopology) -> None:
    for tenant in TENANTS:
        for moment in (0, 3600 * 10**9, 3660 * 10**9):
            graph.observe(tenant, [Edge(caller="service:d/a", callee="service:d/b", type=EdgeType.SYNC, source="spans",
                                        last_seen_ns=NOW_NS + moment)])  # fmt: skip
        graph.replace_configured(tenant, [Edge(caller="service:d/b", callee="database:d/c", type=EdgeType.DATABASE,
                                               source="config", last_seen_ns=NOW_NS)])  # fmt: skip


@pytest.fixture(params=["documents", "series", "topology"])
def part(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Part]:
    if request.param == "documents":
        documents = SqliteDocumentStore(tmp_path / "d1"), SqliteDocumentStore(tmp_path / "d2")
        fill_documents(documents[0])
        yield DocumentsPart(*documents, TENANTS)
        stores: tuple[SqliteDocumentStore | DuckDbSeriesStore | EmbeddedTopology, ...] = documents
    elif request.param == "series":
        series = DuckDbSeriesStore(tmp_path / "s1"), DuckDbSeriesStore(tmp_path / "s2")
        fill_series(series[0])

        class Kept:
            """The target stays open in this process; only `close` of a look at it does nothing."""

            def __getattr__(self, name: str) -> Callable[..., object]:
                return (lambda: None) if name == "close" else getattr(series[1], name)

        yield SeriesPart(*series, lambda: Kept())  # type: ignore[arg-type, return-value]  # a thin stand-in for opening again
        stores = series
    else:
        graphs = EmbeddedTopology(tmp_path / "t1"), EmbeddedTopology(tmp_path / "t2")
        fill_topology(graphs[0])
        yield TopologyPart(*graphs)
        stores = graphs
    for store in stores:
        store.close()


class Killed(Exception):
    pass


async def test_killed_after_every_page_and_resumed_it_is_whole(part: Part) -> None:
    mark, rounds, items = "", 0, 0

    def note(after: str, copied: int) -> None:
        nonlocal mark, items
        mark, items = after, items + copied
        raise Killed

    while True:
        try:
            await part.copy(mark, note)
            break
        except Killed:
            rounds += 1
    source, target = await part.source(), await part.target()
    assert source == target
    assert source.count == items
    assert rounds > 2


@pytest.mark.parametrize(("off", "equal"), [(1e-12, True), (1e-10, False)])
async def test_the_thirteenth_digit_of_a_sample_is_not_part_of_the_proof_and_the_tenth_is(
    tmp_path: Path, off: float, equal: bool
) -> None:
    source, target = DuckDbSeriesStore(tmp_path / "s1"), DuckDbSeriesStore(tmp_path / "s2")
    known = SeriesDescriptor(series_id=1, tenant="default", name="load", labels={})
    third = np.array([1 / 3, 2 / 3, np.nan, np.inf, 0.0])
    for store, value in ((source, third), (target, third * (1 - off))):
        store.write(
            MetricBatch(
                tenant="default", series_id=np.ones(5, dtype=np.uint64), time_ns=np.arange(1, 6) * 10**9, value=value,
                kind=np.ones(5, dtype=np.uint8), new_series=(known,),
            )
        )  # fmt: skip
    part = SeriesPart(source, target, lambda: target)
    assert (await part.source() == await part.target()) is equal
    source.close()


async def test_what_is_missing_or_other_at_the_target_is_seen(part: Part) -> None:
    assert (await part.source()).digest != (await part.target()).digest
    await part.copy("", lambda after, copied: None)
    assert await part.source() == await part.target()
    await part.copy("", lambda after, copied: None)
    assert await part.source() == await part.target(), "copying again changed something"


def test_a_journal_of_another_target_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "migration.json", target="kafka one")
    journal.note("series", Mark(after="x", items=3))
    assert Journal(tmp_path / "migration.json", target="kafka one").mark("series") == Mark(after="x", items=3)
    with pytest.raises(ConfigError, match="is of a migration to kafka one, wanted kafka two"):
        Journal(tmp_path / "migration.json", target="kafka two")
    (tmp_path / "migration.json").write_text("{")
    with pytest.raises(ConfigError, match="is no journal of a migration"):
        Journal(tmp_path / "migration.json", target="kafka one")
