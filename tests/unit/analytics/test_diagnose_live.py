"""Faults in simulated estates, from spans to the published diagnosis, through real stores."""

from __future__ import annotations

import pytest
from tests.unit.analytics.test_diagnose_world import START_NS, Estate, Fault, World, service, told

from headspring.proto.incident import CauseKind, DiagnosisStatus
from headspring.proto.telemetry import Change, ChangeKind

FAULT_S = 50.0
ALERT_S = FAULT_S + 6
SEEDS = (1, 2, 3, 4, 5)


def pick(world: World, seed: int) -> str:
    """A service that somebody calls, another one for each seed."""
    names = [name for name in world.calls if name != world.root]
    return names[seed % len(names)]


async def watched(world: World, seconds: float = 14.0) -> Estate:
    estate = Estate(world)
    await estate.run(FAULT_S + seconds)
    return estate


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_delay_inside_a_service_is_blamed_on_it_and_not_on_its_callers(seed: int) -> None:
    world = World.drawn(seed)
    where = pick(world, seed)
    world.faults.append(Fault(where=where, at_s=FAULT_S, delay_ms=300))
    estate = await watched(world)
    found = await estate.diagnosed(estate.incident(world.chain(where), at_s=ALERT_S))
    best = found.hypotheses[0]
    assert best.entity == service(where), told(found)
    assert best.kind is CauseKind.LATENCY
    assert best.status is not DiagnosisStatus.INCONCLUSIVE, told(found)
    assert best.path[0] == service(where)


@pytest.mark.parametrize("seed", SEEDS)
async def test_errors_inside_a_service_are_blamed_on_it(seed: int) -> None:
    world = World.drawn(seed + 10)
    where = pick(world, seed)
    world.faults.append(Fault(where=where, at_s=FAULT_S, errors=0.6))
    estate = await watched(world)
    found = await estate.diagnosed(estate.incident(world.chain(where), at_s=ALERT_S))
    best = found.hypotheses[0]
    assert best.entity == service(where), told(found)
    assert best.kind is CauseKind.ERRORS
    assert any(e.kind == "trace" for e in best.evidence)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alert_on_dead", [True, False])
async def test_a_killed_process_is_blamed_though_it_says_nothing(seed: int, alert_on_dead: bool) -> None:
    world = World.drawn(seed + 20)
    where = pick(world, seed)
    world.faults.append(Fault(where=where, at_s=FAULT_S, dead=True))
    estate = await watched(world)
    chain = world.chain(where)
    found = await estate.diagnosed(estate.incident(chain if alert_on_dead else chain[:-1], at_s=ALERT_S))
    best = found.hypotheses[0]
    assert best.entity == service(where), told(found)
    assert best.kind is CauseKind.CRASH, told(found)
    assert best.path[0] == service(where)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_bad_deploy_is_named_with_its_change(seed: int) -> None:
    world = World.drawn(seed + 30)
    where = pick(world, seed)
    innocent = next(name for name in world.calls if name not in (where, world.root))
    world.faults.append(Fault(where=where, at_s=FAULT_S, errors=0.4, delay_ms=150))
    estate = await watched(world)
    for name, at_s in ((where, FAULT_S - 3), (innocent, FAULT_S - 1)):
        estate.documents.put_change(
            Change(
                change_id=f"ch-{name}",
                tenant="default",
                entity=service(name),
                kind=ChangeKind.DEPLOY,
                time_ns=START_NS + int(at_s * 1e9),
                version="v2",
            )
        )
    found = await estate.diagnosed(estate.incident(world.chain(where), at_s=ALERT_S))
    best = found.hypotheses[0]
    assert best.entity == service(where), told(found)
    assert best.change_id == f"ch-{where}"


async def test_a_recent_deploy_alone_is_not_blamed() -> None:
    world = World.drawn(41)
    chain = world.chain(pick(world, 5))
    where = chain[-1]
    innocent = next(name for name in world.calls if name not in chain)
    world.faults.append(Fault(where=where, at_s=FAULT_S, delay_ms=200))
    estate = await watched(world)
    estate.documents.put_change(
        Change(
            change_id="ch-1",
            tenant="default",
            entity=service(innocent),
            kind=ChangeKind.DEPLOY,
            time_ns=START_NS + int((FAULT_S - 1) * 1e9),
        )
    )
    found = await estate.diagnosed(estate.incident(chain, at_s=ALERT_S))
    assert found.hypotheses[0].entity == service(where), told(found)
    assert not any(one.change_id for one in found.hypotheses[:1])


async def test_two_incidents_at_once_get_a_cause_each() -> None:
    world = World(calls={"amber": ["birch", "cedar"], "birch": ["delta"], "cedar": ["ember"], "delta": [], "ember": []})
    world.faults += [Fault(where="delta", at_s=FAULT_S, delay_ms=250), Fault(where="ember", at_s=FAULT_S, errors=0.5)]
    estate = await watched(world)
    first = await estate.diagnosed(estate.incident(["delta", "birch"], at_s=ALERT_S, number=1))
    second = await estate.diagnosed(estate.incident(["ember", "cedar"], at_s=ALERT_S, number=2))
    assert first.hypotheses[0].entity == service("delta"), told(first)
    assert second.hypotheses[0].entity == service("ember"), told(second)


async def test_metric_evidence_carries_a_query_that_finds_its_series() -> None:
    world = World.drawn(7)
    where = pick(world, 3)
    world.faults.append(Fault(where=where, at_s=FAULT_S, delay_ms=300))
    estate = await watched(world)
    found = await estate.diagnosed(estate.incident(world.chain(where), at_s=ALERT_S))
    queries = [e.query for e in found.hypotheses[0].evidence if e.kind == "metric"]
    assert f'service_self_time_mean_seconds{{service="{where}"}}' in queries, told(found)


@pytest.mark.parametrize("seed", SEEDS)
async def test_when_nobody_asks_any_more_no_service_is_blamed(seed: int) -> None:
    world = World.drawn(seed + 60)
    estate = await watched(world, seconds=0.0)
    world.per_s = 0.001
    await estate.run(14.0)
    found = await estate.diagnosed(estate.incident(list(world.calls), at_s=ALERT_S))
    assert found.none, told(found)
    assert found.status is DiagnosisStatus.INCONCLUSIVE
    assert f"nothing asks {world.root} any more" in found.would_settle
