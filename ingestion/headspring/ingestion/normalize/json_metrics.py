"""Our plain JSON form of metrics, for scripts and tests with curl:
`{"metrics": [{"name", "labels", "value", "timestamp_ms"?, "kind"?, "unit"?}]}`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from headspring.ingestion.admit.json_text import kind_of
from headspring.ingestion.normalize.metrics import SeriesDraft, prometheus_series
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import MetricKind

_FIELDS = frozenset({"name", "labels", "value", "timestamp_ms", "kind", "unit"})
_KINDS = {"gauge": MetricKind.GAUGE, "counter": MetricKind.COUNTER, "delta": MetricKind.DELTA}
_MS = 1_000_000


def json_metrics(payload: Any, now_ns: int, rejected: Counter[str]) -> Iterator[tuple[SeriesDraft, int, float]]:
    """(series, time, value) of every good entry; a bad entry is counted in `rejected` with its reason.

    Raises:
        ContractError: the payload has another shape.
    """
    items = payload.get("metrics") if isinstance(payload, Mapping) else None
    if not isinstance(items, list):
        raise ContractError(
            f'got {kind_of(payload)}, wanted {{"metrics": [{{"name": …, "labels": {{…}}, "value": …}}]}}'
        )
    for item in items:
        try:
            yield _entry(item, now_ns)
        except ContractError as error:
            rejected[str(error)] += 1


def _entry(item: Any, now_ns: int) -> tuple[SeriesDraft, int, float]:
    if not isinstance(item, Mapping):
        raise ContractError("a metric is not a JSON object")
    unknown = sorted(set(map(str, item)) - _FIELDS)
    if unknown:
        raise ContractError(f"unknown field {unknown[0][:40]!r} in a metric; known are {', '.join(sorted(_FIELDS))}")
    name, value, labels = item.get("name"), item.get("value"), item.get("labels") or {}
    if not isinstance(name, str) or not name:
        raise ContractError("a metric needs a name")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ContractError(f"value of {name[:80]} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ContractError(f"value of {name[:80]} is not finite")
    if not isinstance(labels, Mapping) or not all(isinstance(text, str) for text in labels.values()):
        raise ContractError(f"labels of {name[:80]} are not texts")
    stamp = item.get("timestamp_ms")
    if stamp is not None and (isinstance(stamp, bool) or not isinstance(stamp, int)):
        raise ContractError(f"timestamp_ms of {name[:80]} is not a whole number")
    draft = prometheus_series({**labels, "__name__": name})
    kind, unit = item.get("kind"), item.get("unit") or ""
    if kind is not None and kind not in _KINDS:
        raise ContractError(f"kind of {name[:80]} is not one of {', '.join(_KINDS)}")
    if not isinstance(unit, str):
        raise ContractError(f"unit of {name[:80]} is not a text")
    stated = SeriesDraft(
        name=draft.name,
        unit=unit,
        kind=_KINDS[kind] if kind else draft.kind,
        entity=draft.entity,
        labels=draft.labels,
    )
    return stated, now_ns if stamp is None else stamp * _MS, number
