"""Where diagnoses become proposals: reads incidents and diagnoses, asks the service for a run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from headspring.action.service import ActionService
from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Incident, IncidentState
from headspring.proto.topics import DIAGNOSES, INCIDENTS
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

_STOOD_NS = {DiagnosisStatus.CONFIRMED: round(3.5 * NS_PER_S)}
"""A cause, of one kind and by one change, must have stood for so long before anybody is asked to act on it: the first
seconds of an incident are when the evidence still comes in. A confirmed one has then been looked at twice."""
_STOOD_OTHERWISE_NS = 5 * NS_PER_S
_T = TypeVar("_T")
_Key = tuple[str, str]
"""Tenant, incident id."""
_REMEMBERED = 2000
"""Open incidents kept in memory; more at once is no longer a matter of runbooks."""


class ActStage:
    """A stage without outputs of its own: the service publishes what it does, durably, in its own order."""

    name = "action.plan"
    inputs = (INCIDENTS.name, DIAGNOSES.name)
    tick_s = 1.0

    def __init__(self, service: ActionService, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._incidents: OrderedDict[_Key, Incident] = OrderedDict()
        self._diagnoses: OrderedDict[_Key, Diagnosis] = OrderedDict()
        self._since: dict[_Key, tuple[tuple[str, str, str], int]] = {}
        """What a diagnosis blames, and since when."""
        self._due: set[_Key] = set()

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        for stored in records:
            if not stored.record.value:
                continue
            if topic == INCIDENTS.name:
                incident = codec.decode(Incident, stored.record.value)
                key = (incident.tenant, incident.incident_id)
                if incident.state in (IncidentState.RESOLVED, IncidentState.MERGED):
                    self._forget(key)
                    await asyncio.to_thread(
                        self._service.withdraw, incident.incident_id, f"the incident is {incident.state}"
                    )
                    continue
                _remember(self._incidents, key, incident)
            else:
                diagnosis = codec.decode(Diagnosis, stored.record.value)
                key = (diagnosis.tenant, diagnosis.incident_id)
                _remember(self._diagnoses, key, diagnosis)
                if key not in self._since or self._since[key][0] != _blamed(diagnosis):
                    self._since[key] = (_blamed(diagnosis), self._clock.now_ns())
                self._due.add(key)
        await self._propose(self._clock.now_ns())
        return ()

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        await asyncio.to_thread(self._service.expire)
        await self._propose(now_ns)
        return ()

    async def _propose(self, now_ns: int) -> None:
        for key in sorted(self._due):
            incident, diagnosis = self._incidents.get(key), self._diagnoses.get(key)
            if incident is None or diagnosis is None:
                continue  # the other half comes on its own topic
            stood_ns = now_ns - self._since[key][1]
            if stood_ns < _STOOD_NS.get(diagnosis.status, _STOOD_OTHERWISE_NS):
                continue
            # While a run acts on the incident nothing else is asked for; what is due then is due afterwards.
            if not await asyncio.to_thread(self._service.acting_on, incident.incident_id):
                self._due.discard(key)
                await asyncio.to_thread(self._service.propose, incident, diagnosis)

    def _forget(self, key: _Key) -> None:
        self._incidents.pop(key, None)
        self._diagnoses.pop(key, None)
        self._since.pop(key, None)
        self._due.discard(key)

    def snapshot(self) -> bytes:
        """What is open and diagnosed, so that a restart goes on asking where it stopped."""
        parts = [codec.encode(item) for item in (*self._incidents.values(), *self._diagnoses.values())]
        counts = len(self._incidents).to_bytes(4, "little")
        return counts + b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    def restore(self, state: bytes) -> None:
        for kept in (self._incidents, self._diagnoses, self._since, self._due):
            kept.clear()
        parts: list[bytes] = []
        place = 4
        while place < len(state):
            size = int.from_bytes(state[place : place + 4], "little")
            parts.append(state[place + 4 : place + 4 + size])
            place += 4 + size
        incidents = int.from_bytes(state[:4], "little")
        for part in parts[:incidents]:
            incident = codec.decode(Incident, part)
            self._incidents[incident.tenant, incident.incident_id] = incident
        for part in parts[incidents:]:
            diagnosis = codec.decode(Diagnosis, part)
            key = (diagnosis.tenant, diagnosis.incident_id)
            self._diagnoses[key] = diagnosis
            self._since[key] = (_blamed(diagnosis), self._clock.now_ns())
            self._due.add(key)


def _blamed(diagnosis: Diagnosis) -> tuple[str, str, str]:
    """Entity, kind and change of the first hypothesis: together they decide what can be done."""
    if not diagnosis.hypotheses:
        return "", "", ""
    first = diagnosis.hypotheses[0]
    return first.entity, first.kind.value, first.change_id


def _remember(kept: OrderedDict[_Key, _T], key: _Key, value: _T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)
