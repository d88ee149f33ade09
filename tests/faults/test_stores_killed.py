"""Each store is killed in the midst of our writes and started again on its data: what the adapters promised holds.

What a store promises, and so what is looked at:

| store | acknowledged means | of a write that was cut off there is |
|---|---|---|
| PostgreSQL | committed, in its log on disk | all of the transaction or nothing |
| Elasticsearch | in the translog, synced | each document whole or not at all; the rest comes when it is put again |
| Neo4j | committed, in its log on disk | all of the call or nothing |
| MinIO | the object is on disk | the object whole or nothing |
| VictoriaMetrics | in its memory, on disk some 5 s later | any of its samples; the writer sends again what was lost |
| Redis | nothing: it may forget at any moment | each key whole or not at all; tokens of locks grow all the same |
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from tests.faults.writing import Writing
from tests.servers.elasticsearch import elasticsearch
from tests.servers.minio import minio
from tests.servers.neo4j import neo4j
from tests.servers.postgres import postgres
from tests.servers.redis import redis
from tests.servers.victoria import victoria

from headspring.action.audit.chain import AuditLog
from headspring.action.store import RunStore
from headspring.action.testing.runs import event, plan
from headspring.knowledge.coordination.redis import RedisCache, RedisLocks, RedisRateLimiter, RedisServer
from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.series.victoria.store import VictoriaSeriesStore
from headspring.knowledge.testing.documents import alert, incident, logs
from headspring.knowledge.testing.topology import edge
from headspring.knowledge.topology.neo4j_store import Neo4jTopology
from headspring.models.artifacts.minio_store import MinioArtifactStore
from headspring.proto.errors import Conflict, NotFound, Unavailable
from headspring.proto.relational.database import ALL_TENANTS, Database
from headspring.proto.relational.schema import Schema
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = int(os.environ.get("HEADSPRING_KILLS", "3"))
"""Of each store."""
TENANT = "t"
S = 1_000_000_000
_EVER_NS = 2**62
_TABLES = sa.MetaData()
_PARTS = sa.Table(
    "parts", _TABLES, sa.Column("batch", sa.Integer, primary_key=True), sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
)  # fmt: skip
_SCHEMA = Schema(name="parts", tables=_TABLES)


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_postgresql_keeps_every_commit_and_nothing_of_a_transaction_that_was_cut_off(
    tmp_path: Path, chance: random.Random
) -> None:
    rows = 500
    with postgres(tmp_path, durable=True) as server:
        url = server.database()
        database, runs = Database(url, _SCHEMA), RunStore(url)
        audit = AuditLog(url, tmp_path / "audit.key", tmp_path / "audit.head")

        def held(number: int) -> int:
            with database.reading(tenant=ALL_TENANTS) as connection:
                query = sa.select(sa.func.count()).select_from(_PARTS).where(_PARTS.c.batch == number)
                return connection.execute(query).scalar_one()

        def write(number: int) -> None:
            if not held(number):  # as our writers do whose transaction may have been committed unheard
                with database.transaction(tenant=ALL_TENANTS) as connection:
                    values = [{"batch": number, "part": part, "tenant": TENANT} for part in range(rows)]
                    connection.execute(sa.insert(_PARTS), values)
            runs.add(f"run-{number}", plan(tenant=TENANT))
            runs.add_event(event(number, run_id=f"run-{number}", tenant=TENANT))
            audit.append("ann", "run.requested", f"run-{number}", {}, number, TENANT)

        def look(number: int) -> None:
            assert held(number) in (0, rows), "half a transaction"

        with Writing(write) as writing:
            hit = [writing.kill(server, chance, look) for _ in range(KILLS)]
        assert any(hit), "no write was under way at any kill"
        assert {held(number) for number in writing.acknowledged} == {rows}
        runs_held = {number for number in writing.acknowledged if runs.run(f"run-{number}", tenant=TENANT)}
        assert runs_held == set(writing.acknowledged)
        assert all(runs.has_event(f"ev-{number}") for number in writing.acknowledged)
        verdict = audit.verify()
        assert verdict.ok, verdict
        assert _audited(audit) >= {f"run-{number}" for number in writing.acknowledged}
        for store in (database, runs, audit):
            store.close()
    print(writing.told("PostgreSQL"), f"of {rows} rows, a run, an event and an audit entry")


def _audited(audit: AuditLog) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        entries, cursor = audit.entries(TENANT, 1000, cursor)
        found |= {entry.subject for entry in entries}
        if not cursor:
            return found


def _until_answered(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            ask()
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_elasticsearch_keeps_every_document_that_was_acknowledged_and_none_twice(
    tmp_path: Path, chance: random.Random
) -> None:
    lines, alerts = 400, 50
    with elasticsearch(tmp_path) as server:
        settings = ElasticsearchSettings(urls=(server.url,), prefix="killed", read_timeout_s=20.0)
        with closing(ElasticsearchDocumentStore(settings)) as store:

            def write(number: int) -> None:
                store.put_all(
                    [
                        logs(*(f"line {number} {place}" for place in range(lines)), time_ns=number * S),
                        *(alert(f"al-{number}-{one}", updated_ns=number) for one in range(alerts)),
                        incident("in-1", version=number + 1, title=f"v{number}"),
                    ]
                )

            def look(number: int) -> None:
                found = store.incident(TENANT, "in-1")
                assert found is not None
                assert found.version in (number, number + 1)
                assert found == incident("in-1", version=found.version, title=f"v{found.version - 1}")
                for one in (store.alert(TENANT, f"al-{number}-{one}") for one in range(alerts)):
                    assert one is None or one == alert(one.alert_id, updated_ns=number), "half a document"

            with Writing(write) as writing:
                hit = [writing.kill(server, chance, look) for _ in range(KILLS)]
            assert any(hit), "no write was under way at any kill"
            store.settle()
            written = len(writing.acknowledged)
            for number in writing.acknowledged:
                page = store.search_logs(TENANT, f"line {number}", start_ns=number * S, end_ns=number * S + lines,
                                         limit=1000)  # fmt: skip
                assert {hit.record.body for hit in page.items} >= {f"line {number} {place}" for place in range(lines)}
                assert all(store.alert(TENANT, f"al-{number}-{one}") is not None for one in range(alerts))
            counts = store.counts(TENANT)
            # The last write may be one that the test's end has overtaken: written, not acknowledged.
            assert counts["logs"] in (written * lines, (written + 1) * lines)
            assert counts["alerts"] in (written * alerts, (written + 1) * alerts)
    print(writing.told("Elasticsearch"), f"of {lines + alerts + 1} documents")


def test_neo4j_keeps_every_commit_and_nothing_of_a_call_that_was_cut_off(tmp_path: Path, chance: random.Random) -> None:
    size = 1000
    with neo4j(tmp_path) as server, closing(
        Neo4jTopology(server.uri, user=server.user, password=server.password, answer_s=60)
    ) as graph:  # fmt: skip

        def held() -> dict[int, int]:
            found: dict[int, int] = {}
            for caller, _, _ in graph.export(TENANT).edges:
                number = int(caller.split("-")[0])
                found[number] = found.get(number, 0) + 1
            return found

        def look(number: int) -> None:
            _until_answered(graph.ping)
            assert held().get(number, 0) in (0, size), "half a call"

        with Writing(
            lambda number: graph.observe(TENANT, [edge(f"{number}-{one % 37}", f"{one}") for one in range(size)])
        ) as writing:
            hit = [writing.kill(server, chance, look) for _ in range(KILLS)]
        assert any(hit), "no write was under way at any kill"
        found = held()
        assert {number: found.get(number) for number in writing.acknowledged} == dict.fromkeys(
            writing.acknowledged, size
        )
    print(writing.told("Neo4j"), f"of {size} edges")


def test_minio_keeps_every_artifact_that_was_acknowledged_and_shows_no_half_one(
    tmp_path: Path, chance: random.Random
) -> None:
    def content(number: int) -> bytes:
        """Every third is large enough to go up in parts."""
        size = 20_000_000 if number % 3 == 2 else 300_000
        return np.random.default_rng(number).bytes(size)

    with minio(tmp_path) as server, closing(
        MinioArtifactStore(server.url, user=server.user, password=server.password, bucket="models")
    ) as store:  # fmt: skip

        def look(number: int) -> None:
            digest = hashlib.sha256(content(number)).hexdigest()
            there = digest in list(store.digests())
            assert store.has(digest) == there
            if there:
                assert store.get(digest) == content(number), "half an artifact"
            else:
                with pytest.raises(NotFound):
                    store.get(digest)

        with Writing(lambda number: store.put(content(number))) as writing:
            hit = [writing.kill(server, chance, look) for _ in range(KILLS)]
        assert any(hit), "no write was under way at any kill"
        for number in writing.acknowledged:
            wanted = content(number)
            assert store.get(hashlib.sha256(wanted).hexdigest()) == wanted
    print(writing.told("MinIO"), "of 0.3 to 20 MB")


def test_victoriametrics_has_every_sample_that_was_acknowledged_while_the_writer_lives(
    tmp_path: Path, chance: random.Random
) -> None:
    size = 2000
    start_s = int(time.time()) - 3600
    with victoria(tmp_path) as server, closing(VictoriaSeriesStore(server.url)) as store, closing(
        VictoriaSeriesStore(server.url)
    ) as other:  # fmt: skip
        store.register(
            [
                SeriesDescriptor(series_id=one, tenant=TENANT, name="load", entity=f"host:default/{one % 50}")
                for one in range(1, size + 1)
            ]
        )
        ids, kinds = np.arange(1, size + 1, dtype=np.uint64), np.ones(size, dtype=np.uint8)

        def write(number: int) -> None:
            times = np.full(size, (start_s + number) * S, dtype=np.int64)
            values = number * 10_000.0 + np.arange(1, size + 1, dtype=np.float64)
            store.write(MetricBatch(tenant=TENANT, series_id=ids, time_ns=times, value=values, kind=kinds))
            store.flush()

        lost: list[int] = []

        def look(number: int) -> None:
            """What another process finds of what was acknowledged, before the writer has said anything more."""
            found = other.select(TENANT, [], start_ns=0, end_ns=_EVER_NS, limit=size)
            lost.append(number * size - sum(one.value.size for one in found))

        with Writing(write) as writing:
            hit = []
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.0, 6.0))  # the server writes to disk every five seconds or so
                hit.append(writing.kill(server, chance, look))
        assert any(hit), "no write was under way at any kill"
        store.flush()
        store.settle()
        wanted = np.array(writing.acknowledged)
        found = other.select(TENANT, [], start_ns=0, end_ns=_EVER_NS, limit=size)
        assert len(found) == size
        for one in found:
            series_id = one.descriptor.series_id
            values = (one.value - series_id) / 10_000.0
            # The last write may be one that the test's end has overtaken.
            assert np.array_equal(values[: wanted.size], wanted), f"series {series_id}: a sample is lost or changed"
            assert values.size <= wanted.size + 1
        assert max(lost) > 0, "the server lost nothing by itself, so nothing was shown"
        again = store.counters()["headspring_series_samples_resent_total"]
    print(
        writing.told("VictoriaMetrics"),
        f"of {size} samples; it had lost {lost} acknowledged samples by itself, {again} were sent again",
    )


@pytest.mark.parametrize("persistent", [False, True], ids=["in memory only", "every write on disk"])
def test_redis_may_forget_and_nobody_is_the_worse(tmp_path: Path, chance: random.Random, persistent: bool) -> None:
    size = 500
    with redis(tmp_path, persistent=persistent) as server:
        connected = RedisServer(server.url, password=server.password)
        cache, locks, limiter = RedisCache(connected), RedisLocks(connected), RedisRateLimiter(connected)
        guard = locks.acquire("guard", ttl_s=600.0)
        assert guard is not None
        tokens: list[int] = []

        def write(number: int) -> None:
            lease = locks.acquire("one", ttl_s=60.0)
            cache.put_many({f"health-{one}": f"{number}:{one}".encode() * 20 for one in range(size)}, ttl_s=60.0)
            assert limiter.allow("calls", limit=1_000_000, window_s=60.0).allowed
            connected.ping()  # the cache and the limits tell nobody that the server is away
            if lease is not None:  # None: held by the try before, whose answer was lost; it ends by itself
                tokens.append(lease.token)
                locks.release(lease)

        def look(number: int) -> None:
            _until_answered(connected.ping)  # after a refusal it is left alone for a second
            found = cache.get_many([f"health-{one}" for one in range(size)])
            for key, value in found.items():
                earlier = {f"{one}:{key.removeprefix('health-')}".encode() * 20 for one in (number - 1, number)}
                assert value in earlier, "half a value"
            assert bool(found) == persistent
            taken = locks.acquire("guard", ttl_s=600.0)
            if persistent:
                assert taken is None, "a lock that was on disk is another's"
                assert locks.renew(guard, ttl_s=600.0).token == guard.token
            else:
                assert taken is not None
                assert taken.token > guard.token, "what a lock guards cannot tell the holders apart"
                with pytest.raises(Conflict):
                    locks.renew(guard, ttl_s=600.0)

        with Writing(write) as writing:
            hit = [writing.kill(server, chance, look) for _ in range(KILLS)]
        assert any(hit), "no write was under way at any kill"
        assert tokens == sorted(set(tokens)), "a later holder has no greater token"
        connected.close()
    print(writing.told("Redis"), f"of {size} keys")
