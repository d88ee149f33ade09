"""What a stage of event rate costs as a Faust app, beside the same stage on our engine on Kafka and on the log.

Run: `python tests/benchmarks/bench_faust.py` from the repository root; about ten minutes. Two stages: `correlate`, the
real one, on an hour of synthetic faults whose alerts spread to callers, repeat and end; and `relay`, which decodes an
alert, counts and passes it on, so that what remains is the engine. Each runs on all three engines, one after the other
in every round, in a process of its own; the broker, a process beside it, has its CPU told separately.

Two paces: *backlog*, everything there at once, in batches as large as an engine takes; *trickle*, as alerts come in
life, ten at a time and 200 a second, where every batch has its own snapshot and commit.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import measure
from tests.servers.kafka import Kafka, kafka

from headspring.analytics.correlate.stage import CorrelateStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge
from headspring.proto import codec, semantics
from headspring.proto.clock import NS_PER_S, SystemClock
from headspring.proto.detection import Alert, AlertStatus, Severity
from headspring.proto.topics import ACTIONS, ALERTS, DEAD_LETTER, INCIDENTS, record_key
from headspring.streaming.engine.faust import FaustEngine
from headspring.streaming.engine.kafka.engine import KafkaEngine
from headspring.streaming.engine.local import LocalEngine
from headspring.streaming.engine.port import Outgoing, Stage
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog
from headspring.streaming.log.port import EventLog, Record, StoredRecord
from headspring.streaming.log.segments import SegmentLog

PARTITIONS = 4
TENANTS = [f"tenant-{number}" for number in range(8)]
SERVICES = [f"service:default/s{number}" for number in range(40)]
FAULTS = 40
"""Of each tenant, in the hour."""
EMBEDDED, KAFKA, FAUST = "embedded", "kafka", "faust"
TRICKLE_S = 20.0
TRICKLE_RECORDS, TRICKLE_EVERY_S = 10, 0.05
ROUNDS = 3
_WAIT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker does."""

    engine: str
    stage: str
    where: str
    """Folder of the embedded log, or the prefix of topics."""
    servers: str
    records: int
    report: str
    """File to write; `.ready` beside it is made when work can come."""


class Relay:
    """Passes every alert on and counts."""

    name = "bench.relay"
    inputs: tuple[str, ...] = (ALERTS.name,)
    tick_s = 1.0

    def __init__(self) -> None:
        self.count = 0

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        out = []
        for item in records:
            alert = codec.decode(Alert, item.record.value)
            self.count += 1
            key = record_key(alert.tenant, alert.entity)
            out.append(Outgoing(topic=ACTIONS.name, key=key, value=item.record.value, time_ns=item.record.time_ns))
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return []

    def snapshot(self) -> bytes:
        return str(self.count).encode()

    def restore(self, state: bytes) -> None:
        self.count = int(state or b"0")


def alerts(seed: int = 7, *, tenants: Sequence[str] = TENANTS) -> list[Alert]:
    """An hour of faults in every tenant, in the order of time: firing, worse, resolved, each on its way upstream."""
    chance = random.Random(seed)
    found: list[tuple[int, Alert]] = []
    start_ns = time.time_ns() - 3600 * NS_PER_S
    for tenant, fault in itertools.product(tenants, range(FAULTS)):
        begin_ns = start_ns + round((fault + chance.random()) * 3600 / FAULTS * NS_PER_S)
        origin = chance.randrange(len(SERVICES))
        for depth, metric in itertools.product(range(min(origin, chance.randint(1, 6)) + 1), range(3)):
            name = f"signal-{metric}"
            alert = Alert(
                alert_id=f"al-{tenant}-{fault}-{depth}-{metric}", tenant=tenant,
                fingerprint=f"{fault}-{depth}-{metric}",
                entity=SERVICES[origin - depth], name=name, source="detect.basic", metric=semantics.SERVICE_ERROR_RATIO,
                starts_ns=begin_ns + depth * 2 * NS_PER_S, severity=chance.choice(list(Severity)[1:]),
            )  # fmt: skip
            found.append((alert.starts_ns, alert))
            found.append((alert.starts_ns + 5 * NS_PER_S, replace(alert, severity=Severity.CRITICAL)))
            ends_ns = alert.starts_ns + 40 * NS_PER_S
            found.append((ends_ns, replace(alert, status=AlertStatus.RESOLVED, ends_ns=ends_ns)))
    return [alert for _, alert in sorted(found, key=lambda one: one[0])]


def records_of(found: Sequence[Alert]) -> list[Record]:
    return [
        Record(key=record_key(one.tenant, one.entity), value=codec.encode(one), time_ns=time.time_ns()) for one in found
    ]


# The worker's side


def factory_of(name: str, count: Callable[[int], None]) -> Callable[[], Stage]:
    """Makes stages whose records are counted when they are processed."""
    topology = EmbeddedTopology(None)
    for tenant in TENANTS:
        topology.replace_configured(tenant, [Edge(caller=a, callee=b) for a, b in itertools.pairwise(SERVICES)])

    def make() -> Stage:
        stage: Stage = Relay() if name == "relay" else CorrelateStage(clock=SystemClock(), topology=topology)
        process = stage.process

        async def counted(topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
            out = await process(topic, records)
            count(len(records))
            return out

        stage.process = counted  # type: ignore[method-assign]
        return stage

    return make


async def work(plan: Plan) -> None:
    done = 0

    def count(records: int) -> None:
        nonlocal done
        done += records

    make, clock = factory_of(plan.stage, count), SystemClock()
    report = Path(plan.report)
    log: KafkaLog | SegmentLog
    engine: KafkaEngine | LocalEngine | FaustEngine
    if plan.engine == EMBEDDED:
        log = await SegmentLog.open(Path(plan.where), clock=clock)
        engine = LocalEngine(log, clock=clock)
        engine.add(make())
    else:
        log = await open_kafka(plan.servers, plan.where)
        if plan.engine == FAUST:
            engine = FaustEngine(log, clock=clock, app_id="bench", data=report.parent / f"{report.stem}-faust")
        else:
            engine = KafkaEngine(log, clock=clock)
        engine.add(make)
        await engine.start()
        while not joined(engine):  # noqa: ASYNC110 — of the engine's own state
            await asyncio.sleep(0.05)
    began_s, spent_s = time.monotonic(), time.process_time()
    if plan.engine == EMBEDDED:
        await engine.start()
    await asyncio.to_thread(report.with_suffix(".ready").touch)
    while done < plan.records or not await engine.drain(5.0):  # noqa: ASYNC110 — of stage objects
        await asyncio.sleep(0.02)
    result = {
        "cpu_s": time.process_time() - spent_s, "wall_s": time.monotonic() - began_s, "records": done,
        "rss_mb": psutil.Process().memory_info().rss / 1e6,
    }  # fmt: skip
    await engine.stop(drain_s=0.0)
    await log.close()
    fresh = report.with_suffix(".new")
    await asyncio.to_thread(fresh.write_text, json.dumps(result))
    await asyncio.to_thread(fresh.rename, report)


def joined(engine: KafkaEngine | FaustEngine | LocalEngine) -> bool:
    if isinstance(engine, FaustEngine):
        return len(engine.partitions_owned) == PARTITIONS
    if isinstance(engine, KafkaEngine):
        return all(share.partitions == PARTITIONS for share in engine.metrics().values())
    return True


async def open_kafka(servers: str, prefix: str) -> KafkaLog:
    names = [*CorrelateStage.inputs, INCIDENTS.name, DEAD_LETTER.name]
    return await KafkaLog.open(
        KafkaConnection(servers), clock=SystemClock(), partitions=PARTITIONS, replication=1, prefix=prefix,
        reads=names, writes=names,
    )  # fmt: skip


# The measuring side


async def fill(plan: Plan, records: Sequence[Record], *, trickle: bool) -> None:
    log: EventLog
    if plan.engine == EMBEDDED:
        log = await SegmentLog.open(Path(plan.where), clock=SystemClock())
    else:
        log = await open_kafka(plan.servers, plan.where)
    step, began = TRICKLE_RECORDS if trickle else 2000, time.monotonic()
    for number, start in enumerate(range(0, len(records), step)):
        if trickle:
            await asyncio.sleep(max(0.0, began + number * TRICKLE_EVERY_S - time.monotonic()))
        await log.append(ALERTS.name, records[start : start + step])
    await log.close()


def one_pass(plan: Plan, broker: Kafka, records: Sequence[Record], *, trickle: bool) -> dict[str, float]:
    """A process works off the records; on Kafka they come when it has its partitions."""
    report = Path(plan.report)
    if plan.engine == EMBEDDED:
        asyncio.run(fill(plan, records, trickle=False))
    worker = subprocess.Popen([sys.executable, __file__, "worker", json.dumps(asdict(plan))])
    try:
        await_file(report.with_suffix(".ready"), worker)
        process = psutil.Process(broker.pid(1))
        broker_s = sum(process.cpu_times()[:2])
        if plan.engine != EMBEDDED:
            asyncio.run(fill(plan, records, trickle=trickle))
        await_file(report, worker)
        broker_s = sum(process.cpu_times()[:2]) - broker_s
        worker.wait(_WAIT_S)
    finally:
        worker.kill()
        worker.wait()
    found = json.loads(report.read_text())
    return {
        "events_per_cpu_s": found["records"] / found["cpu_s"],
        "events_per_broker_cpu_s": found["records"] / broker_s if plan.engine != EMBEDDED and broker_s else 0.0,
        "events_per_s": found["records"] / found["wall_s"],
        "cpu_share": found["cpu_s"] / found["wall_s"],
        "rss_mb": found["rss_mb"],
    }


def await_file(file: Path, worker: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + _WAIT_S
    while not file.exists():
        if worker.poll() not in (None, 0) or time.monotonic() > until_s:
            raise RuntimeError(f"the worker failed: {file.name} did not appear")
        time.sleep(0.02)


def run(folder: Path, broker: Kafka, records: Sequence[Record]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By stage and pace, then by engine: what each round found."""
    few = records[: round(TRICKLE_S / TRICKLE_EVERY_S) * TRICKLE_RECORDS]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(ROUNDS):
        for stage, (pace, chosen) in itertools.product(
            ("relay", "correlate"), (("backlog", records), ("trickle", few))
        ):
            for engine in (EMBEDDED, KAFKA, FAUST):
                if engine == EMBEDDED and pace == "trickle":
                    continue  # a log in a folder has one process
                name = f"{engine}-{stage}-{pace}-{number}"
                plan = Plan(
                    engine=engine, stage=stage, servers=broker.servers, records=len(chosen),
                    where=str(folder / name) if engine == EMBEDDED else f"{name}.", report=str(folder / f"{name}.json"),
                )  # fmt: skip
                result = one_pass(plan, broker, chosen, trickle=pace == "trickle")
                found.setdefault(f"{stage}, {pace}", {}).setdefault(engine, []).append(result)
                sys.stderr.write(f"{name}: {result}\n")
    return found


def summary(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians, and of the main figure the smallest and the largest."""
    per = [one["events_per_cpu_s"] for one in rounds]
    return {
        **{name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]},
        "events_per_cpu_s_range": [round(min(per)), round(max(per))],
    }


def text(about: Mapping[str, Any], records: int, rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        measure.heading("Stages of event rate: Faust beside our engine on Kafka and the embedded one", dict(about))
        + f"Backlog: {records:,} records of alerts, {len(TENANTS)} tenants, {PARTITIONS} partitions. Trickle: "
        f"{TRICKLE_RECORDS / TRICKLE_EVERY_S:.0f} a second for {TRICKLE_S:.0f} s, {TRICKLE_RECORDS} at a time. "
        f"Medians of {ROUNDS} rounds, every round runs all engines one after the other; in brackets the smallest and "
        "the largest. CPU seconds are the worker's, from when it has its partitions until all is processed and "
        "committed; the broker's are beside them. Kafka 4.3, one replica, same machine.\n",
        "| stage, pace | engine | events per CPU-s | of the engine on Kafka | events per broker CPU-s | events/s | "
        "cores of the worker | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, engines in rows.items():
        for engine, row in engines.items():
            low, high = row["events_per_cpu_s_range"]
            ratio = row["events_per_cpu_s"] / engines[KAFKA]["events_per_cpu_s"]
            broker = f"{row['events_per_broker_cpu_s']:,.0f}" if row["events_per_broker_cpu_s"] else "-"
            lines.append(
                f"| {what} | {engine} | {row['events_per_cpu_s']:,.0f} ({low:,}–{high:,}) | {ratio:.2f} | {broker} | "
                f"{row['events_per_s']:,.0f} | {row['cpu_share']:.2f} | {row['rss_mb']:.0f} |"
            )
    lines.append(
        "\n`relay` decodes, counts and passes on: what the engines cost. `correlate` is the real stage with its "
        "topology in memory. In a trickle a process pays for waiting too, so its cores are the better figure there."
    )
    return "\n".join(lines)


def main() -> None:
    about = measure.about("bench_faust.py")
    records = records_of(alerts())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with kafka(folder / "kafka", heap="512m", fast_start=False) as broker:
            found = run(folder, broker, records)
    rows = {what: {engine: summary(rounds) for engine, rounds in one.items()} for what, one in found.items()}
    result = {"about": about, "records": len(records), "rows": rows}
    measure.write("faust", result, text(about, len(records), rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(work(Plan(**json.loads(sys.argv[2]))))
    else:
        main()
