"""A query, its chart and its numbers: where every claim of a diagnosis can be checked again."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from headspring.gateway.ui.chart import chart
from headspring.gateway.ui.errors import PageRoute
from headspring.gateway.ui.evidence import run
from headspring.gateway.ui.pages import render
from headspring.gateway.ui.session import Installation, Viewer
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import LimitExceeded, QueryError

router = APIRouter(route_class=PageRoute)

SPANS = {"15m": 15 * 60, "1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600}
"""Offered lengths of time, seconds."""
_MAX_LINES = 20
_MAX_ROWS = 60
_MAX_SPAN_S = 31 * 86400
_WIDTH, _HEIGHT = 960, 280


@router.get("/query")
async def query_page(
    request: Request, services: Installation, who: Viewer, query: Annotated[str, Query(max_length=4000)] = "",
    span: str = "1h", start: Annotated[int, Query(ge=0)] = 0, end: Annotated[int, Query(ge=0)] = 0,
) -> Response:  # fmt: skip
    """`start` and `end` in unix seconds win over `span`."""
    span = span if span in SPANS else "1h"
    now_ns = services.clock.now_ns()
    fixed = 0 < start < end and end - start <= _MAX_SPAN_S
    end_ns = end * NS_PER_S if fixed else now_ns
    start_ns = start * NS_PER_S if fixed else now_ns - SPANS[span] * NS_PER_S
    found, message, position = [], "", None
    if query.strip():
        try:
            found = list(
                await asyncio.to_thread(run, services.series, who.tenant, query, start_ns, end_ns, max_lines=_MAX_LINES)
            )
        except QueryError as error:
            message, position = str(error), min(error.position, len(query))
        except LimitExceeded as error:
            message = str(error)
    return render(
        request, services, "query.html", who=who, status=422 if message else 200, query=query, span=span, spans=SPANS,
        fixed=(start, end) if fixed else None, series=found, message=message, position=position,
        chart=chart([points for _, points in found], width=_WIDTH, height=_HEIGHT),
        start_ns=start_ns, end_ns=end_ns, max_rows=_MAX_ROWS, max_lines=_MAX_LINES,
        data=json.dumps(
            [{"name": name_of(labels), "points": [[time / NS_PER_S, value] for time, value in points]}
             for labels, points in found],
        ).replace("NaN", "null").replace("Infinity", "null"),
        name_of=name_of,
    )  # fmt: skip


def name_of(labels: dict[str, str]) -> str:
    """A series as PromQL writes it.

    >>> name_of({"__name__": "up", "job": "a"}), name_of({})
    ('up{job="a"}', '{}')
    """
    inner = ", ".join(
        f'{name}="{value}"' for name, value in labels.items() if not (name.startswith("__") and name.endswith("__"))
    )
    return labels.get("__name__", "") + (f"{{{inner}}}" if inner or "__name__" not in labels else "")
