"""Lives of edges: the same sightings give the same rows and the same graphs, however they come."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headspring.knowledge.topology.graph import Edge, EdgeType, Node, Topology
from headspring.knowledge.topology.rows import LEAD_NS, Rows, TenantRows
from headspring.proto.clock import NS_PER_S

_EXPIRY_NS = 900 * NS_PER_S
_NAMES = st.sampled_from("abc")
_TIMES = st.integers(0, 40).map(lambda step: step * 300 * NS_PER_S)
_EDGES = st.builds(
    Edge, caller=_NAMES, callee=_NAMES, type=st.sampled_from([EdgeType.SYNC, EdgeType.ASYNC]), last_seen_ns=_TIMES
)
_NODES = st.builds(Node, entity=_NAMES, kind=st.just("service"), last_seen_ns=_TIMES)


def _rows(edges: list[Edge], nodes: list[Node], batches: int = 1) -> TenantRows:
    rows = TenantRows(_EXPIRY_NS)
    for one in range(batches):
        rows.apply(rows.observed(edges[one::batches], nodes[one::batches]))
    return rows


@given(st.lists(_EDGES, max_size=30), st.lists(_NODES, max_size=10), st.integers(1, 7), st.randoms())
def test_the_order_and_the_batches_of_sightings_do_not_matter(
    edges: list[Edge], nodes: list[Node], batches: int, generator: random.Random
) -> None:
    mixed_edges, mixed_nodes = edges * 2, list(nodes)
    generator.shuffle(mixed_edges)
    generator.shuffle(mixed_nodes)
    assert _rows(edges, nodes).rows() == _rows(mixed_edges, mixed_nodes, batches).rows()


@given(st.lists(_EDGES, max_size=30), st.integers(0, 30), st.lists(st.integers(-10, 60), min_size=1, max_size=8))
def test_an_edge_is_there_when_a_sighting_says_so(edges: list[Edge], half: int, at_steps: list[int]) -> None:
    """Against the plain rule over all sightings; asked while they come, so that kept answers are tried too."""
    rows = TenantRows(_EXPIRY_NS)
    for seen, known in ((edges[:half], edges[:half]), (edges[half:], edges)):
        rows.apply(rows.observed(seen, ()))
        for at_ns in (step * 200 * NS_PER_S for step in at_steps):
            there = {(edge.caller, edge.callee, edge.type) for edge in rows.snapshot(at_ns).edges}
            assert there == _by_sightings(known, at_ns)


def _by_sightings(edges: list[Edge], at_ns: int) -> set[tuple[str, str, EdgeType]]:
    there = set()
    for key in {(edge.caller, edge.callee, edge.type) for edge in edges}:
        times = sorted(edge.last_seen_ns for edge in edges if (edge.caller, edge.callee, edge.type) == key)
        firsts = [
            time
            for time, before in zip(times, [None, *times], strict=False)
            if before is None or time - before > _EXPIRY_NS
        ]
        if any(0 <= at_ns - time <= _EXPIRY_NS for time in times) or any(
            0 <= time - at_ns <= LEAD_NS for time in firsts
        ):
            there.add(key)
    return there


@given(st.lists(_EDGES, max_size=20), st.lists(_EDGES, max_size=20), st.lists(_NODES, max_size=5))
def test_rows_of_two_places_together_are_the_rows_of_all_sightings(
    some: list[Edge], others: list[Edge], nodes: list[Node]
) -> None:
    here, there = _rows(some, []), _rows(others, nodes)
    for _ in range(2):
        here.apply(here.merged(there.rows()))
    assert here.rows() == _rows(some + others, nodes).rows()


@given(st.lists(_EDGES, max_size=12), st.sampled_from("abc"), st.sampled_from("abc"))
def test_paths_are_all_the_ways_there_are(edges: list[Edge], source: str, target: str) -> None:
    graph = Topology.of(edges)
    calls = {(edge.caller, edge.callee) for edge in edges}
    ways = [(source, target), *((source, via, target) for via in "abc")] if source != target else []
    expected = [
        way for way in ways if len(set(way)) == len(way) and calls.issuperset(pairwise(way))
    ]  # fmt: skip
    assert list(graph.paths(source, target, 5)) == expected


def test_nothing_is_known_of_nothing() -> None:
    assert len(Rows()) == 0
    assert TenantRows(_EXPIRY_NS).snapshot(0) == Topology()
