"""Listeners get what happens; one that comes back gets what it missed, or is told to reload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headspring.gateway.events import RING, Event, Events


async def _take(source: AsyncIterator[Event], count: int) -> list[Event]:
    return [await asyncio.wait_for(anext(source), timeout=1.0) for _ in range(count)]


def _publish(events: Events, count: int, *, tenant: str = "default") -> None:
    for number in range(count):
        events.publish(kind="incident", tenant=tenant, incident_id=f"inc-{number}")


async def test_a_listener_that_returns_gets_exactly_what_it_missed() -> None:
    events = Events()
    _publish(events, 10)
    got = await _take(events.listen("default", after=4), 6)
    assert [event.id for event in got] == [5, 6, 7, 8, 9, 10]


async def test_other_tenants_events_are_not_seen() -> None:
    events = Events()
    _publish(events, 3, tenant="other")
    _publish(events, 1)
    got = await _take(events.listen("default", after=0), 1)
    assert got[0].tenant == "default"


async def test_a_gap_that_the_ring_cannot_fill_says_reload() -> None:
    events = Events()
    _publish(events, RING + 10)
    assert (await _take(events.listen("default", after=1), 1))[0].kind == "reload"


async def test_an_id_from_before_a_restart_says_reload() -> None:
    events = Events()
    _publish(events, 3)
    assert (await _take(events.listen("default", after=500), 1))[0].kind == "reload"


async def test_a_listener_that_falls_behind_is_told_to_reload_and_costs_bounded_memory() -> None:
    events = Events()
    source = events.listen("default")
    first = asyncio.ensure_future(anext(source))
    await asyncio.sleep(0)
    _publish(events, 1)
    await first
    _publish(events, 1200)
    got = await _take(source, 1)
    kinds = {got[0].kind}
    while "reload" not in kinds:
        kinds.add((await _take(source, 1))[0].kind)
