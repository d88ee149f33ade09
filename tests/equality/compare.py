"""The same recording through every shape, and what differs: `python -m tests.equality.compare FILE [--flink]`."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from tests.equality import lines, play, recording
from tests.equality.play import Answers
from tests.equality.recording import Played
from tests.servers.elasticsearch import elasticsearch
from tests.servers.flink import Flink, flink
from tests.servers.kafka import kafka
from tests.servers.neo4j import Neo4j, neo4j
from tests.servers.victoria import victoria_metrics

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.series.victoria.store import VictoriaSeriesStore
from headspring.knowledge.topology.neo4j_store import Neo4jTopology
from headspring.knowledge.traces.ring import RingTraceStore
from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.detection import FeatureBatch
from headspring.proto.telemetry import MetricBatch
from headspring.proto.topics import FEATURES, METRICS
from headspring.streaming.engine.flink.rest import FlinkRest
from headspring.streaming.engine.flink.sql import WindowJob
from headspring.streaming.engine.flink.submit import Environment, submit
from headspring.streaming.log.kafka import fetch
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import Record

PARTITIONS = 4
FETCH_WAIT_MS = 20
"""After each step of a second everybody asks where the topics end, which waits behind a fetch."""
_QUIET_S = 8.0
"""Flink tells with every checkpoint, of which there is one in two seconds."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Servers:
    """Where everything is."""

    kafka: str
    victoria: str
    elasticsearch: str
    neo4j: Neo4j
    flink: Flink | None


@contextmanager
def servers(folder: Path, *, with_flink: bool) -> Iterator[Servers]:
    """All that the shapes need, in a folder that is there."""
    with ExitStack() as stack:
        places = {name: folder / name for name in ("kafka", "victoria", "elasticsearch", "neo4j", "flink")}
        for place in places.values():
            place.mkdir()
        yield Servers(
            kafka=stack.enter_context(kafka(places["kafka"])).servers,
            victoria=stack.enter_context(victoria_metrics(places["victoria"])),
            elasticsearch=stack.enter_context(elasticsearch(places["elasticsearch"])).url,
            neo4j=stack.enter_context(neo4j(places["neo4j"])),
            flink=stack.enter_context(flink(places["flink"], taskmanagers=1, slots=1)) if with_flink else None,
        )


@asynccontextmanager
async def _log(servers: Servers, prefix: str) -> AsyncIterator[KafkaLog]:
    log = await KafkaLog.open(
        KafkaConnection(servers.kafka), clock=SystemClock(), partitions=PARTITIONS, replication=1, prefix=prefix
    )
    await asyncio.to_thread(_keep, servers.kafka, prefix + FEATURES.name)
    try:
        yield log
    finally:
        await log.close()


def _keep(kafka: str, topic: str) -> None:
    """A long recording is played for longer than features are kept, and is of the past from its beginning."""
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, topic,
        incremental_configs=[ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)],
    )  # fmt: skip
    client = AdminClient({"bootstrap.servers": kafka})
    for done in client.incremental_alter_configs([resource]).values():
        done.result(timeout=30)


@asynccontextmanager
async def _line(servers: Servers, prefix: str, start_ns: int, *, windows: bool) -> AsyncIterator[play.Line]:
    """The distributed shape on fresh topics and stores."""
    where = ElasticsearchSettings(urls=(servers.elasticsearch,), prefix=prefix.rstrip("."))
    async with _log(servers, prefix) as log:
        series = await asyncio.to_thread(VictoriaSeriesStore, servers.victoria)
        documents = await asyncio.to_thread(ElasticsearchDocumentStore, where)
        at = servers.neo4j
        graph = await asyncio.to_thread(lambda: Neo4jTopology(at.uri, user=at.user, password=at.password))
        try:
            stores = lines.Stores(series, documents, graph, RingTraceStore(None))
            async with lines.on_kafka(log, stores, start_ns, partitions=PARTITIONS, windows=windows) as line:
                # What one process wrote, the same process sees at once in series; the others tell a little later.
                line.settled = lambda: asyncio.to_thread(documents.settle)
                yield line
        finally:
            for store in (series, documents, graph):
                await asyncio.to_thread(store.close)


async def compare(
    folder: Path, servers: Servers, recorded: Sequence[Played], say: Say, *, exact: bool = True
) -> dict[str, list[str]]:
    """What differs from the embedded shape, by shape.

    Args:
        exact: Whether diagnoses on Kafka with the kernel must be the same version by version. One process has alerts
            of a second at once; those of several partitions come one after the other, and where a second has alerts of
            more than one, a first look may see a part of them. With Flink that is so always.
    """
    start_ns = recorded[0][1].time_ns // NS_PER_S * NS_PER_S
    end_ns = recorded[-1][1].time_ns + 3 * NS_PER_S
    began_s = time.monotonic()

    def told(text: str) -> None:
        say(f"{time.monotonic() - began_s:7.1f} s  {text}")

    async with lines.embedded(folder, start_ns) as line:
        await play.play(line, recorded, end_ns=end_ns, say=lambda text: told(f"embedded: {text}"))
        wanted = await play.answers(line.log)
    told(f"embedded: {_size(wanted)}")
    found: dict[str, list[str]] = {}
    prefix = f"k{secrets.token_hex(3)}."
    async with _line(servers, prefix, start_ns, windows=True) as line:
        await play.play(line, recorded, end_ns=end_ns, say=lambda text: told(f"Kafka and kernel: {text}"))
        have = await play.answers(line.log)
        found["Kafka and kernel"] = play.differences(have, wanted, exact=exact)
        told(f"Kafka and kernel: {_size(have)}, {len(found['Kafka and kernel'])} differences")
        samples = await play.everything(line.log, METRICS.name)
    if servers.flink is None:
        return found
    features = await _on_flink(servers, samples, told)
    whole = sorted([*recorded, *features], key=lambda played: played[1].time_ns)
    async with _line(servers, f"f{secrets.token_hex(3)}.", start_ns, windows=False) as line:
        await play.play(line, whole, end_ns=end_ns, say=lambda text: told(f"Kafka and Flink: {text}"))
        have = await play.answers(line.log)
        found["Kafka and Flink"] = play.differences(have, wanted, exact=False)
        told(f"Kafka and Flink: {_size(have)}, {len(found['Kafka and Flink'])} differences")
    return found


async def _on_flink(servers: Servers, samples: Sequence[Record], told: Say) -> list[Played]:
    """What the job makes of the same samples, each look at its time."""
    assert servers.flink is not None
    prefix = f"w{secrets.token_hex(3)}."
    job = WindowJob(kafka=KafkaConnection(servers.kafka), name="windows", prefix=prefix, idle_s=0, parallelism=1)
    last_ns = max(record.time_ns for record in samples)
    async with _log(servers, prefix) as log:
        await log.append(METRICS.name, [*samples, *_ends(last_ns + 60 * NS_PER_S)])
        with FlinkRest(servers.flink.rest) as rest:
            environment = Environment(servers.flink.environment)
            job_id = await asyncio.to_thread(submit, job, rest, environment)
            await asyncio.to_thread(lambda: rest.await_running(job_id, timeout_s=120.0))
            wanted = sum(len(codec.decode(MetricBatch, record.value)) for record in samples) + PARTITIONS
            deadline = time.monotonic() + 180
            while (counters := await asyncio.to_thread(rest.counters, job_id)).get("samples", 0) < wanted:
                assert time.monotonic() < deadline, f"Flink read {counters} of {wanted} samples"
                await asyncio.sleep(0.5)
            await asyncio.sleep(_QUIET_S)
            await asyncio.to_thread(rest.cancel, job_id)
        records = await play.everything(log, FEATURES.name)
    told(f"Flink: {len(records)} records of features from {wanted} samples; {counters}")
    batches = [(record, codec.decode(FeatureBatch, record.value)) for record in records]
    return [
        (FEATURES.name, replace(record, time_ns=batch.window_end_ns - 1))
        for record, batch in batches
        if batch.tenant != "end"
    ]


def _ends(at_ns: int) -> list[Record]:
    """Time goes on past everything that counts, in every partition."""
    one = np.ones(1)
    batches = [
        MetricBatch(
            tenant="end", shard=shard, received_ns=at_ns, series_id=(one * (shard + 1)).astype(np.uint64),
            time_ns=(one * at_ns).astype(np.int64), value=one, kind=one.astype(np.uint8),
        )
        for shard in range(PARTITIONS)
    ]  # fmt: skip
    return [Record(key=f"end\x1f{batch.shard}".encode(), value=codec.encode(batch), time_ns=at_ns) for batch in batches]


def _size(found: Answers) -> str:
    return (
        f"{len(found.features)} feature rows, {len(found.alerts)} alerts, {len(found.incidents)} incidents, "
        f"{sum(map(len, found.diagnoses.values()))} versions of diagnoses"
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="a recording")
    parser.add_argument("--flink", action="store_true", help="also with the windows of Flink")
    parser.add_argument("--exact", action="store_true", help="diagnoses of the kernel's shape version by version, too")
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.0, 1e9), help="part of the recording")
    options = parser.parse_args(arguments)
    chosen = recording.part(recording.read(options.file), *options.seconds)
    recorded = recording.prepared(chosen, shards=PARTITIONS, end_ns=time.time_ns())

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    fetch.FETCH_WAIT_MS = FETCH_WAIT_MS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers end with the block that started them
    with tempfile.TemporaryDirectory(prefix="headspring-equality-") as name:
        folder = Path(name)
        (folder / "embedded").mkdir()
        with servers(folder, with_flink=options.flink) as started:
            found = asyncio.run(compare(folder / "embedded", started, recorded, say, exact=options.exact))
    for shape, wrong in found.items():
        say(f"{shape}: {'the same' if not wrong else f'{len(wrong)} differences'}")
        for line in wrong:
            say(f"  {line}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
