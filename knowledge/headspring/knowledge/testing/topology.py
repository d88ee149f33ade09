"""The topology graph's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable

import pytest

from headspring.knowledge.topology.graph import Edge, EdgeType, Node
from headspring.knowledge.topology.port import TopologyGraph

OpenTopology = Callable[[], TopologyGraph]
S = 1_000_000_000
NOW_NS = 1_800_000_000 * S


def edge(caller: str, callee: str, *, seen_s: float = 0, weight: float = 1.0, type: EdgeType = EdgeType.SYNC) -> Edge:
    """An edge seen `seen_s` seconds from now."""
    return Edge(
        caller=caller, callee=callee, type=type, weight=weight, source="spans",
        last_seen_ns=NOW_NS + round(seen_s * S),
    )  # fmt: skip


class TopologyContract:
    """Subclass it and give it an `open_topology` fixture whose edges expire after 900 s."""

    expiry_s = 900

    @pytest.fixture
    def open_topology(self) -> OpenTopology:
        raise NotImplementedError("the binding gives a fixture open_topology")

    @pytest.fixture
    def graph(self, open_topology: OpenTopology) -> TopologyGraph:
        return open_topology()

    def test_an_observed_edge_is_in_the_snapshot_with_both_ends(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("service:d/a", "database:d/b", weight=2.5, type=EdgeType.DATABASE)])
        found = graph.snapshot("default", at_ns=NOW_NS)
        assert found.edges == (edge("service:d/a", "database:d/b", weight=2.5, type=EdgeType.DATABASE),)
        assert [(node.entity, node.kind) for node in found.nodes] == [
            ("database:d/b", "database"), ("service:d/a", "service"),
        ]  # fmt: skip
        assert found.callees("service:d/a") == ("database:d/b",)

    def test_observing_again_changes_nothing(self, graph: TopologyGraph) -> None:
        for _ in range(3):
            graph.observe("default", [edge("a", "b")])
        assert graph.snapshot("default", at_ns=NOW_NS).edges == (edge("a", "b"),)

    def test_edges_of_different_type_are_different(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b"), edge("a", "b", type=EdgeType.ASYNC), edge("b", "a")])
        assert len(graph.snapshot("default", at_ns=NOW_NS).edges) == 3

    def test_an_old_sighting_never_turns_time_back(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b", seen_s=0, weight=5)])
        graph.observe("default", [edge("a", "b", seen_s=-60, weight=1)])
        assert graph.snapshot("default", at_ns=NOW_NS).edges == (edge("a", "b", seen_s=0, weight=5),)

    def test_edges_expire_on_silence(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b"), edge("a", "c", seen_s=600)])
        at_ns = NOW_NS + self.expiry_s * S
        assert len(graph.snapshot("default", at_ns=at_ns).edges) == 2
        assert [one.callee for one in graph.snapshot("default", at_ns=at_ns + 1).edges] == ["c"]
        assert graph.snapshot("default", at_ns=at_ns + 3600 * S).edges == ()

    def test_an_expired_edge_comes_back_when_seen_again(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b")])
        assert graph.snapshot("default", at_ns=NOW_NS + 3600 * S).edges == ()
        graph.observe("default", [edge("a", "b", seen_s=3600)])
        assert len(graph.snapshot("default", at_ns=NOW_NS + 3600 * S).edges) == 1

    def test_asking_for_the_past_does_not_disturb_the_present(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b"), edge("a", "c", seen_s=3000)])
        for _ in range(2):
            assert [one.callee for one in graph.snapshot("default", at_ns=NOW_NS).edges] == ["b"]
            assert [one.callee for one in graph.snapshot("default", at_ns=NOW_NS + 3000 * S).edges] == ["c"]

    def test_configured_edges_do_not_expire_and_are_replaced_whole(self, graph: TopologyGraph) -> None:
        graph.replace_configured("default", [edge("a", "b"), edge("a", "c")], [Node(entity="x", kind="gateway")])
        later = graph.snapshot("default", at_ns=NOW_NS + 10**6 * S)
        assert [(one.callee, one.source) for one in later.edges] == [("b", "config"), ("c", "config")]
        assert later.by_entity["x"].kind == "gateway"
        graph.replace_configured("default", [edge("a", "d")])
        later = graph.snapshot("default", at_ns=NOW_NS + 10**6 * S)
        assert [one.callee for one in later.edges] == ["d"]
        assert "x" not in later.by_entity

    def test_declaring_an_edge_keeps_the_traffic_that_was_observed(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b", weight=7)])
        graph.replace_configured("default", [edge("a", "b")])
        (found,) = graph.snapshot("default", at_ns=NOW_NS).edges
        assert (found.weight, found.source) == (7, "config")
        graph.replace_configured("default", [])
        (found,) = graph.snapshot("default", at_ns=NOW_NS).edges
        assert (found.weight, found.source) == (7, "spans")

    def test_tenants_do_not_see_each_other(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b")])
        graph.replace_configured("default", [edge("c", "d")])
        assert graph.snapshot("other", at_ns=NOW_NS).edges == ()
        graph.replace_configured("other", [])
        assert len(graph.snapshot("default", at_ns=NOW_NS).edges) == 2

    def test_what_was_observed_is_there_after_opening_again(self, open_topology: OpenTopology) -> None:
        graph = open_topology()
        graph.observe("default", [edge("a", "b")], [Node(entity="a", kind="gateway", last_seen_ns=NOW_NS)])
        graph.replace_configured("default", [edge("c", "d")])
        before = graph.snapshot("default", at_ns=NOW_NS)
        assert open_topology().snapshot("default", at_ns=NOW_NS) == before
