"""The topology graph's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    def graph(self, open_topology: OpenTopology) -> Iterator[TopologyGraph]:
        graph = open_topology()
        yield graph
        graph.close()

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
        graph.observe("default", [edge("a", "b", seen_s=5000, weight=3), edge("old", "b", seen_s=-4000)])
        graph.replace_configured("default", [edge("c", "d")], [Node(entity="b", kind="database")])
        before = graph.export("default")
        graph.close()
        again = open_topology()
        assert again.export("default") == before
        assert again.tenants() == ["default"]
        assert [one.caller for one in again.snapshot("default", at_ns=NOW_NS).edges] == ["a", "c"]
        again.close()

    def test_an_edge_is_not_there_while_it_was_silent(self, graph: TopologyGraph) -> None:
        for seen_s in (0, 5000):
            graph.observe("default", [edge("a", "b", seen_s=seen_s, weight=seen_s + 1)])
        there = {at_s: graph.snapshot("default", at_ns=NOW_NS + at_s * S).edges for at_s in (-130, 0, 2500, 5000)}
        assert {at_s: len(edges) for at_s, edges in there.items()} == {-130: 0, 0: 1, 2500: 0, 5000: 1}
        # The newest words, and when it was last seen then.
        assert [(one.weight, one.last_seen_ns) for one in there[0]] == [(5001, NOW_NS)]

    def test_an_edge_counts_shortly_before_it_was_first_seen(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b")])
        assert len(graph.snapshot("default", at_ns=NOW_NS - 120 * S).edges) == 1
        assert graph.snapshot("default", at_ns=NOW_NS - 120 * S - 1).edges == ()

    def test_sightings_may_come_in_any_order(self, graph: TopologyGraph) -> None:
        times_s = (0, 5000, 800, 5800, -100, 1600)
        graph.observe("one", [edge("a", "b", seen_s=at, weight=at) for at in times_s])
        for at in sorted(times_s, reverse=True):
            graph.observe("other", [edge("a", "b", seen_s=at, weight=at)])
        assert graph.export("one") == graph.export("other")
        (row,) = graph.export("one").edges.values()
        assert row.lives == ((NOW_NS - 100 * S, NOW_NS + 1600 * S), (NOW_NS + 5000 * S, NOW_NS + 5800 * S))
        assert row.seen == edge("a", "b", seen_s=5800, weight=5800)

    def test_neighbours_are_what_lies_within_the_hops(self, graph: TopologyGraph) -> None:
        graph.observe("default", [
            edge("a", "b"), edge("b", "c", type=EdgeType.ASYNC), edge("c", "d"), edge("d", "a"), edge("x", "b"),
            edge("b", "host", type=EdgeType.RUNS_ON), edge("gone", "b", seen_s=-5000),
            edge("a", "b", type=EdgeType.CACHE),
        ])  # fmt: skip
        graph.replace_configured("default", [edge("c", "far")])

        def near(entity: str, hops: int, *, down: bool | None = None) -> dict[str, int]:
            return dict(graph.neighbours("default", entity, hops=hops, at_ns=NOW_NS, down=down))

        assert near("b", 0) == {"b": 0}
        assert near("b", 1) == {"b": 0, "a": 1, "c": 1, "x": 1, "host": 1}
        assert near("b", 1, down=True) == {"b": 0, "c": 1, "host": 1}
        assert near("b", 1, down=False) == {"b": 0, "a": 1, "x": 1}
        assert near("b", 3, down=True) == {"b": 0, "c": 1, "host": 1, "d": 2, "far": 2, "a": 3}
        assert near("far", 2) == {"far": 0, "c": 1, "b": 2, "d": 2}
        assert near("nobody", 3) == {"nobody": 0}
        assert graph.neighbours("other", "b", hops=2, at_ns=NOW_NS) == {"b": 0}
        then = graph.neighbours("default", "b", hops=1, at_ns=NOW_NS - 5000 * S)
        assert then == {"b": 0, "gone": 1}

    def test_paths_lead_from_caller_to_callee_shortest_first(self, graph: TopologyGraph) -> None:
        graph.observe("default", [
            edge("a", "b"), edge("b", "d"), edge("a", "c"), edge("c", "d"), edge("c", "b"), edge("b", "a"),
            edge("d", "e"), edge("a", "d", seen_s=-5000), edge("a", "b", type=EdgeType.ASYNC), edge("c", "dead end"),
        ])  # fmt: skip

        def ways(source: str, target: str, max_hops: int, *, limit: int = 100) -> list[str]:
            found = graph.paths("default", source, target, max_hops=max_hops, at_ns=NOW_NS, limit=limit)
            return ["".join(path) for path in found]

        assert ways("a", "d", 1) == []
        assert ways("a", "d", 2) == ["abd", "acd"]
        assert ways("a", "d", 5) == ["abd", "acd", "acbd"]
        assert ways("a", "e", 5, limit=2) == ["abde", "acde"]
        assert ways("d", "a", 5) == []
        assert ways("a", "a", 5) == []
        assert ways("a", "nobody", 5) == []
        assert len(graph.paths("default", "a", "d", max_hops=1, at_ns=NOW_NS - 5000 * S)) == 1

    def test_a_question_may_go_sixteen_hops(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge(f"{one:02}", f"{one + 1:02}") for one in range(17)])
        assert len(graph.neighbours("default", "00", hops=16, at_ns=NOW_NS)) == 17
        assert len(graph.paths("default", "00", "16", max_hops=16, at_ns=NOW_NS)) == 1
        with pytest.raises(ValueError, match="from 0 to 16, got 17"):
            graph.neighbours("default", "00", hops=17, at_ns=NOW_NS)
        with pytest.raises(ValueError, match="from 0 to 16, got -1"):
            graph.paths("default", "00", "16", max_hops=-1, at_ns=NOW_NS)

    def test_forgetting_drops_old_lives_and_nothing_declared(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b"), edge("a", "c"), edge("declared", "too")])
        graph.observe("default", [edge("a", "b", seen_s=5000)], [Node(entity="n", kind="host", last_seen_ns=NOW_NS)])
        graph.replace_configured("default", [edge("declared", "too", seen_s=-(10**6))])
        assert graph.forget("default", before_ns=NOW_NS) == 0
        assert graph.forget("default", before_ns=NOW_NS + 1) == 4
        then = graph.snapshot("default", at_ns=NOW_NS)
        assert [(one.caller, one.source) for one in then.edges] == [("declared", "config")]
        assert "n" not in then.by_entity
        now = graph.snapshot("default", at_ns=NOW_NS + 5000 * S)
        assert [one.callee for one in now.edges] == ["b", "too"]
        assert graph.forget("default", before_ns=NOW_NS + 1) == 0

    def test_what_is_long_gone_is_forgotten_unasked(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b")])
        graph.observe("default", [edge("a", "c", seen_s=97 * self.expiry_s)])
        assert [callee for _, callee, _ in graph.export("default").edges] == ["c"]

    def test_rows_can_be_taken_elsewhere(self, graph: TopologyGraph) -> None:
        graph.observe("default", [edge("a", "b"), edge("a", "b", seen_s=5000, weight=2)])
        graph.observe("default", [], [Node(entity="n", kind="host", last_seen_ns=NOW_NS)])
        graph.replace_configured("default", [edge("c", "d")], [Node(entity="x", kind="gateway")])
        taken = graph.export("default")
        graph.observe("elsewhere", [edge("a", "b", seen_s=2500, weight=9), edge("e", "f")])
        for _ in range(2):
            graph.load("elsewhere", taken)
        graph.observe("expected", [
            edge("a", "b"), edge("a", "b", seen_s=5000, weight=2), edge("a", "b", seen_s=2500), edge("e", "f"),
        ])  # fmt: skip
        graph.observe("expected", [], [Node(entity="n", kind="host", last_seen_ns=NOW_NS)])
        graph.replace_configured("expected", [edge("c", "d")], [Node(entity="x", kind="gateway")])
        assert graph.export("elsewhere") == graph.export("expected")

    def test_a_deleted_tenant_is_gone_and_the_others_stay(self, graph: TopologyGraph) -> None:
        for tenant in ("default", "other"):
            graph.observe(tenant, [edge("a", "b")])
            graph.replace_configured(tenant, [edge("c", "d")], [Node(entity="x", kind="gateway")])
        assert graph.tenants() == ["default", "other"]
        for _ in range(2):
            graph.delete_tenant("default")
        assert len(graph.export("default")) == 0
        assert graph.snapshot("default", at_ns=NOW_NS).nodes == ()
        assert graph.tenants() == ["other"]
        assert len(graph.snapshot("other", at_ns=NOW_NS).edges) == 2
        graph.observe("default", [edge("e", "f")])
        assert [one.caller for one in graph.snapshot("default", at_ns=NOW_NS).edges] == ["e"]

    def test_an_unusual_name_is_only_a_name(self, graph: TopologyGraph) -> None:
        odd = "service:ns/`'\"\\}) DETACH DELETE n // é 💧"
        graph.observe("t' OR 1=1", [edge(odd, "b")])
        assert graph.snapshot("t' OR 1=1", at_ns=NOW_NS).callees(odd) == ("b",)
        assert graph.neighbours("t' OR 1=1", odd, hops=1, at_ns=NOW_NS) == {odd: 0, "b": 1}
