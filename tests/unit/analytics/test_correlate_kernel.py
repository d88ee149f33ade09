"""Which alerts become one incident, and which become two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest

from headspring.analytics.correlate.dynamic_xy import DynamicXY, Rules
from headspring.analytics.correlate.explain import most_explanatory
from headspring.analytics.correlate.shape import Shape
from headspring.analytics.correlate.signals import Kind, Signal, words_of
from headspring.knowledge.topology.graph import Edge, EdgeType, Topology
from headspring.proto.clock import NS_PER_S

Row = tuple[float, str, str, Kind]


def signal(number: int, at_s: float, entity: str, name: str, kind: Kind, rank: int = 2) -> Signal:
    return Signal(
        alert_id=f"a{number}",
        time_ns=round(at_s * NS_PER_S),
        entity=entity,
        fingerprint=f"{entity}/{name}",
        rank=rank,
        words=words_of(name, {"service": entity}),
        kind=kind,
    )


def groups(rows: Sequence[Row], topology: Topology, *, until_s: float = 1000.0) -> list[set[str]]:
    """Entities of each incident once everything has settled."""
    kernel = DynamicXY()
    where: dict[str, str] = {}
    entity: dict[str, str] = {}
    for number, (at_s, one, name, kind) in enumerate(rows):
        item = signal(number, at_s, one, name, kind)
        placed = kernel.add(item, topology)
        where[item.alert_id], entity[item.alert_id] = placed.group, one
        where.update({move.alert_id: move.after for move in placed.moves})
    where.update({move.alert_id: move.after for move in kernel.advance(round(until_s * NS_PER_S), topology)})
    found: dict[str, set[str]] = {}
    for alert_id, group in where.items():
        found.setdefault(group, set()).add(entity[alert_id])
    return sorted(found.values(), key=sorted)


def calls(*pairs: str, hosts: Sequence[str] = ()) -> Topology:
    edges = [Edge(caller=pair[0], callee=pair[1]) for pair in pairs]
    edges += [Edge(caller=pair.split("@")[0], callee=pair.split("@")[1], type=EdgeType.RUNS_ON) for pair in hosts]
    return Topology.of(edges)


S, N, P = Kind.SYMPTOM, Kind.STARVATION, Kind.PRESSURE
FORK = calls("AB", "AC")


def test_a_fault_that_climbs_a_chain_is_one_incident() -> None:
    rows: list[Row] = [(0, "C", "errors", S), (3, "B", "errors", S), (5, "B", "latency", S), (7, "A", "errors", S)]
    assert groups(rows, calls("AB", "BC")) == [{"A", "B", "C"}]


def test_the_order_in_which_a_chain_is_detected_does_not_matter() -> None:
    rows: list[Row] = [(0, "A", "errors", S), (2, "C", "errors", S), (9, "B", "errors", S)]
    assert groups(rows, calls("AB", "BC")) == [{"A", "B", "C"}]


def test_two_callees_with_own_trouble_are_two_incidents_and_the_shared_caller_goes_to_the_first() -> None:
    rows: list[Row] = [
        (0, "B", "latency", S),
        (2, "A", "latency", S),
        (5, "C", "latency", S),
        (6, "C", "errors", S),
        (20, "B", "errors", S),
    ]
    assert groups(rows, FORK) == [{"A", "B"}, {"C"}]


def test_a_later_cause_takes_the_callers_alert_that_follows_it() -> None:
    rows: list[Row] = [
        (0, "B", "latency", S),
        (2, "A", "latency", S),
        (50, "C", "errors", S),
        (53, "A", "errors", S),
        (65, "C", "latency", S),
    ]
    assert groups(rows, FORK) == [{"A", "B"}, {"A", "C"}]


def test_a_silent_database_that_both_call_keeps_them_one_incident() -> None:
    rows: list[Row] = [(0, "B", "latency", S), (2, "A", "latency", S), (5, "C", "latency", S), (30, "C", "errors", S)]
    assert groups(rows, calls("AB", "AC", "BD", "CD")) == [{"A", "B", "C"}]


def test_an_alerting_database_that_both_call_keeps_them_one_incident() -> None:
    rows: list[Row] = [(0, "B", "latency", S), (2, "C", "latency", S), (30, "D", "latency", S), (31, "A", "errors", S)]
    assert groups(rows, calls("AB", "AC", "BD", "CD")) == [{"A", "B", "C", "D"}]


def test_a_silent_callee_with_other_healthy_callers_explains_nothing() -> None:
    rows: list[Row] = [(0, "B", "latency", S), (2, "A", "latency", S), (5, "C", "latency", S), (30, "C", "errors", S)]
    busy = calls("AB", "AC", "BD", "CD", "ED", "FD", "GD", "HD")
    assert groups(rows, busy) == [{"A", "B"}, {"C"}]


def test_a_crashed_callee_without_alerts_leaves_one_incident_at_its_callers() -> None:
    rows: list[Row] = [(0, "A", "connection errors", S), (4, "E", "connection errors", S), (6, "D", "no traffic", N)]
    assert groups(rows, calls("AB", "EB", "BD")) == [{"A", "D", "E"}]


def test_starved_callees_are_no_causes_of_their_own() -> None:
    rows: list[Row] = [(0, "A", "errors", S), (5, "B", "no traffic", N), (6, "C", "no traffic", N)]
    assert groups(rows, FORK) == [{"A", "B", "C"}]


def test_where_requests_stop_first_is_shown_when_nothing_else_happened() -> None:
    topology = calls("AB", "AC", "BD", "CD")
    missing = [signal(number, 0.0, one, "requests", N) for number, one in enumerate("DCBA")]
    rarity = {one.alert_id: 1.0 for one in missing}
    shape = Shape(topology, radius=3)
    assert most_explanatory(missing, shape, rarity).entity == "A"
    failing = signal(9, 0.0, "B", "errors", S)
    assert most_explanatory([*missing, failing], shape, {**rarity, "a9": 1.0}).entity == "B"


def test_a_surge_at_the_common_caller_explains_both_callees() -> None:
    rows: list[Row] = [
        (0, "A", "requests up", P),
        (15, "B", "latency", S),
        (18, "C", "latency", S),
        (40, "B", "errors", S),
    ]
    assert groups(rows, FORK) == [{"A", "B", "C"}]


def test_neighbours_on_a_host_join_only_when_the_host_alerts() -> None:
    apart = calls("XB", "YC", hosts=("B@H", "C@H", "X@H", "Y@H"))
    quiet: list[Row] = [(0, "B", "latency", S), (5, "C", "latency", S)]
    assert groups(quiet, apart) == [{"B"}, {"C"}]
    loud: list[Row] = [(0, "H", "disk", P), (1, "B", "latency", S), (5, "C", "latency", S)]
    assert groups(loud, apart) == [{"B", "C", "H"}]


def test_services_far_apart_are_never_joined() -> None:
    rows: list[Row] = [(0, "A", "errors", S), (0, "Z", "errors", S)]
    assert groups(rows, calls("AB", "YZ")) == [{"A"}, {"Z"}]


def test_silence_ends_an_incident() -> None:
    rows: list[Row] = [(0, "B", "errors", S), (400, "B", "latency", S)]
    assert groups(rows, FORK) == [{"B"}, {"B"}]


def test_an_incident_whose_alerts_go_on_stays_open_past_the_gap() -> None:
    kernel = DynamicXY()
    first = kernel.add(signal(0, 0, "B", "errors", S), FORK, lasting=True)
    kernel.advance(400 * NS_PER_S, FORK)
    second = kernel.add(signal(1, 500, "A", "errors", S), FORK, lasting=True)
    assert second.group == first.group
    kernel.ended("a0")
    kernel.ended("a1")
    kernel.advance(900 * NS_PER_S, FORK)
    assert kernel.add(signal(2, 901, "A", "latency", S), FORK).group != first.group


def test_an_incident_past_its_life_gets_a_linked_successor() -> None:
    kernel = DynamicXY(Rules(max_life_s=600))
    first = kernel.add(signal(0, 0, "B", "errors", S), FORK)
    last = first
    for number in range(1, 12):
        last = kernel.add(signal(number, number * 60, "B", f"errors {number}", S), FORK)
        if last.group != first.group:
            break
    assert last.group != first.group
    assert last.successor_of == first.group


def test_a_chain_of_single_links_does_not_grow_without_end() -> None:
    names = [f"s{number:02}" for number in range(24)]
    line = Topology.of([Edge(caller=one, callee=other) for one, other in pairwise(names)])
    rows: list[Row] = [(number * 2.0, name, "errors", Kind.OTHER) for number, name in enumerate(names[::3])]
    assert len(groups(rows, line)) > 1


def test_repeats_are_marked_as_flapping_and_critical_ones_never_are() -> None:
    kernel = DynamicXY()
    verdicts = [kernel.add(signal(n, n * 200, "B", "errors", S), FORK).verdict for n in range(3)]
    assert [verdict.rule if verdict else "" for verdict in verdicts] == ["", "flapping", "flapping"]
    loud = [kernel.add(signal(9 + n, 700 + n * 200, "C", "errors", S, rank=4), FORK).verdict for n in range(4)]
    assert loud == [None] * 4


def test_a_repeat_among_other_symptoms_is_not_held_back() -> None:
    kernel = DynamicXY()
    kernel.add(signal(0, 0, "B", "errors", S), FORK)
    kernel.add(signal(1, 290, "A", "errors", S), FORK)
    kernel.add(signal(2, 295, "C", "latency", S), FORK)
    assert kernel.add(signal(3, 300, "B", "errors", S), FORK).verdict is None


def test_what_always_fires_alone_becomes_habitual_until_acquitted() -> None:
    kernel = DynamicXY()
    for number in range(4):
        kernel.add(signal(number, number * 4000, "B", "errors", S), FORK)
    verdict = kernel.add(signal(5, 20_000, "B", "errors", S), FORK).verdict
    assert verdict is not None
    assert verdict.rule == "habitual"
    kernel.acquit("B/errors")
    assert kernel.add(signal(6, 30_000, "B", "errors", S), FORK).verdict is None


def test_components_are_kept_and_between_0_and_1() -> None:
    kernel = DynamicXY()
    kernel.add(signal(0, 0, "B", "errors", S), FORK)
    parts = kernel.add(signal(1, 30, "A", "errors", S), FORK).components
    assert set(parts) == {"time", "topology", "labels", "severity"}
    assert parts["topology"] == pytest.approx(0.8)
    assert all(0 <= value <= 1 for value in parts.values())


def test_a_restored_kernel_goes_on_as_if_nothing_had_happened() -> None:
    rows: list[Row] = [(0, "B", "latency", S), (2, "A", "latency", S), (5, "C", "latency", S), (20, "C", "errors", S)]
    through, broken = DynamicXY(), DynamicXY()
    for number, row in enumerate(rows):
        item = signal(number, *row)
        expected = through.add(item, FORK)
        restored = DynamicXY()
        restored.load(json.loads(json.dumps(broken.dump())))
        broken = restored
        assert broken.add(item, FORK) == expected
    assert json.dumps(broken.dump()) == json.dumps(through.dump())
