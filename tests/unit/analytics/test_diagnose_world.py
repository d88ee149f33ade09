"""A simulated estate with real stores: requests over a random call tree, faults, and what telemetry shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from headspring.analytics.diagnose.stage import DiagnoseConfig, DiagnoseStage
from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge, EdgeType
from headspring.knowledge.traces.ring import RingTraceStore
from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, Severity
from headspring.proto.incident import Diagnosis, Incident, IncidentState, Member
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor, Span, SpanBatch, SpanKind, SpanStatus
from headspring.proto.topics import INCIDENTS, METRICS, SERIES, SPANS, record_key
from headspring.streaming.features.span_red import SpanMetricsStage
from headspring.streaming.log.port import Record, StoredRecord

START_NS = 1_800_000_000 * NS_PER_S
MS = 1_000_000
WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "iris",
    "jade",
    "kelp",
    "lumen",
    "maple",
    "north",
]


def service(name: str) -> str:
    return f"service:default/{name}"


@dataclass
class Fault:
    """What is wrong with one service from `at_s` on."""

    where: str
    at_s: float
    delay_ms: float = 0.0
    errors: float = 0.0
    dead: bool = False


@dataclass
class World:
    """A call tree: `calls[name]` are the services that `name` calls, in order. The first service is the entrance."""

    calls: dict[str, list[str]]
    seed: int = 0
    per_s: float = 12.0
    faults: list[Fault] = field(default_factory=list)
    names_operations: bool = False
    """Client spans are named after the method alone ("GET") unless this is set."""

    @classmethod
    def drawn(cls, seed: int, size: int = 7) -> World:
        rng = Random(seed)
        names = rng.sample(WORDS, size)
        calls: dict[str, list[str]] = {name: [] for name in names}
        for index in range(1, size):
            calls[names[rng.randrange(0, index) if index > 2 else index - 1]].append(names[index])
        return cls(calls=calls, seed=seed)

    @property
    def root(self) -> str:
        return next(iter(self.calls))

    def chain(self, name: str) -> list[str]:
        """From the entrance to a service."""
        caller = next((c for c, callees in self.calls.items() if name in callees), None)
        return [name] if caller is None else [*self.chain(caller), name]

    def spans(self, start_s: float, end_s: float) -> dict[str, list[Span]]:
        """Spans by service of all requests that begin in the range."""
        rng = Random(f"{self.seed}-{start_s}")
        found: dict[str, list[Span]] = {name: [] for name in self.calls}
        step = 1 / self.per_s
        count = int((end_s - start_s) * self.per_s)
        for number in range(count):
            at_s = start_s + (number + rng.random()) * step
            trace = f"{rng.getrandbits(128):032x}"
            self._request(found, rng, self.root, trace, "", at_s, START_NS + int(at_s * NS_PER_S))
        return found

    def _request(
        self, found: dict[str, list[Span]], rng: Random, name: str, trace: str, parent: str, at_s: float, t: int
    ) -> tuple[int, bool]:
        active = [f for f in self.faults if f.where == name and at_s >= f.at_s]
        begin, own = t, f"{rng.getrandbits(64):016x}"
        t += int(rng.uniform(2, 6) * MS) + sum(int(f.delay_ms * MS) for f in active)
        failed = any(rng.random() < f.errors for f in active)
        message = "ValueError: bad state" if failed else ""
        if not failed:
            for callee in self.calls[name]:
                client, call_begin = f"{rng.getrandbits(64):016x}", t
                dead = any(f.dead and f.where == callee and at_s >= f.at_s for f in self.faults)
                if dead:
                    t, bad = t + 2 * MS, True
                else:
                    t, bad = self._request(found, rng, callee, trace, client, at_s, t + MS // 2)
                    t += MS // 2
                found[name].append(
                    Span(
                        trace_id=trace,
                        span_id=client,
                        parent_span_id=own,
                        kind=SpanKind.CLIENT,
                        operation=f"GET {callee}" if self.names_operations else "GET",
                        start_ns=call_begin,
                        duration_ns=t - call_begin,
                        status=SpanStatus.ERROR if bad else SpanStatus.UNSET,
                        status_message="Connection refused" if dead else "",
                    )
                )
                if bad:
                    failed = True
                    break
        t += int(rng.uniform(1, 3) * MS)
        found[name].append(
            Span(
                trace_id=trace,
                span_id=own,
                parent_span_id=parent,
                kind=SpanKind.SERVER,
                operation=f"GET /{name}",
                start_ns=begin,
                duration_ns=t - begin,
                status=SpanStatus.ERROR if failed else SpanStatus.UNSET,
                status_message=message,
            )
        )
        return t, failed


def record(topic: str, message: object, key: bytes = b"k") -> StoredRecord:
    return StoredRecord(
        topic=topic, partition=0, offset=0, record=Record(key=key, value=codec.encode(message), time_ns=0)
    )


class Estate:
    """The world watched by real stores, the real span metrics stage and the real diagnosis stage."""

    def __init__(self, world: World, *, settle_s: tuple[float, ...] = (3.0, 8.0)) -> None:
        self.world = world
        self.clock = ManualClock(start_ns=START_NS)
        self.series = DuckDbSeriesStore(None)
        self.traces = RingTraceStore(None)
        self.documents = SqliteDocumentStore(None)
        self.graph = EmbeddedTopology(None)
        self.metrics = SpanMetricsStage(clock=self.clock)
        self.stage = DiagnoseStage(
            clock=self.clock,
            topology=self.graph,
            series=self.series,
            traces=self.traces,
            documents=self.documents,
            config=DiagnoseConfig(settle_s=settle_s),
        )
        self.now_s = 0.0

    async def run(self, seconds: float) -> None:
        """Lets time pass: spans arrive every second."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            by_service = self.world.spans(self.now_s, self.now_s + 1)
            self.now_s += 1
            self.clock.advance(1.0)
            now_ns = self.clock.now_ns()
            records = []
            for name, spans in by_service.items():
                if spans:
                    batch = SpanBatch(tenant="default", entity=service(name), received_ns=now_ns, spans=tuple(spans))
                    self.traces.add(batch)
                    records.append(record(SPANS.name, batch))
            seen = [
                Edge(caller=service(a), callee=service(b), type=EdgeType.SYNC, source="spans", last_seen_ns=now_ns)
                for a, callees in self.world.calls.items()
                for b in callees
                if by_service[a] and by_service[b]
            ]
            if seen:
                self.graph.observe("default", seen)
            outs = [*await self.metrics.process(SPANS.name, records), *await self.metrics.tick(now_ns)]
            for out in outs:
                if out.topic == SERIES.name:
                    self.series.register([codec.decode(SeriesDescriptor, out.value)])
            for out in outs:
                if out.topic == METRICS.name:
                    self.series.write(codec.decode(MetricBatch, out.value))

    def incident(self, entities: Sequence[str], *, at_s: float, number: int = 1, version: int = 1) -> Incident:
        """An incident with one latency alert per entity."""
        at_ns = START_NS + int(at_s * NS_PER_S)
        alerts = [
            Alert(
                alert_id=f"al-{number}-{name}",
                tenant="default",
                fingerprint=name,
                entity=service(name),
                name="latency",
                severity=Severity.ERROR,
                starts_ns=at_ns,
                metric="service_latency_mean_seconds",
            )
            for name in entities
        ]
        return Incident(
            incident_id=f"inc-{number}",
            tenant="default",
            version=version,
            state=IncidentState.OPEN,
            opened_ns=at_ns,
            members=tuple(Member(alert=alert) for alert in alerts),
            entities=tuple(service(name) for name in entities),
        )

    async def diagnosed(self, incident: Incident) -> Diagnosis:
        """The answer to an incident as of now."""
        key = record_key("default", incident.incident_id)
        await self.stage.process(INCIDENTS.name, [record(INCIDENTS.name, incident, key)])
        out = await self.stage.tick(self.clock.now_ns())
        return codec.decode(Diagnosis, out[-1].value)


def told(diagnosis: Diagnosis) -> str:
    """A diagnosis in a few lines, for failing tests."""
    lines = [f"{diagnosis.status} none={diagnosis.none} {diagnosis.method} {diagnosis.seconds:.2f}s"]
    for one in diagnosis.hypotheses:
        lines.append(f"{one.entity} {one.kind} p={one.probability:.2f} {one.status} path={one.path}")
        lines += [f"    {e.kind} {e.weight:+.2f} {e.summary} {e.query}" for e in one.evidence]
    return "\n".join(lines)
