"""The stage that learns the topology from spans: `telemetry.spans` in, the topology graph out."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from headspring.knowledge.topology.graph import Edge, EdgeType
from headspring.knowledge.topology.pairing import Call, SpanPairing
from headspring.knowledge.topology.port import TopologyGraph
from headspring.knowledge.writers import InputRecord, NoOutput
from headspring.proto.clock import NS_PER_S
from headspring.proto.codec import decode
from headspring.proto.ids import entity_id, split_entity
from headspring.proto.telemetry import SpanBatch
from headspring.proto.topics import SPANS

SOURCE = "spans"
TICK_S = 5.0
_ROTATE_S = 30.0
"""One generation's age: the grace for a silent peer is 30 to 60 s."""
_SMOOTHING_S = 60.0
"""Time constant of the call rate: a burst of seconds does not redraw the weights, a change of minutes does."""
_FORGET_S = 900.0
"""An edge without calls for this long is dropped from the stage's state; the graph expires it by itself."""
_NOTICEABLE = 0.2
"""A silent edge is written again when its rate has moved by this share since the last time."""
_MAX_EDGES = 50_000
"""Edges the stage follows; more than any estate it is meant for, less than would hurt."""
_HOST_ATTRIBUTE = "host.name"

_EdgeKey = tuple[str, str, str, EdgeType]


@dataclass(slots=True)
class _Rate:
    calls: int = 0
    """Since the last tick."""
    per_s: float = -1.0
    """Smoothed; below 0 before the first tick."""
    written_per_s: float = 0.0
    last_seen_ns: int = 0


class TopologyStage:
    """Callers and callees as spans show them, with smoothed calls per second as weight.

    The snapshot holds the rates only. Spans that wait for their other side are lost in a crash: the next
    calls of the same edge find it again within the grace.
    """

    name = "knowledge.topology"
    inputs = (SPANS.name,)
    tick_s = TICK_S

    def __init__(self, topology: TopologyGraph) -> None:
        self._topology = topology
        self._pairing = SpanPairing()
        self._rates: dict[_EdgeKey, _Rate] = {}
        self._ticked_ns = 0
        self._rotated_ns = 0

    async def process(self, topic: str, records: Sequence[InputRecord]) -> NoOutput:
        """Raises ContractError for a record that is no span batch."""
        batches = [(stored.record.time_ns, decode(SpanBatch, stored.record.value)) for stored in records]
        for arrived_ns, batch in batches:
            for span in batch.spans:
                for call in self._pairing.add(batch.tenant, batch.entity, span):
                    self._count(call, arrived_ns)
            self._hosts(batch, arrived_ns)
        return ()

    async def tick(self, now_ns: int) -> NoOutput:
        self._rotated_ns = self._rotated_ns or now_ns
        if now_ns - self._rotated_ns >= _ROTATE_S * NS_PER_S:
            self._rotated_ns = now_ns
            for call in self._pairing.rotate():
                self._count(call, now_ns)
        elapsed_s = (now_ns - self._ticked_ns) / NS_PER_S if self._ticked_ns else TICK_S
        if elapsed_s <= 0:
            return ()
        self._ticked_ns = now_ns
        for tenant, edges in self._due(elapsed_s, now_ns).items():
            await asyncio.to_thread(self._topology.observe, tenant, edges)
        return ()

    def snapshot(self) -> bytes:
        rows = [
            [*key[:3], key[3].value, rate.calls, rate.per_s, rate.written_per_s, rate.last_seen_ns]
            for key, rate in self._rates.items()
        ]
        return json.dumps({"ticked_ns": self._ticked_ns, "rates": rows}, separators=(",", ":")).encode()

    def restore(self, state: bytes) -> None:
        self._pairing, self._rates, self._ticked_ns, self._rotated_ns = SpanPairing(), {}, 0, 0
        if not state:
            return
        held = json.loads(state)
        self._ticked_ns = int(held["ticked_ns"])
        for tenant, caller, callee, kind, calls, per_s, written, last_seen_ns in held["rates"]:
            self._rates[tenant, caller, callee, EdgeType(kind)] = _Rate(calls, per_s, written, last_seen_ns)

    def _count(self, call: Call, arrived_ns: int, *, calls: int = 1) -> None:
        key = (call.tenant, call.caller, call.callee, call.type)
        rate = self._rates.get(key)
        if rate is None:
            if len(self._rates) >= _MAX_EDGES:
                return
            rate = self._rates[key] = _Rate()
        rate.calls += calls
        # A sender's clock that is ahead must not keep an edge alive after its end.
        rate.last_seen_ns = max(rate.last_seen_ns, min(call.time_ns, arrived_ns))

    def _hosts(self, batch: SpanBatch, arrived_ns: int) -> None:
        """Where a service and its instances run, once per batch and place; the weight stays 0 calls."""
        places = {(span.attributes.get(_HOST_ATTRIBUTE, ""), span.instance) for span in batch.spans}
        try:
            _, namespace, _ = split_entity(batch.entity)
        except ValueError:
            return
        for host, instance in places:
            if not host.strip():
                continue
            where = entity_id("host", host)
            runners = [batch.entity]
            if instance.strip() and instance != host:
                runners.append(entity_id("instance", instance, namespace))
            for runner in runners:
                if runner != where:
                    call = Call(batch.tenant, runner, where, EdgeType.RUNS_ON, arrived_ns)
                    self._count(call, arrived_ns)

    def _due(self, elapsed_s: float, now_ns: int) -> dict[str, list[Edge]]:
        """Moves the rates on by `elapsed_s`; edges by tenant whose sighting or rate is worth writing."""
        share = 1.0 - math.exp(-elapsed_s / _SMOOTHING_S)
        due: dict[str, list[Edge]] = {}
        for key in list(self._rates):
            rate = self._rates[key]
            now_per_s = rate.calls / elapsed_s
            rate.per_s = now_per_s if rate.per_s < 0 else rate.per_s + share * (now_per_s - rate.per_s)
            moved = abs(rate.per_s - rate.written_per_s) > _NOTICEABLE * max(rate.written_per_s, 1e-3)
            if rate.calls or moved:
                tenant, caller, callee, kind = key
                # Hosts are not called: an edge that only says where something runs keeps the weight "unknown".
                weight = 1.0 if kind is EdgeType.RUNS_ON else rate.per_s
                due.setdefault(tenant, []).append(
                    Edge(caller=caller, callee=callee, type=kind, weight=weight, source=SOURCE,
                         last_seen_ns=rate.last_seen_ns)
                )  # fmt: skip
                rate.written_per_s = rate.per_s
            elif now_ns - rate.last_seen_ns > _FORGET_S * NS_PER_S:
                del self._rates[key]
            rate.calls = 0
        return due
