"""Charts and the propagation path as numbers."""

from __future__ import annotations

import math

import pytest

from headspring.gateway.ui.chart import chart, normal_range
from headspring.gateway.ui.graph import MAX_BOXES, draw
from headspring.knowledge.topology.graph import Edge, Topology
from headspring.proto.incident import Hypothesis


def test_a_chart_keeps_every_sample_inside_its_box() -> None:
    drawn = chart([[(time, math.sin(time) * 1e6) for time in range(50)]], width=100, height=40)
    assert drawn is not None
    points = [tuple(map(float, pair.split(","))) for line in drawn.lines for pair in line.split()]
    assert len(points) == 50
    assert all(0 <= x <= 100 and 0 <= y <= 40 for x, y in points)


def test_a_gap_in_the_samples_is_a_gap_in_the_line() -> None:
    drawn = chart([[(time, 1.0) for time in (*range(10), *range(40, 50))]])
    assert drawn is not None
    assert [len(line.split()) for line in drawn.lines] == [10, 10]


@pytest.mark.parametrize("points", [[], [(1, 1.0)], [(1, math.nan), (2, math.inf), (3, 1.0)]])
def test_too_few_samples_draw_nothing(points: list[tuple[int, float]]) -> None:
    assert chart([points]) is None


def test_the_normal_range_looks_only_at_what_came_before() -> None:
    points = [(time, 10.0) for time in range(20)] + [(time, 500.0) for time in range(20, 40)]
    found = normal_range(points, 20)
    assert found is not None
    assert found[0] < 10 < found[1] < 11
    assert normal_range(points, 3) is None


def test_the_path_runs_from_the_cause_on_the_left_to_the_impact_on_the_right() -> None:
    topology = Topology.of([Edge(caller="c", callee="b"), Edge(caller="b", callee="a"), Edge(caller="a", callee="db")])
    drawn = draw(Hypothesis(entity="a", path=("a", "b", "c")), topology, ["a", "b", "c"], ruled_out=["db"])
    assert drawn is not None
    place = {box.entity: (box.x, box.role) for box in drawn.boxes}
    assert place["db"][0] < place["a"][0] < place["b"][0] < place["c"][0]
    assert {entity: role for entity, (_, role) in place.items()} == {
        "a": "cause", "b": "path", "c": "impact", "db": "well",
    }  # fmt: skip
    assert {(arrow.source, arrow.target) for arrow in drawn.arrows if arrow.on_path} == {("a", "b"), ("b", "c")}
    assert drawn.text == "a → b → c"


def test_boxes_never_overlap_and_a_large_estate_is_counted_not_drawn() -> None:
    names = [f"s{number}" for number in range(200)]
    topology = Topology.of([Edge(caller=name, callee="s0") for name in names[1:]])
    drawn = draw(Hypothesis(entity="s0", path=("s0", "s1"), explained=tuple(names)), topology, names)
    assert drawn is not None
    assert len(drawn.boxes) <= MAX_BOXES
    assert drawn.left_out == 200 - len(drawn.boxes)
    assert len({(box.x, box.y) for box in drawn.boxes}) == len(drawn.boxes)
    assert all(box.x < drawn.width and box.y < drawn.height for box in drawn.boxes)
