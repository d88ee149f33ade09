"""Metric queries: a declared subset of PromQL, answered in Prometheus' JSON form."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from headspring.gateway.api.access import Installation, Viewer
from headspring.knowledge.series import promql
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import ContractError

router = APIRouter(tags=["metrics"])

_MAX_S = 7_258_118_400
"""Unix seconds of the year 2200: with any offset and range of a query it stays within 64 bits of nanoseconds."""
QueryText = Annotated[str, Query(min_length=1, max_length=4000, description="PromQL, the declared subset")]


@router.get("/metrics/query", summary="Instant (`time`) or range (`start`, `end`, `step`) query")
async def query(
    services: Installation, who: Viewer, query: QueryText, time: str = "", start: str = "", end: str = "",
    step: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Times are unix seconds or RFC 3339, `step` is seconds or a duration such as `15s`. Without `start` it is an
    instant query at `time` (now, when that is missing too). Anything outside the subset answers 422 with the
    position in the query."""
    now_ns = services.clock.now_ns()
    if start or end or step:
        start_ns = parse_time(start, "start", now_ns - 3600 * NS_PER_S)
        end_ns = parse_time(end, "end", now_ns)
        step_ns = parse_duration(step or "15s", "step")
        matrix = await asyncio.to_thread(
            promql.evaluate_range, query, store=services.series, tenant=who.tenant, start_ns=start_ns, end_ns=end_ns,
            step_ns=step_ns,
        )  # fmt: skip
        return _answer("matrix", [{"metric": labels, "values": _points(points)} for labels, points in matrix])
    time_ns = parse_time(time, "time", now_ns)
    vector = await asyncio.to_thread(
        promql.evaluate_instant, query, store=services.series, tenant=who.tenant, time_ns=time_ns
    )
    if promql.is_range_selector(query):
        return _answer("matrix", [{"metric": labels, "values": _points(points)} for labels, points in vector])
    return _answer(
        "vector", [{"metric": labels, "value": _points(points)[-1]} for labels, points in vector if len(points)]
    )


def parse_time(text: str, name: str, default_ns: int) -> int:
    """
    Raises:
        ContractError: neither unix seconds nor RFC 3339.
    """
    if not text:
        return default_ns
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError) as error:
            raise ContractError(f"{name} is {text[:60]!r}; wanted unix seconds or RFC 3339") from error
    if not 0 <= seconds <= _MAX_S:
        raise ContractError(f"{name} is {text[:60]!r}; wanted a time from 1970 to 2200")
    return round(seconds * NS_PER_S)


_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str, name: str) -> int:
    """
    Raises:
        ContractError: neither seconds nor a duration, or not above 0.
    """
    number, unit = text, "s"
    for suffix in ("ms", "s", "m", "h", "d"):
        if text.endswith(suffix):
            number, unit = text.removesuffix(suffix), suffix
            break
    try:
        value = float(number) * _UNITS[unit]
    except ValueError:
        value = 0.0
    if not (0 < value < 1e9):
        raise ContractError(f"{name} is {text!r}; wanted seconds or a duration such as 15s, above 0")
    return max(1, round(value * NS_PER_S))


def _points(points: Sequence[tuple[int, float]]) -> list[tuple[float, str]]:
    return [(time_ns / NS_PER_S, _number(value)) for time_ns, value in points]


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value) if value != int(value) or abs(value) >= 1e15 else str(int(value))


def _answer(kind: str, result: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": list(result)}}
