"""Changes as they happen, for browsers and programs: a bounded ring with ids, fanned out to listeners.

Fed by a stage that reads what people watch (incidents, diagnoses, actions). An id names a place in the
ring; a listener that comes back with the last id it saw gets everything after it, or is told to reload
when the ring no longer reaches that far.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from headspring.proto import codec
from headspring.proto.topics import ACTIONS, BY_NAME, DIAGNOSES, INCIDENTS
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

RING = 2000
"""Events kept for listeners that reconnect."""
_QUEUE = 500
"""A listener that falls this far behind is told to reload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    id: int
    kind: str
    """`incident`, `diagnosis`, `action` or `reload`."""
    tenant: str
    incident_id: str
    detail: str = ""


class Events:
    """See the module. Lives on one event loop."""

    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING)
        self._next = 1
        self._queues: set[asyncio.Queue[Event]] = set()

    def publish(self, *, kind: str, tenant: str, incident_id: str, detail: str = "") -> None:
        event = Event(id=self._next, kind=kind, tenant=tenant, incident_id=incident_id, detail=detail)
        self._next += 1
        self._ring.append(event)
        for queue in self._queues:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                event = Event(id=event.id, kind="reload", tenant=tenant, incident_id="")
            queue.put_nowait(event)

    async def listen(self, tenant: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """Events of a tenant, first those after id `after` that the ring still has."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        if after is not None:
            oldest = self._ring[0].id if self._ring else self._next
            if after >= self._next or after < oldest - 1:
                queue.put_nowait(Event(id=self._next - 1, kind="reload", tenant=tenant, incident_id=""))
            else:
                for event in list(self._ring)[-_QUEUE:]:
                    if event.id > after:
                        queue.put_nowait(event)
        self._queues.add(queue)
        try:
            while True:
                event = await queue.get()
                if event.tenant == tenant:
                    yield event
        finally:
            self._queues.discard(queue)


class EventStage:
    """Feeds `Events` from the log; keeps no state of its own."""

    name = "gateway.events"
    inputs = (INCIDENTS.name, DIAGNOSES.name, ACTIONS.name)
    tick_s = 0.0
    _KINDS = {INCIDENTS.name: "incident", DIAGNOSES.name: "diagnosis", ACTIONS.name: "action"}  # noqa: RUF012

    def __init__(self, events: Events) -> None:
        self._events = events

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        for stored in records:
            if not stored.record.value:
                continue
            message: Any = codec.decode(BY_NAME[topic].message, stored.record.value)
            state = getattr(message, "state", "") or getattr(message, "status", "")
            self._events.publish(
                kind=self._KINDS[topic],
                tenant=message.tenant,
                incident_id=message.incident_id,
                detail=str(state),
            )
        return ()

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        return None
