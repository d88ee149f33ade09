"""Spans of both sides become edges, in whatever order they come."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from headspring.knowledge.topology.discovery import TopologyStage
from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge, EdgeType
from headspring.knowledge.topology.pairing import GENERATIONS, SpanPairing
from headspring.proto.codec import encode
from headspring.proto.telemetry import Span, SpanBatch, SpanKind
from headspring.proto.topics import SPANS

S = 1_000_000_000
START_NS = 1_800_000_000 * S


@dataclass(frozen=True)
class Payload:
    value: bytes
    time_ns: int


@dataclass(frozen=True)
class Stored:
    record: Payload


@pytest.fixture
def graph(tmp_path: Path) -> EmbeddedTopology:
    return EmbeddedTopology(tmp_path / "topology.db")


def span(
    name: str, parent: str = "", kind: SpanKind = SpanKind.SERVER, peer: str = "", trace: str = "t", **more: str
) -> Span:
    return Span(
        trace_id=trace, span_id=name, parent_span_id=parent, kind=kind, start_ns=START_NS, peer=peer,
        instance=more.pop("instance", ""), attributes={name.replace("_", "."): value for name, value in more.items()},
    )  # fmt: skip


async def feed(stage: TopologyStage, *sides: tuple[str, Span], at_s: float = 0) -> None:
    time_ns = START_NS + round(at_s * S)
    for entity, one in sides:
        batch = SpanBatch(tenant="default", entity=entity, spans=(one,))
        await stage.process(SPANS.name, [Stored(Payload(encode(batch), time_ns))])


async def tick(stage: TopologyStage, start_s: float, end_s: float) -> None:
    for second in range(int(start_s), int(end_s) + 1, 5):
        await stage.tick(START_NS + second * S)


def edges(graph: EmbeddedTopology, at_s: float = 0) -> dict[tuple[str, str], Edge]:
    return {(one.caller, one.callee): one for one in graph.snapshot("default", at_ns=START_NS + round(at_s * S)).edges}


A, B, DB = "service:d/a", "service:d/b", "database:d/db"
CALL = ((A, span("1", kind=SpanKind.CLIENT, peer=B)), (B, span("2", "1")))


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
async def test_parent_and_child_make_an_edge_in_any_order(graph: EmbeddedTopology, order: tuple[int, ...]) -> None:
    stage = TopologyStage(graph)
    await feed(stage, *(CALL[index] for index in order))
    await stage.tick(START_NS + 5 * S)
    (found,) = edges(graph).values()
    assert (found.caller, found.callee, found.type, found.source) == (A, B, EdgeType.SYNC, "spans")


async def test_spans_inside_one_service_make_no_edge(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await feed(stage, (A, span("1")), (A, span("2", "1", SpanKind.INTERNAL)))
    await tick(stage, 5, 100)
    assert edges(graph) == {}


async def test_a_consumer_under_a_producer_is_an_asynchronous_call(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await feed(stage, (A, span("1", kind=SpanKind.PRODUCER)), (B, span("2", "1", SpanKind.CONSUMER)))
    await stage.tick(START_NS + 5 * S)
    assert edges(graph)[A, B].type is EdgeType.ASYNC


async def test_a_queue_stays_between_both_sides(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    queue = "queue:d/orders"
    await feed(stage, (A, span("1", kind=SpanKind.PRODUCER, peer=queue)), (B, span("2", "1", SpanKind.CONSUMER, queue)))
    await tick(stage, 5, 100)
    found = edges(graph)
    assert set(found) == {(A, queue), (queue, B), (A, B)}
    assert {one.type for one in found.values()} == {EdgeType.ASYNC}


@pytest.mark.parametrize(
    ("peer", "type"),
    [
        (DB, EdgeType.DATABASE), ("cache:d/redis", EdgeType.CACHE), ("service:d/silent", EdgeType.SYNC),
        ("external:d/api.example.com", EdgeType.SYNC),
    ],
)  # fmt: skip
async def test_a_peer_that_sends_no_spans_is_found_after_the_grace(
    graph: EmbeddedTopology, peer: str, type: EdgeType
) -> None:
    stage = TopologyStage(graph)
    await tick(stage, 0, 5)
    await feed(stage, (A, span("1", kind=SpanKind.CLIENT, peer=peer)), at_s=5)
    await tick(stage, 10, 25)
    assert edges(graph) == {}
    await tick(stage, 30, 70)
    assert edges(graph)[A, peer].type is type


async def test_a_named_peer_gives_way_to_the_service_that_answered(graph: EmbeddedTopology) -> None:
    """What the client calls `b.local` is what the server calls `b`: one edge, not two."""
    stage = TopologyStage(graph)
    await feed(stage, (B, span("2", "1")), (A, span("1", kind=SpanKind.CLIENT, peer="service:d/b.local")))
    await tick(stage, 5, 100)
    assert set(edges(graph)) == {(A, B)}


async def test_spans_delivered_again_are_counted_once(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await stage.tick(START_NS)
    for _ in range(3):
        await feed(stage, *CALL)
    await stage.tick(START_NS + 5 * S)
    assert edges(graph)[A, B].weight == pytest.approx(1 / 5)


async def test_the_weight_is_calls_per_second_smoothed_over_a_minute(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await stage.tick(START_NS)
    for round_ in range(60):
        for call in range(10):
            key = f"{round_}-{call}"
            await feed(stage, (A, span(key, kind=SpanKind.CLIENT)), (B, span(key + "s", key)), at_s=round_ * 5)
        await stage.tick(START_NS + (round_ + 1) * 5 * S)
    assert edges(graph, 300)[A, B].weight == pytest.approx(2.0)
    await tick(stage, 305, 365)
    quiet = edges(graph, 365)[A, B]
    assert quiet.weight < 1.2  # written again while it falls, though nothing was seen
    assert quiet.last_seen_ns == START_NS  # silence does not refresh it


async def test_services_and_instances_run_on_their_host(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await feed(stage, (A, span("1", host_name="web-1", instance="a-1")))
    await stage.tick(START_NS + 5 * S)
    found = edges(graph)
    assert set(found) == {(A, "host:default/web-1"), ("instance:d/a-1", "host:default/web-1")}
    assert {one.type for one in found.values()} == {EdgeType.RUNS_ON}


async def test_a_clock_ahead_does_not_keep_an_edge_alive(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await feed(stage, *CALL, at_s=-3600)  # arrived an hour before its own stamp
    await stage.tick(START_NS)
    assert edges(graph) == {}
    assert len(edges(graph, -3600)) == 1


async def test_the_state_is_small_and_goes_on_after_a_restart(graph: EmbeddedTopology) -> None:
    stage = TopologyStage(graph)
    await stage.tick(START_NS)
    await feed(stage, *CALL)
    state = stage.snapshot()
    assert len(state) < 300
    again = TopologyStage(graph)
    again.restore(state)
    await again.tick(START_NS + 5 * S)
    assert edges(graph)[A, B].weight == pytest.approx(1 / 5)
    again.restore(b"")
    assert again.snapshot() == TopologyStage(graph).snapshot()


def test_pairing_forgets_what_waits_too_long() -> None:
    pairing = SpanPairing()
    for one in range(100):
        assert list(pairing.add("t", A, span(f"p{one}", kind=SpanKind.CLIENT))) == []
        assert list(pairing.add("t", B, span(f"c{one}", f"gone{one}"))) == []
    assert len(pairing) == 300
    for _ in range(GENERATIONS):
        pairing.rotate()
    assert len(pairing) == 0


def test_pairing_finds_the_same_calls_in_every_order() -> None:
    """A random tree of calls over four services, delivered in random orders."""
    random_ = random.Random(5)
    services = [f"service:d/{name}" for name in "abcd"]
    sides = []
    for one in range(60):
        parent = f"s{random_.randrange(one)}" if one else ""
        sides.append((random_.choice(services), span(f"s{one}", parent, SpanKind.SERVER)))
    entity_of = {item.span_id: entity for entity, item in sides}
    expected = sorted(
        (entity_of[item.parent_span_id], entity)
        for entity, item in sides
        if item.parent_span_id and entity_of[item.parent_span_id] != entity
    )
    for _ in range(20):
        random_.shuffle(sides)
        pairing = SpanPairing()
        calls = [call for entity, item in sides for call in pairing.add("t", entity, item)]
        assert sorted((call.caller, call.callee) for call in calls) == expected
