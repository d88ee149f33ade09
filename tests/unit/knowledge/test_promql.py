"""The PromQL subset computes Prometheus' numbers and refuses everything else with a position.

Expected values are worked out by hand from the rules of Prometheus 2.42; `tests/real` compares thousands of
queries with the server itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from headspring.knowledge.series import promql
from headspring.knowledge.series.duckdb_store import DuckDbSeriesStore
from headspring.proto.errors import QueryError
from headspring.proto.telemetry import MetricBatch, SeriesDescriptor

S = 1_000_000_000
START_NS = 1_800_000_000 * S


class Estate:
    """A store and short ways to fill and ask it; times are seconds after the start."""

    def __init__(self) -> None:
        self.store = DuckDbSeriesStore(None)
        self._ids = 0

    def add(self, name: str, points: Sequence[tuple[float, float]], **labels: str) -> None:
        self._ids += 1
        descriptor = SeriesDescriptor(series_id=self._ids, tenant="t", name=name, labels=labels)
        self.store.write(
            MetricBatch(
                tenant="t", series_id=np.full(len(points), self._ids, np.uint64), kind=np.ones(len(points), np.uint8),
                time_ns=np.array([START_NS + round(at * S) for at, _ in points]),
                value=np.array([value for _, value in points]), new_series=(descriptor,),
            )
        )  # fmt: skip

    def at(self, second: float, query: str) -> dict[str, float]:
        found = promql.evaluate_instant(query, store=self.store, tenant="t", time_ns=START_NS + round(second * S))
        return {_text(labels): points[0][1] for labels, points in found}

    def over(self, start: float, end: float, step: float, query: str) -> dict[str, dict[float, float]]:
        found = promql.evaluate_range(
            query, store=self.store, tenant="t", start_ns=START_NS + round(start * S), end_ns=START_NS + round(end * S),
            step_ns=round(step * S),
        )  # fmt: skip
        return {
            _text(labels): {(time_ns - START_NS) / S: value for time_ns, value in points} for labels, points in found
        }


def _text(labels: dict[str, str]) -> str:
    rest = ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "__name__")
    return labels.get("__name__", "") + "{" + rest + "}"


@pytest.fixture
def estate() -> Estate:
    return Estate()


def test_a_sample_stands_for_five_minutes_borders_included(estate: Estate) -> None:
    estate.add("up", [(0, 1.0)])
    assert estate.at(0, "up") == {"up{}": 1.0}
    assert estate.at(300, "up") == {"up{}": 1.0}
    assert estate.at(300.001, "up") == {}
    assert estate.at(-0.001, "up") == {}


def test_a_stale_marker_ends_a_series_at_once(estate: Estate) -> None:
    estate.add("up", [(0, 1.0), (10, math.nan), (30, 2.0)])
    assert estate.over(0, 40, 10, "up") == {"up{}": {0.0: 1.0, 30.0: 2.0, 40.0: 2.0}}


def test_offset_looks_back_and_a_negative_one_ahead(estate: Estate) -> None:
    estate.add("load", [(0, 1.0), (60, 2.0), (120, 3.0)])
    assert estate.at(60, "load offset 1m") == {"load{}": 1.0}
    assert estate.at(60, "load offset -1m") == {"load{}": 3.0}


def test_rate_extrapolates_to_the_borders(estate: Estate) -> None:
    """Samples at 10..50 of [0, 60]: both gaps (10 s) are below 1.1 × 10 s, so the increase of 40 s counts for 60 s,
    but not beyond the counter's zero: it was 0 at 0 s exactly."""
    estate.add("hits", [(at, float(at)) for at in range(10, 60, 10)])
    assert estate.at(60, "increase(hits[1m])") == pytest.approx({"{}": 40 * 60 / 40})
    assert estate.at(60, "rate(hits[1m])") == pytest.approx({"{}": 1.0})


def test_rate_does_not_extrapolate_far_or_below_zero(estate: Estate) -> None:
    # The gap before is 40 s of an average 10 s: half the average is added; the one after is covered.
    estate.add("far", [(40, 100.0), (50, 110.0), (60, 120.0)])
    assert estate.at(60, "increase(far[1m])") == pytest.approx({"{}": 20 * 25 / 20})
    # A counter at 2 that grows by 10 in 10 s was 0 two seconds ago.
    estate.add("young", [(10, 2.0), (20, 12.0)])
    assert estate.at(20, "increase(young[20s])") == pytest.approx({"{}": 10 * 12 / 10})
    assert estate.at(20, "delta(young[20s])") == pytest.approx({"{}": 10 * 20 / 10 if 10 < 11 else 0})


def test_rate_adds_up_over_resets_and_needs_two_samples(estate: Estate) -> None:
    estate.add("hits", [(0, 10.0), (10, 20.0), (20, 5.0), (30, 8.0)])
    assert estate.at(30, "increase(hits[30s])") == pytest.approx({"{}": 10 + 5 + 3})
    assert estate.at(30, "irate(hits[30s])") == pytest.approx({"{}": 0.3})
    assert estate.at(20, "irate(hits[30s])") == pytest.approx({"{}": 0.5})
    assert estate.at(30, "rate(hits[9s])") == {}


def test_windows_are_closed_at_both_ends(estate: Estate) -> None:
    estate.add("load", [(0, 4.0), (30, 1.0), (60, 7.0)])
    assert estate.at(60, "count_over_time(load[1m])") == {"{}": 3.0}
    assert estate.at(60, "sum_over_time(load[1m])") == {"{}": 12.0}
    assert estate.at(60, "avg_over_time(load[1m])") == {"{}": 4.0}
    assert estate.at(60, "min_over_time(load[59s])") == {"{}": 1.0}
    assert estate.at(60, "max_over_time(load[1m])") == {"{}": 7.0}
    assert estate.at(60, "last_over_time(load[1m])") == {"load{}": 7.0}
    assert estate.at(60, "quantile_over_time(0.75, load[1m])") == {"{}": 5.5}
    assert estate.at(400, "count_over_time(load[1m])") == {}


def test_aggregations_group_by_and_without(estate: Estate) -> None:
    for zone, pod, value in (("a", "1", 1.0), ("a", "2", 3.0), ("b", "3", 5.0)):
        estate.add("load", [(0, value)], zone=zone, pod=pod)
    assert estate.at(0, "sum(load)") == {"{}": 9.0}
    assert estate.at(0, "avg by (zone) (load)") == {"{zone=a}": 2.0, "{zone=b}": 5.0}
    assert estate.at(0, "max without (pod) (load)") == {"{zone=a}": 3.0, "{zone=b}": 5.0}
    assert estate.at(0, "count by (nowhere) (load)") == {"{}": 3.0}
    assert list(estate.at(0, "topk(2, load)")) == ["load{pod=3,zone=b}", "load{pod=2,zone=a}"]
    assert set(estate.at(0, "bottomk by (zone) (1, load)")) == {"load{pod=1,zone=a}", "load{pod=3,zone=b}"}
    assert estate.at(0, "sum(absent)") == {}


def test_vectors_match_one_to_one(estate: Estate) -> None:
    for zone, value in (("a", 1.0), ("b", 3.0)):
        estate.add("load", [(0, value)], zone=zone)
        estate.add("limit", [(0, 2.0)], zone=zone, kind="soft")
    assert estate.at(0, "load / on(zone) limit") == {"{zone=a}": 0.5, "{zone=b}": 1.5}
    assert estate.at(0, "load / ignoring(kind) limit") == {"{zone=a}": 0.5, "{zone=b}": 1.5}
    assert estate.at(0, "load / limit") == {}
    assert estate.at(0, "load > on(zone) limit") == {"{zone=b}": 3.0}
    assert estate.at(0, "load > ignoring(kind) limit") == {"load{zone=b}": 3.0}
    assert estate.at(0, "load > bool on(zone) limit") == {"{zone=a}": 0.0, "{zone=b}": 1.0}
    with pytest.raises(QueryError, match="duplicate series"):
        estate.at(0, "load / on(kind) limit")


def test_scalars_filter_and_compute(estate: Estate) -> None:
    estate.add("load", [(0, 4.0)])
    assert estate.at(0, "load > 3") == {"load{}": 4.0}
    assert estate.at(0, "3 > load") == {}
    assert estate.at(0, "5 > load") == {"load{}": 4.0}
    assert estate.at(0, "load > bool 5") == {"{}": 0.0}
    assert estate.at(0, "-load ^ 2") == {"{}": -16.0}
    assert estate.at(0, "load / 0") == {"{}": math.inf}
    assert estate.at(0, "-7 % 4") == {"{}": -3.0}
    assert estate.at(0, "clamp_max(abs(0 - load), 3)") == {"{}": 3.0}
    assert estate.at(0, "clamp(load, 5, 1)") == {}


def test_histogram_quantile_is_linear_within_a_bucket(estate: Estate) -> None:
    for bound, count in (("0.1", 10.0), ("0.5", 30.0), ("+Inf", 40.0)):
        estate.add("lat_bucket", [(0, count)], le=bound, zone="a")
    assert estate.at(0, "histogram_quantile(0.5, lat_bucket)") == pytest.approx({"{zone=a}": 0.1 + 0.4 * 10 / 20})
    assert estate.at(0, "histogram_quantile(0.99, lat_bucket)") == {"{zone=a}": 0.5}
    assert estate.at(0, "histogram_quantile(0.125, lat_bucket)") == pytest.approx({"{zone=a}": 0.05})
    assert math.isnan(estate.at(0, 'histogram_quantile(0.5, lat_bucket{le!="+Inf"})')["{zone=a}"])


def test_names_and_labels_with_dots_are_spelt_for_promql(estate: Estate) -> None:
    estate.add("http.server.duration", [(0, 1.0)], **{"http.method": "GET"})
    assert estate.at(0, 'http_server_duration{http_method="GET"}') == {"http_server_duration{http_method=GET}": 1.0}


def test_series_that_promql_cannot_tell_apart_are_both_shown(estate: Estate) -> None:
    estate.add("a.b", [(0, 1.0)])
    estate.add("a_b", [(0, 2.0)])
    assert sorted(estate.at(0, "a_b").values()) == [1.0, 2.0]
    assert estate.at(0, "sum(a_b)") == {"{}": 3.0}


def test_a_range_selector_returns_raw_samples(estate: Estate) -> None:
    estate.add("load", [(0, 1.0), (10, math.nan), (20, 2.0)])
    found = promql.evaluate_instant("load[20s]", store=estate.store, tenant="t", time_ns=START_NS + 20 * S)
    assert found == [({"__name__": "load"}, [(START_NS, 1.0), (START_NS + 20 * S, 2.0)])]
    assert promql.is_range_selector("(load[20s])")
    assert not promql.is_range_selector("rate(load[20s])")


@pytest.mark.parametrize(
    ("query", "position"),
    [
        ("load + on(a) group_left load", 13),
        ("max_over_time(load[5m:1m])", 18),
        ("1 + sum(load[5m])", 4),
        ("1 + (load @ 5)", 10),
        ('load{x="and"} and load', 14),
        ("rate(load[5m]) + holt_winters(load[5m], 0.1, 0.1)", 17),
        ("stddev(load)", 0),
        ("2 * nosuch(load)", 4),
        ("sum(", 3),
        ("load)", 4),
        ("load{", 4),
        ("1 > 2", 2),
        ('label_replace(load, "a", "b", "c", "d")', 0),
        ("load atan2 load", 5),
        ('load{x=~"("}', 8),
        ("(" * 200 + "1" + ")" * 200, 64),
        ("", 0),
    ],
)
def test_what_is_outside_the_subset_is_refused_with_its_position(estate: Estate, query: str, position: int) -> None:
    estate.add("load", [(0, 1.0)], x="y")
    with pytest.raises(QueryError) as caught:
        estate.at(0, query)
    assert caught.value.position == position


def test_limits_refuse_what_is_too_much(estate: Estate) -> None:
    estate.add("load", [(0, 1.0)])
    assert len(estate.over(0, 10_999, 1, "vector(1)")["{}"]) == 11_000
    for bad in (lambda: estate.over(0, 11_000, 1, "load"), lambda: estate.over(0, -1, 1, "load"),
                lambda: estate.at(0, "load + " * 1000 + "load"), lambda: estate.over(0, 1, 1, "load[5m]")):  # fmt: skip
        with pytest.raises(QueryError):
            bad()


def test_every_function_named_in_the_subset_can_be_asked(estate: Estate) -> None:
    from headspring.knowledge.series.promql import syntax

    estate.add("load", [(0, 1.0), (10, 2.0)], le="+Inf")
    for name in syntax.RANGE_FUNCTIONS:
        first = "0.5, " if name == "quantile_over_time" else ""
        assert len(estate.at(10, f"{name}({first}load[1m])")) == 1, name
    more = {"clamp": ", 0, 1", "clamp_min": ", 0", "clamp_max": ", 0"}
    for name in syntax.ELEMENT_FUNCTIONS:
        assert len(estate.at(10, f"{name}(load{more.get(name, '')})")) == 1, name
    for name in syntax.OTHER_FUNCTIONS | syntax.AGGREGATIONS | syntax.RANGE_FUNCTIONS | syntax.ELEMENT_FUNCTIONS:
        assert name in promql.SUBSET
