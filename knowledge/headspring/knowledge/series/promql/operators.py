"""PromQL's binary operators and aggregations over frames.

Source: promql/engine.go of Prometheus 2.42 (VectorBinop, VectorscalarBinop, aggregation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.series.promql.frame import NAME, Frame, Labels, only, text_of, without
from headspring.knowledge.series.promql.syntax import COMPARISON
from headspring.proto.errors import QueryError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_ARITHMETIC = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
}  # fmt: skip
_COMPARISON = {
    "==": np.equal, "!=": np.not_equal, ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal,
}  # fmt: skip


def scalars(operator: str, left: Floats, right: Floats) -> Floats:
    """Both sides scalar; a comparison gives 0 or 1 (the parser insists on `bool`)."""
    with np.errstate(all="ignore"):
        if operator in COMPARISON:
            return np.asarray(_COMPARISON[operator](left, right), dtype=np.float64)
        return np.asarray(_ARITHMETIC[operator](left, right), dtype=np.float64)


def vector_and_scalar(operator: str, frame: Frame, scalar: Floats, *, scalar_left: bool, as_bool: bool) -> Frame:
    left, right = (scalar, frame.value) if scalar_left else (frame.value, scalar)
    result = scalars(operator, np.broadcast_to(left, frame.value.shape), np.broadcast_to(right, frame.value.shape))
    if operator not in COMPARISON or as_bool:
        return frame.with_values(result).without_name()
    # A filter keeps the vector's own values, on whichever side it stands.
    return Frame(frame.labels, frame.value, frame.present & (result == 1.0))


def vectors(operator: str, left: Frame, right: Frame, *, on: bool, names: Sequence[str], as_bool: bool) -> Frame:
    """One-to-one matching on equal labels: only `names` (`on`) or all but `names` and the metric's name.

    Raises:
        QueryError: several series of one side match at the same step.
    """
    chosen = frozenset(names)
    ignored = chosen | {NAME}

    def signature(labels: Labels) -> Labels:
        return only(labels, chosen) if on else without(labels, ignored)

    right_rows: dict[Labels, list[int]] = {}
    for row, labels in enumerate(right.labels):
        right_rows.setdefault(signature(labels), []).append(row)
    anything_left = left.present.any(axis=0) if left.labels else np.zeros(left.value.shape[1], dtype=np.bool_)
    joined: dict[Labels, tuple[Floats, Bools]] = {}
    for key, rows in right_rows.items():
        if ((right.present[rows].sum(axis=0) > 1) & anything_left).any():
            raise QueryError(
                f"found duplicate series for the match group {text_of(key)} on the right hand side of {operator}; "
                "many-to-many matching is not allowed: aggregate first"
            )
        present: Bools = np.asarray(right.present[rows].any(axis=0))
        joined[key] = (np.where(right.present[rows], right.value[rows], 0.0).sum(axis=0), present)
    out_labels: list[Labels] = []
    out_values: list[Floats] = []
    out_present: list[Bools] = []
    matched: dict[Labels, Bools] = {}
    for row, labels in enumerate(left.labels):
        key = signature(labels)
        if key not in joined:
            continue
        other, other_present = joined[key]
        value = scalars(operator, left.value[row], other)
        present = left.present[row] & other_present
        if operator in COMPARISON and not as_bool:
            present = present & (value == 1.0)
            value = left.value[row]
        if key in matched and (matched[key] & present).any():
            raise QueryError(
                f"several series match {text_of(key)} on the left hand side of {operator}; group_left is not in the "
                "supported subset: aggregate first"
            )
        matched[key] = matched[key] | present if key in matched else present
        kept = labels if operator in COMPARISON and not as_bool else without(labels, {NAME})
        out_labels.append(only(kept, chosen) if on else without(kept, chosen))
        out_values.append(value)
        out_present.append(present)
    return _stacked(out_labels, out_values, out_present, left.value.shape[1]).relabelled(out_labels)


def aggregate(
    name: str, frame: Frame, *, by: Sequence[str] | None, without_names: Sequence[str] | None, count: Floats | None
) -> Frame:
    """`by`, `without_names` or neither (one group). `count`: k of topk and bottomk at each step."""
    groups: dict[Labels, list[int]] = {}
    for row, labels in enumerate(frame.labels):
        if without_names is not None:
            key = without(labels, frozenset(without_names) | {NAME})
        else:
            key = only(labels, frozenset(by or ()))
        groups.setdefault(key, []).append(row)
    if name in ("topk", "bottomk"):
        assert count is not None  # noqa: S101 — the parser checked that these have a parameter
        return _extremes(frame, list(groups.values()), count, largest=name == "topk")
    values = [_reduced(name, frame.value[rows], frame.present[rows]) for rows in groups.values()]
    present: list[Bools] = [np.asarray(frame.present[rows].any(axis=0)) for rows in groups.values()]
    return _stacked(list(groups), values, present, frame.value.shape[1])


def _reduced(name: str, value: Floats, present: Bools) -> Floats:
    count = present.sum(axis=0)
    with np.errstate(all="ignore"):
        if name == "count":
            return np.asarray(count, dtype=np.float64)
        if name == "group":
            return np.ones(count.size)
        if name in ("sum", "avg"):
            total = np.where(present, value, 0.0).sum(axis=0)
            return np.asarray(total if name == "sum" else total / count, dtype=np.float64)
        # Like Prometheus, min and max see NaN only where there is nothing else.
        reduce = np.fmin if name == "min" else np.fmax
        return np.asarray(reduce.reduce(np.where(present, value, np.nan), axis=0), dtype=np.float64)


def _extremes(frame: Frame, groups: list[list[int]], count: Floats, *, largest: bool) -> Frame:
    """Each group's `count` largest (smallest) values at each step; NaN comes last."""
    if bool((~np.isfinite(count)).any()):
        raise QueryError("topk and bottomk need a finite number of series")
    chosen = np.zeros_like(frame.present)
    for rows in groups:
        key = frame.value[rows] * (-1.0 if largest else 1.0)
        key = np.where(np.isnan(key), np.finfo(np.float64).max, key)
        key = np.where(frame.present[rows], key, np.inf)
        order = np.argsort(key, axis=0, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(rows))[:, None], axis=0)
        chosen[rows] = rank < np.trunc(count)
    return Frame(frame.labels, frame.value, frame.present & chosen)


def _stacked(labels: Sequence[Labels], values: list[Floats], present: list[Bools], steps: int) -> Frame:
    if not labels:
        return Frame((), np.empty((0, steps)), np.empty((0, steps), dtype=np.bool_))
    return Frame(tuple(labels), np.stack(values), np.stack(present))
