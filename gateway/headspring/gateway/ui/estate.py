"""The services of the estate: health, traffic, latency and errors of each, the worst first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headspring.gateway.services import Services
from headspring.gateway.ui.chart import Chart, Points, chart
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.session import Installation, Viewer
from headspring.knowledge.series.port import Matcher, MatchOp
from headspring.knowledge.topology.graph import Topology
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import LimitExceeded
from headspring.proto.ids import DEFAULT_NAMESPACE, entity_id
from headspring.proto.semantics import (
    LABEL_SERVICE,
    SERVICE_ERROR_RATIO,
    SERVICE_LATENCY_P95,
    SERVICE_REQUEST_RATE,
)

router = APIRouter(route_class=PageRoute)

_SPAN_NS = 15 * 60 * NS_PER_S
_FRESH_NS = 5 * 60 * NS_PER_S
"""An older sample is no statement about now."""
_MAX_ROWS = 500
_SICK, _WEAK = 0.5, 0.8
"""Below these a score is called bad, or weak, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    entity: str
    kind: str
    health: float | None
    """0 (bad) to 1 (good); None where nothing is known."""
    rate: float | None
    latency: float | None
    errors: float | None
    calls: tuple[str, ...]
    trend: Chart | None

    @property
    def verdict(self) -> str:
        if self.health is None:
            return "unknown"
        return "bad" if self.health < _SICK else "weak" if self.health < _WEAK else "good"


@router.get("/services")
async def services_page(request: Request, services: Installation, who: Viewer) -> Response:
    rows = await asyncio.to_thread(_rows, services, who.tenant)
    return render(
        request, services, "services.html", who=who, rows=rows[:_MAX_ROWS], more=max(0, len(rows) - _MAX_ROWS),
        sick=sum(row.verdict in ("bad", "weak") for row in rows),
    )  # fmt: skip


def _rows(services: Services, tenant: str) -> list[Row]:
    now_ns = services.clock.now_ns()
    topology = services.topology.snapshot(tenant, at_ns=now_ns)
    scores = services.detect.health_scores(tenant)
    rate, latency, errors = (
        _newest(services, tenant, name, now_ns)
        for name in (SERVICE_REQUEST_RATE, SERVICE_LATENCY_P95, SERVICE_ERROR_RATIO)
    )
    names = {node.entity for node in topology.nodes} | set(scores) | set(rate)
    rows = [
        Row(
            entity=name,
            kind=_kind(topology, name),
            health=float(scores[name]) if name in scores else None,
            rate=_last(rate.get(name), now_ns),
            latency=_last(latency.get(name), now_ns),
            errors=_last(errors.get(name), now_ns),
            calls=topology.callees(name),
            trend=chart([latency[name]], width=120, height=28) if name in latency else None,
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: (row.health if row.health is not None else 2.0, row.entity))


def _newest(services: Services, tenant: str, metric: str, now_ns: int) -> Mapping[str, Points]:
    """The last quarter of an hour of a derived metric, by entity."""
    matcher = Matcher(label="__name__", op=MatchOp.EQUAL, value=metric)
    try:
        found = services.series.select(
            tenant, [matcher], start_ns=now_ns - _SPAN_NS, end_ns=now_ns + NS_PER_S, limit=5 * _MAX_ROWS
        )
    except LimitExceeded:
        return {}  # more services than a page can hold; their health is shown all the same
    points = {}
    for data in found:
        entity = data.descriptor.entity
        if not entity and data.descriptor.labels.get(LABEL_SERVICE):
            entity = entity_id("service", data.descriptor.labels[LABEL_SERVICE], DEFAULT_NAMESPACE)
        if data.time_ns.size:
            points[entity] = list(zip(data.time_ns.tolist(), data.value.tolist(), strict=True))
    return points


def _last(points: Points | None, now_ns: int) -> float | None:
    return points[-1][1] if points and points[-1][0] >= now_ns - _FRESH_NS else None


def _kind(topology: Topology, entity: str) -> str:
    node = topology.by_entity.get(entity)
    return node.kind if node else entity.partition(":")[0]
