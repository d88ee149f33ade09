"""Where diagnoses become proposals: reads incidents and diagnoses, asks the service for a run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from headspring.action.service import ActionService
from headspring.proto import codec
from headspring.proto.clock import Clock
from headspring.proto.incident import Diagnosis, Incident, IncidentState
from headspring.proto.topics import DIAGNOSES, INCIDENTS
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

_T = TypeVar("_T")
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
        self._incidents: OrderedDict[tuple[str, str], Incident] = OrderedDict()
        self._diagnoses: OrderedDict[tuple[str, str], Diagnosis] = OrderedDict()

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        touched: dict[tuple[str, str], None] = {}
        for stored in records:
            if not stored.record.value:
                continue
            if topic == INCIDENTS.name:
                incident = codec.decode(Incident, stored.record.value)
                key = (incident.tenant, incident.incident_id)
                if incident.state in (IncidentState.RESOLVED, IncidentState.MERGED):
                    self._incidents.pop(key, None)
                    self._diagnoses.pop(key, None)
                    await asyncio.to_thread(
                        self._service.withdraw, incident.incident_id, f"the incident is {incident.state}"
                    )
                    continue
                first = key not in self._incidents
                _remember(self._incidents, key, incident)
                if not first:
                    continue  # its alerts grew; a new proposal comes with a new diagnosis
            else:
                diagnosis = codec.decode(Diagnosis, stored.record.value)
                key = (diagnosis.tenant, diagnosis.incident_id)
                _remember(self._diagnoses, key, diagnosis)
            touched[key] = None
        for key in touched:
            found, diagnosed = self._incidents.get(key), self._diagnoses.get(key)
            if found is not None and diagnosed is not None:
                await asyncio.to_thread(self._service.propose, found, diagnosed)
        return ()

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        await asyncio.to_thread(self._service.expire)
        return ()

    def snapshot(self) -> bytes:
        """What is open, so that a diagnosis after a restart finds its incident."""
        return b"".join(
            len(data).to_bytes(4, "little") + data for data in (codec.encode(item) for item in self._incidents.values())
        )

    def restore(self, state: bytes) -> None:
        self._incidents.clear()
        self._diagnoses.clear()
        place = 0
        while place < len(state):
            size = int.from_bytes(state[place : place + 4], "little")
            incident = codec.decode(Incident, state[place + 4 : place + 4 + size])
            self._incidents[incident.tenant, incident.incident_id] = incident
            place += 4 + size


def _remember(kept: OrderedDict[tuple[str, str], _T], key: tuple[str, str], value: _T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)
