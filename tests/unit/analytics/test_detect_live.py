"""Detection over simulated services: quiet when well, quick when not, the same after a restart."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.analytics.test_detect_world import Fault, World

from headspring.proto import semantics
from headspring.proto.detection import Alert, AlertStatus, Direction, Severity

BEGINS_S = 45.0
"""Baseline before each fault."""
LATENCIES = (semantics.SERVICE_LATENCY_MEAN, semantics.SERVICE_LATENCY_P95, semantics.SERVICE_SELF_TIME_MEAN)
FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "delay": ({"delay_s": 0.4}, LATENCIES),
    "errors": ({"errors": 0.4}, (semantics.SERVICE_ERROR_RATIO,)),
    "crash": ({"share": 0.0}, (semantics.SERVICE_REQUEST_RATE,)),
}
SEEDS = range(6)


@pytest.mark.parametrize("rates", [(10.0, 30.0), (0.3, 3.0)])
@pytest.mark.parametrize("seed", range(10))
async def test_ten_minutes_of_eight_healthy_services_give_no_alert(seed: int, rates: tuple[float, float]) -> None:
    world = World(seed=seed, rates=rates)
    await world.run(600)
    assert [alert.summary for alert in world.alerts] == []
    scores = world.detect.health_scores("default")
    assert {float(health) for health in scores.values()} == {1.0}
    assert len(scores) == 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", list(FAULTS))
async def test_a_fault_is_told_within_eight_seconds_and_its_end_within_forty(kind: str, seed: int) -> None:
    how, metrics = FAULTS[kind]
    where, begins_s = seed, BEGINS_S + 0.37 * seed
    fault = Fault(where=where, begins_s=begins_s, ends_s=begins_s + 60, **how)
    world = World(seed=100 + seed, faults=[fault])
    await world.run(fault.ends_s + 45)
    assert begins_s < world.first_s(where, metrics) <= begins_s + 8
    assert {alert.entity for alert in world.alerts} == {f"service:default/svc-{where}"}
    assert {alert.metric for alert in world.alerts} <= set(metrics)
    last = {alert.alert_id: (alert.status, at) for at, alert in zip(world.seen_s, world.alerts, strict=True)}
    assert all(status is AlertStatus.RESOLVED and at <= fault.ends_s + 40 for status, at in last.values())
    assert len(last) == len({alert.metric for alert in world.alerts}), "one episode each"


async def test_the_three_signals_fire_as_long_as_the_fault_lasts_and_health_says_why() -> None:
    world = World(seed=3, faults=[Fault(where=2, begins_s=BEGINS_S, delay_s=0.4)])
    await world.run(BEGINS_S + 100)
    fired = [alert for alert in world.alerts if alert.metric == semantics.SERVICE_LATENCY_MEAN]
    assert all(alert.status is AlertStatus.FIRING for alert in fired)
    assert 4 <= len(fired) <= 6, "told at once, again each half minute, and when it gets worse"
    assert len({alert.alert_id for alert in fired}) == 1
    first = fired[0]
    assert first.direction is Direction.UP
    assert first.severity.rank >= Severity.ERROR.rank
    assert first.score > 1
    assert first.value > first.expected_high > first.expected_low
    assert first.labels == {"service": "svc-2"}
    assert first.starts_ns <= first.updated_ns
    assert "mean latency is" in first.summary
    assert "expected" in first.summary
    health = world.detect.health_scores("default")
    assert health["service:default/svc-2"].score < 0.5
    assert any("mean latency" in reason for reason in health["service:default/svc-2"].reasons)
    assert health["service:default/svc-1"].score == 1.0


async def test_nothing_is_said_before_a_series_was_watched_for_long_enough() -> None:
    world = World(seed=1, faults=[Fault(where=0, begins_s=20, errors=0.9, delay_s=1.0)])
    await world.run(38)
    assert world.alerts == []


@pytest.mark.parametrize("restart_s", [2.0, 4.0, 10.0])
async def test_a_restart_in_the_middle_of_a_fault_changes_no_alert(restart_s: float) -> None:
    def world() -> World:
        return World(seed=5, faults=[Fault(where=1, begins_s=BEGINS_S, ends_s=BEGINS_S + 30, delay_s=0.4)])

    one, other = world(), world()
    await one.run(BEGINS_S + 60)
    await other.run(BEGINS_S + restart_s)
    other.restart()
    await other.run(60 - restart_s)
    assert one.alerts
    assert [key(alert) for alert in one.alerts] == [key(alert) for alert in other.alerts]


def key(alert: Alert) -> tuple[object, ...]:
    return alert.alert_id, alert.status, alert.severity, alert.score, alert.value, alert.expected_high


async def test_a_service_that_reports_no_more_has_no_data_until_it_reports_again() -> None:
    world = World(seed=7)
    await world.run(80)
    world.faults.append(Fault(where=0, begins_s=80, ends_s=120, share=1.0))
    rate = world.series(0, semantics.SERVICE_REQUEST_RATE).series_id
    silenced = {"on": True}
    original = world.bucket
    world.bucket = lambda place: {} if silenced["on"] and place == 0 else original(place)  # type: ignore[method-assign]
    await world.run(40)
    (alert,) = {item.alert_id: item for item in world.alerts}.values()
    assert alert.series_id == rate
    assert alert.name == "no data"
    assert alert.direction is Direction.ABSENT
    assert 95 <= world.seen_s[0] <= 105
    silenced["on"] = False
    await world.run(40)
    assert world.alerts[-1].status is AlertStatus.RESOLVED
    assert world.alerts[-1].alert_id == alert.alert_id


async def test_when_everything_stops_nothing_is_said_as_the_pipe_is_what_broke() -> None:
    world = World(seed=7)
    await world.run(80)
    world.bucket = lambda place: {}  # type: ignore[method-assign]
    await world.run(120)
    assert world.alerts == []


@pytest.mark.parametrize("away_s", [2.0, 300.0])
async def test_services_that_are_silent_right_after_a_restart_get_time_to_come_back(away_s: float) -> None:
    world = World(seed=4)
    await world.run(300)
    world.clock.advance(away_s)  # the platform was away; so are its senders, for another while
    world.detect.restore(world.detect.snapshot())
    world.faults = [Fault(where=place, begins_s=300, ends_s=350, share=0.0) for place in range(world.services)]
    world.faults += [Fault(where=0, begins_s=350, share=0.0)]
    await world.run(50)
    assert world.alerts == []
    await world.run(30)
    assert {alert.entity for alert in world.alerts} == {"service:default/svc-0"}, "the one that did not come back"


async def test_three_times_the_usual_requests_are_a_warning() -> None:
    world = World(seed=9)
    await world.run(90)
    world.rate[4] *= 5
    await world.run(30)
    assert {(alert.name, alert.severity) for alert in world.alerts} == {("traffic high", Severity.WARNING)}


async def test_a_latency_that_stays_for_half_an_hour_is_the_usual_one() -> None:
    world = World(seed=11, services=1, faults=[Fault(where=0, begins_s=90, delay_s=0.4)])
    await world.run(90 + 1950)
    assert world.alerts[-1].status is AlertStatus.RESOLVED
    before = len(world.alerts)
    await world.run(300)
    assert len(world.alerts) == before
