"""Plays a recording to a line of stages, second after second on a clock of its own, and tells what came out.

A step is one second of the recording: what came in is appended, and everything that follows from it is awaited; then
time moves on for one stage after the other, in the order of the flow, each when all that the one before it said has
been taken. Whatever engines, logs and stores a line is made of, its stages see the same things in the same order, so
that what they say must be the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from tests.equality.recording import Played

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.detection import Alert, FeatureBatch
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Incident
from headspring.proto.topics import ALERTS, DIAGNOSES, FEATURES, INCIDENTS, METRICS
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import EventLog, Record

COLUMNS = ("count", "mean", "std", "minimum", "maximum", "first", "last", "recent_mean", "recent_count")
_SAID = (METRICS, FEATURES, ALERTS, INCIDENTS, DIAGNOSES)
_PATIENCE_S = 120.0
_LOOK_S = 0.002


class Engine(Protocol):
    async def start(self) -> None: ...
    async def stop(self, *, drain_s: float = 2.0) -> None: ...
    async def drain(self, timeout_s: float) -> bool: ...


class Counted:
    """A stage that says whether it runs and how often it ticked."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self.ticks = 0
        self.runs = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def restore(self, state: bytes) -> None:
        self._stage.restore(state)
        self.runs = True

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        out: Sequence[Outgoing] = await self._stage.tick(now_ns)
        self.ticks += 1
        return out


@dataclass(slots=True)
class Turn:
    """Stages whose time moves on together, and the engines that run them."""

    clock: ManualClock
    engines: list[Engine] = field(default_factory=list)
    stages: list[Counted] = field(default_factory=list)

    def counted(self, stage: Any) -> Any:
        self.stages.append(Counted(stage))
        return self.stages[-1]

    def awake(self) -> int:
        """Stages that do not wait for their next tick."""
        asleep = sum(not future.done() for _, future in self.clock._sleepers)
        return sum(1 for stage in self.stages if stage.runs and stage.tick_s > 0) - asleep

    async def second(self) -> None:
        await until(lambda: self.awake() <= 0, "every stage waits for its tick")
        before = [(stage, stage.ticks) for stage in self.stages if stage.runs and 0 < stage.tick_s <= 1.0]
        self.clock.advance(1.0)
        await until(lambda: all(stage.ticks > ticks for stage, ticks in before), "every stage has ticked")
        await until(lambda: self.awake() <= 0, "what the ticks said is written")


@dataclass(slots=True)
class Line:
    """One shape of the platform, from telemetry to diagnoses."""

    log: EventLog
    turns: Sequence[Turn]
    """In the order of the flow."""
    settled: Callable[[], Awaitable[None]] | None = None
    """Waits until stores show what was written: telemetry before its features come, all before the last turn."""
    ready: Callable[[], bool] | None = None
    """Whether every engine has its share of the work."""

    async def drain(self) -> None:
        """Waits until everything that was said has been taken, and all that was said to that."""
        engines = [engine for turn in self.turns for engine in turn.engines]
        while True:
            said = await self.said()
            assert all(await asyncio.gather(*(engine.drain(_PATIENCE_S) for engine in engines))), "a stage is stuck"
            if await self.said() == said:
                return

    async def said(self) -> list[Mapping[int, int]]:
        """How much stages have said."""
        return list(await asyncio.gather(*(self.log.end_offsets(topic.name) for topic in _SAID)))


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {_PATIENCE_S:.0f} s: {what}")
        await asyncio.sleep(_LOOK_S)


async def play(
    line: Line, recording: Sequence[Played], *, end_ns: int, say: Callable[[str], None] | None = None
) -> None:
    """
    Args:
        end_ns: When to stop; what is recorded for later is left out.
    """
    clock = line.turns[0].clock
    first_ns = clock.now_ns()
    place = 0
    for turn in line.turns:
        for engine in turn.engines:
            await engine.start()
    if line.ready is not None:
        await until(line.ready, "every engine has its share")
    while clock.now_ns() < end_ns:
        due: dict[str, list[Record]] = {}
        while place < len(recording) and recording[place][1].time_ns < clock.now_ns() + NS_PER_S:
            topic, record = recording[place]
            due.setdefault(topic, []).append(record)
            place += 1
        # What others made of telemetry comes after it, and after what was said to it: series are described by then.
        features = due.pop(FEATURES.name, [])
        for topic, records in due.items():
            await line.log.append(topic, records)
        await line.drain()
        if line.settled is not None:  # features may lead to a diagnosis at once
            await line.settled()
        if features:
            await line.log.append(FEATURES.name, features)
            await line.drain()
        for turn in line.turns:
            if turn is line.turns[-1] and line.settled is not None:
                await line.settled()
            before = await line.said()
            await turn.second()
            if await line.said() != before:
                await line.drain()
        played_s = (clock.now_ns() - first_ns) // NS_PER_S
        if say is not None and played_s % 60 == 0:
            say(f"{played_s} s played")


@dataclass(slots=True)
class Answers:
    """What a line said, in a form that does not depend on the order of what has none."""

    features: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)
    """Series and time of its newest sample → features, as told last."""
    looks: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of the same, the second in which they were told last."""
    alerts: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """By id, what was said one after another."""
    incidents: dict[str, Any] = field(default_factory=dict)
    """By when it opened and its first alert, as it was in the end."""
    diagnoses: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """By incident, each version."""


async def answers(log: EventLog) -> Answers:
    found = Answers()
    for record in await everything(log, FEATURES.name):
        batch = codec.decode(FeatureBatch, record.value)
        columns = [getattr(batch, name).tolist() for name in COLUMNS]
        for series, last_ns, *numbers in zip(
            batch.series_id.tolist(), batch.last_time_ns.tolist(), *columns, strict=True
        ):
            found.features[series, last_ns] = tuple(map(float, numbers))
            found.looks[series, last_ns] = -(-record.time_ns // NS_PER_S)
    for record in await everything(log, ALERTS.name):
        alert = codec.decode(Alert, record.value)
        found.alerts.setdefault(alert.alert_id, []).append(
            (alert.status.value, alert.entity, alert.name, alert.severity.value, alert.starts_ns, alert.ends_ns)
        )
    names: dict[str, str] = {}
    latest = {
        incident.incident_id: incident
        for incident in (codec.decode(Incident, record.value) for record in await everything(log, INCIDENTS.name))
    }
    for incident in latest.values():
        # The id comes from the alert that was there first, which may be any of those of one second.
        first = min((member.alert.alert_id for member in incident.members), default=incident.title)
        name = names[incident.incident_id] = f"{incident.opened_ns}/{first}"
        found.incidents[name] = (
            incident.state.value, incident.title, incident.severity.value, incident.opened_ns, incident.resolved_ns,
            sorted(incident.entities),
            sorted((member.alert.alert_id, member.representative, member.suppressed) for member in incident.members),
        )  # fmt: skip
    for record in await everything(log, DIAGNOSES.name):
        diagnosis = codec.decode(Diagnosis, record.value)
        found.diagnoses.setdefault(names[diagnosis.incident_id], []).append(
            (
                diagnosis.version, diagnosis.created_ns, diagnosis.status.value, diagnosis.none,
                tuple((one.entity, one.kind.value, one.status.value, round(one.probability, 6), one.change_id)
                      for one in diagnosis.hypotheses),
            )
        )  # fmt: skip
    return found


async def everything(log: EventLog, topic: str) -> list[Record]:
    consumer = await log.consumer(topic, "equality")
    found: list[Record] = []
    try:
        count = sum((await log.end_offsets(topic)).values())
        while consumer.lag() > 0 or len(found) < count:
            polled = await consumer.poll(max_records=2000, max_wait_s=1.0)
            if not polled and consumer.lag() <= 0:
                break
            found += [stored.record for stored in polled]
    finally:
        await consumer.close()
    return found


def differences(found: Answers, wanted: Answers, *, exact: bool = True, most: int = 5) -> list[str]:
    """In words; empty where all is the same, numbers to 1e-9 of themselves.

    Args:
        exact: False where alerts of one second may come in another order, so that a first look may see a part of them:
            diagnoses then are the same when they commit themselves to the same, hypotheses without commitment aside.
    """
    wrong = _features(found.features, wanted.features, most)
    # A stage's first look at a partition may come with the next second: its object is made when records are there.
    other = [place for place, second in wanted.looks.items() if abs(found.looks.get(place, second) - second) > 1]
    wrong += [
        f"{len(other)} feature rows were told in another second: "
        f"{[(place, found.looks[place] - wanted.looks[place]) for place in other[:most]]}"
    ] * bool(other)
    for kind in ("alerts", "incidents", "diagnoses"):
        have, want = getattr(found, kind), getattr(wanted, kind)
        if kind == "diagnoses" and not exact:
            have, want = ({name: _committed(versions) for name, versions in of.items()} for of in (have, want))
        missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
        wrong += [f"{len(missing)} of {len(want)} {kind} miss: {[(one, want[one]) for one in missing[:most]]}"] * bool(
            missing
        )
        wrong += [f"{len(extra)} {kind} too many: {[(one, have[one]) for one in extra[:most]]}"] * bool(extra)
        other = [key for key in have.keys() & want.keys() if have[key] != want[key]]
        wrong += [f"{kind} {key}: {have[key]}, wanted {want[key]}" for key in other[:most]]
        wrong += [f"{len(other)} of {len(want)} {kind} differ"] * bool(other)
    return wrong


def _committed(versions: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What the versions of a diagnosis commit themselves to, one after another, told once each."""
    sure = (DiagnosisStatus.LIKELY.value, DiagnosisStatus.CONFIRMED.value)
    told: list[tuple[Any, ...]] = []
    for _version, _created_ns, status, none, hypotheses in versions:
        causes = tuple((one[0], one[1], one[2], one[4]) for one in hypotheses if one[2] in sure)
        if not told or told[-1] != (status, none, causes):
            told.append((status, none, causes))
    return told


def _features(
    have: Mapping[tuple[int, int], tuple[float, ...]], want: Mapping[tuple[int, int], tuple[float, ...]], most: int
) -> list[str]:
    missing, extra = want.keys() - have.keys(), have.keys() - want.keys()
    wrong = [f"{len(missing)} of {len(want)} feature rows miss: {sorted(missing)[:most]}"] * bool(missing)
    wrong += [f"{len(extra)} feature rows too many: {sorted(extra)[:most]}"] * bool(extra)
    places = sorted(have.keys() & want.keys())
    if not places:
        return [*wrong, "no feature row is there"]
    left, right = (np.array([rows[place] for place in places]) for rows in (have, want))
    same = np.isclose(left, right, rtol=1e-9, atol=1e-9, equal_nan=True)
    wrong += [
        f"{COLUMNS[j]} of {places[i]} is {left[i, j]!r}, wanted {right[i, j]!r}" for i, j in np.argwhere(~same)[:most]
    ]
    return wrong
