"""Evaluates a PromQL tree over a series store, all steps of a range at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import promql_parser as pp
from numpy.typing import NDArray

from headspring.knowledge.series.port import Matcher, MatchOp, SeriesData, SeriesStore
from headspring.knowledge.series.promql import kernels, operators
from headspring.knowledge.series.promql.frame import NAME, Frame, Labels, labels_of, without
from headspring.knowledge.series.promql.syntax import COMPARISON, RANGE_FUNCTIONS, parse, position_of
from headspring.proto.errors import LimitExceeded, QueryError
from headspring.proto.semantics import prometheus_name
from headspring.proto.telemetry import SeriesDescriptor

LOOKBACK_NS = 5 * 60 * 1_000_000_000
"""A sample stands for its series this long, both borders included (Prometheus' default; left-closed up to 2.x)."""
MAX_POINTS = 11_000
"""Steps in a range (Prometheus' own limit)."""
MAX_SERIES = 10_000
_MAX_CELLS = 10_000_000
"""Series × steps of one selector: 80 MB of values."""
_MAX_WINDOW_SAMPLES = 200_000_000
"""Samples that the windows of one range function read in all; overlapping windows read them again."""
_MAX_QUANTILES = 200_000
"""Windows of quantile_over_time, each of which is sorted."""

Points = list[tuple[int, float]]
Series = list[tuple[dict[str, str], Points]]
Scalar = NDArray[np.float64]

_OPS = (
    (pp.MatchOp.Equal, MatchOp.EQUAL),
    (pp.MatchOp.NotEqual, MatchOp.NOT_EQUAL),
    (pp.MatchOp.Re, MatchOp.REGEX),
    (pp.MatchOp.NotRe, MatchOp.NOT_REGEX),
)
"""Pairs, not a dictionary: the parser's enum has equality but no hash."""
_ELEMENTWISE = {
    "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "exp": np.exp, "sqrt": np.sqrt, "ln": np.log, "log2": np.log2,
    "log10": np.log10,
}  # fmt: skip


def evaluate_range(query: str, *, store: SeriesStore, tenant: str, start_ns: int, end_ns: int, step_ns: int) -> Series:
    """The query at start, start + step, … up to and with end: per series its labels and (time, value) points.

    Series are ordered by labels; a scalar is one series without labels.

    Raises:
        QueryError: outside the subset, not a vector or scalar, or over a limit.
    """
    if step_ns <= 0 or end_ns < start_ns:
        raise QueryError(f"a range needs end >= start and step > 0, got {start_ns}..{end_ns} by {step_ns} ns")
    if (end_ns - start_ns) // step_ns + 1 > MAX_POINTS:
        raise QueryError(f"more than {MAX_POINTS} points per series; take a larger step")
    tree = parse(query)
    if _is_range(tree):
        raise QueryError("a range selector is no answer to a range query; put it into rate() or the like")
    steps = np.arange(start_ns, end_ns + 1, step_ns, dtype=np.int64)
    result = _Evaluation(query, store, tenant, steps).run(tree)
    return sorted(_series(result, steps), key=lambda one: sorted(one[0].items()))


def evaluate_instant(query: str, *, store: SeriesStore, tenant: str, time_ns: int) -> Series:
    """The query at one moment: one point per series, or the raw samples of a range selector.

    Ordered by labels; topk and bottomk by value.

    Raises:
        QueryError: outside the subset or over a limit.
    """
    tree = parse(query)
    steps = np.array([time_ns], dtype=np.int64)
    evaluation = _Evaluation(query, store, tenant, steps)
    if _is_range(tree):
        return evaluation.raw(_bare(tree))
    series = sorted(_series(evaluation.run(tree), steps), key=lambda one: sorted(one[0].items()))
    bare = _bare(tree)
    if isinstance(bare, pp.AggregateExpr) and str(bare.op) in ("topk", "bottomk"):
        sign = -1.0 if str(bare.op) == "topk" else 1.0
        series.sort(key=lambda one: (np.isnan(one[1][0][1]), sign * one[1][0][1]))
    return series


def is_range_selector(query: str) -> bool:
    """Whether an instant query answers with raw samples (`name[5m]`).

    Raises:
        QueryError: outside the subset.
    """
    return _is_range(parse(query))


def _bare(node: Any) -> Any:
    while isinstance(node, pp.ParenExpr):
        node = node.expr
    return node


def _is_range(tree: Any) -> bool:
    return isinstance(_bare(tree), pp.MatrixSelector)


def _series(result: Frame | Scalar, steps: NDArray[np.int64]) -> Series:
    times = steps.tolist()
    if not isinstance(result, Frame):
        return [({}, list(zip(times, result.tolist(), strict=True)))]
    return [
        (dict(labels), [(times[step], float(result.value[row, step])) for step in np.flatnonzero(result.present[row])])
        for row, labels in enumerate(result.labels)
        if result.present[row].any()
    ]


class _Evaluation:
    """One query at one set of steps."""

    def __init__(self, query: str, store: SeriesStore, tenant: str, steps: NDArray[np.int64]) -> None:
        self._query = query
        self._store = store
        self._tenant = tenant
        self._steps = steps

    def run(self, node: Any) -> Frame | Scalar:
        node = _bare(node)
        if isinstance(node, pp.NumberLiteral):
            return np.full(self._steps.size, float(node.val))
        if isinstance(node, pp.VectorSelector):
            return self._instant(node)
        if isinstance(node, pp.UnaryExpr):
            inner = self.run(node.expr)
            return inner.with_values(-inner.value).without_name() if isinstance(inner, Frame) else -inner
        if isinstance(node, pp.AggregateExpr):
            return self._aggregate(node)
        if isinstance(node, pp.BinaryExpr):
            return self._binary(node)
        if node.func.name in RANGE_FUNCTIONS:
            return self._range_function(node)
        return self._function(node)

    def raw(self, node: Any) -> Series:
        """The samples of a range selector at the only step."""
        end_ns = int(self._steps[0]) - _ns(node.vector_selector.offset)
        rows, _ = self._select(node.vector_selector, end_ns - _ns(node.range), end_ns)
        series: Series = []
        for labels, data in rows:
            fresh = ~np.isnan(data.value)
            if fresh.any():
                points = zip(data.time_ns[fresh].tolist(), data.value[fresh].tolist(), strict=True)
                series.append((dict(labels), list(points)))
        return sorted(series, key=lambda one: sorted(one[0].items()))

    # -- selectors

    def _select(self, selector: Any, start_ns: int, end_ns: int) -> tuple[list[tuple[Labels, SeriesData]], int]:
        """Series with samples in [start, end], and how many there are."""
        matchers = [
            Matcher(label=one.name, op=_operator(one.op), value=one.value) for one in selector.matchers.matchers
        ]
        if selector.name is not None:
            matchers.insert(0, Matcher(label=NAME, op=MatchOp.EQUAL, value=selector.name))
        try:
            found = self._store.select(self._tenant, matchers, start_ns=start_ns, end_ns=end_ns + 1, limit=MAX_SERIES)
        except LimitExceeded as error:
            raise QueryError(str(error), position=self._selector_at(selector)) from error
        except QueryError as error:
            raise QueryError(str(error), position=self._selector_at(selector)) from error
        if len(found) * self._steps.size > _MAX_CELLS:
            raise QueryError(
                f"{len(found)} series at {self._steps.size} steps are more than {_MAX_CELLS} values; match fewer or "
                "take a larger step",
                position=self._selector_at(selector),
            )
        return list(zip(_distinct([one.descriptor for one in found]), found, strict=True)), len(found)

    def _selector_at(self, selector: Any) -> int:
        return position_of(self._query, lambda kind, text: text == (selector.name or "{"))

    def _instant(self, selector: Any) -> Frame:
        at_ns = self._steps - _ns(selector.offset)
        rows, count = self._select(selector, int(at_ns[0]) - LOOKBACK_NS, int(at_ns[-1]))
        value, present = self._blank(count)
        for row, (_, data) in enumerate(rows):
            index = np.searchsorted(data.time_ns, at_ns, "right") - 1
            held = data.value[np.maximum(index, 0)]
            fresh = (index >= 0) & (data.time_ns[np.maximum(index, 0)] >= at_ns - LOOKBACK_NS) & ~np.isnan(held)
            value[row], present[row] = np.where(fresh, held, np.nan), fresh
        return Frame(tuple(labels for labels, _ in rows), value, present)

    def _range_function(self, node: Any) -> Frame:
        name = node.func.name
        quantile = self._scalar(node.args[0]) if name == "quantile_over_time" else None
        matrix = _bare(node.args[-1])
        range_ns = _ns(matrix.range)
        ends = self._steps - _ns(matrix.vector_selector.offset)
        rows, count = self._select(matrix.vector_selector, int(ends[0]) - range_ns, int(ends[-1]))
        value, present = self._blank(count)
        if quantile is not None and value.size > _MAX_QUANTILES:
            raise QueryError(
                f"quantile_over_time at {value.size} places, at most {_MAX_QUANTILES} are computed; take a larger step",
                position=position_of(self._query, lambda kind, text: text == name),
            )
        read = 0
        for row, (_, data) in enumerate(rows):
            windows = kernels.windows_of(data.time_ns, data.value, ends, range_ns)
            read += int(windows.count.sum())
            if read > _MAX_WINDOW_SAMPLES:
                raise QueryError(
                    f"the windows read more than {_MAX_WINDOW_SAMPLES} samples; take a larger step or a shorter range",
                    position=position_of(self._query, lambda kind, text: text == name),
                )
            value[row], present[row] = _windowed(name, windows, range_ns * 1e-9, quantile)
        labels = [one if name == "last_over_time" else without(one, {NAME}) for one, _ in rows]
        return Frame(tuple(labels), value, present).relabelled(labels)

    def _blank(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        shape = (count, self._steps.size)
        return np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)

    # -- functions, aggregations, operators

    def _function(self, node: Any) -> Frame | Scalar:
        name, args = node.func.name, node.args
        if name == "time":
            return np.asarray(self._steps / 1e9, dtype=np.float64)
        if name == "vector":
            value = self._scalar(args[0])[None, :]
            return Frame(((),), value, np.ones(value.shape, dtype=np.bool_))
        if name == "scalar":
            frame = self._frame(args[0])
            single = frame.present.sum(axis=0) == 1
            return np.where(single, np.where(frame.present, frame.value, 0.0).sum(axis=0), np.nan)
        if name == "histogram_quantile":
            return self._histogram_quantile(self._scalar(args[0]), self._frame(args[1]))
        frame = self._frame(args[0])
        with np.errstate(all="ignore"):
            if name == "clamp":
                low, high = self._scalar(args[1]), self._scalar(args[2])
                value = np.maximum(low, np.minimum(high, frame.value))
                return Frame(frame.labels, value, frame.present & ~(high < low)).without_name()
            if name == "clamp_min":
                return frame.with_values(np.maximum(self._scalar(args[1]), frame.value)).without_name()
            if name == "clamp_max":
                return frame.with_values(np.minimum(self._scalar(args[1]), frame.value)).without_name()
            return frame.with_values(_ELEMENTWISE[name](frame.value)).without_name()

    def _histogram_quantile(self, quantile: Scalar, frame: Frame) -> Frame:
        groups: dict[Labels, dict[float, list[int]]] = {}
        for row, labels in enumerate(frame.labels):
            bound = _bound(dict(labels).get("le", ""))
            if bound is not None:
                groups.setdefault(without(labels, {NAME, "le"}), {}).setdefault(bound, []).append(row)
        value, present = self._blank(len(groups))
        for target, buckets in enumerate(groups.values()):
            bounds = np.array(sorted(buckets))
            # Bounds spelt differently ("1", "1.0") are one bucket; Prometheus adds their counts.
            counts = np.stack([
                np.where(frame.present[buckets[one]], frame.value[buckets[one]], 0.0).sum(axis=0)
                for one in sorted(buckets)
            ])  # fmt: skip
            there = np.stack([frame.present[buckets[one]].any(axis=0) for one in sorted(buckets)])
            for pattern in np.unique(there, axis=1).T:
                if not pattern.any():
                    continue
                steps = np.flatnonzero((there == pattern[:, None]).all(axis=0))
                value[target, steps] = kernels.bucket_quantile(
                    quantile[steps], bounds[pattern], counts[np.ix_(np.flatnonzero(pattern), steps)]
                )
            present[target] = there.any(axis=0)
        return Frame(tuple(groups), value, present)

    def _aggregate(self, node: Any) -> Frame:
        by = without_names = None
        if node.modifier is not None:
            if node.modifier.type == pp.AggModifierType.By:
                by = list(node.modifier.labels)
            else:
                without_names = list(node.modifier.labels)
        count = self._scalar(node.param) if node.param is not None else None
        return operators.aggregate(
            str(node.op), self._frame(node.expr), by=by, without_names=without_names, count=count
        )

    def _binary(self, node: Any) -> Frame | Scalar:
        operator = str(node.op)
        left, right = self.run(node.lhs), self.run(node.rhs)
        modifier = node.modifier
        as_bool = operator in COMPARISON and modifier is not None and bool(modifier.return_bool)
        try:
            if isinstance(left, Frame) and isinstance(right, Frame):
                matching = modifier.matching if modifier is not None else None
                return operators.vectors(
                    operator, left, right, as_bool=as_bool,
                    on=matching is not None and matching.type == pp.LabelModifierType.Include,
                    names=list(matching.labels) if matching is not None else [],
                )  # fmt: skip
            if isinstance(left, Frame):
                assert not isinstance(right, Frame)  # noqa: S101 — for the type checker
                return operators.vector_and_scalar(operator, left, right, scalar_left=False, as_bool=as_bool)
            if isinstance(right, Frame):
                return operators.vector_and_scalar(operator, right, left, scalar_left=True, as_bool=as_bool)
        except QueryError as error:
            raise QueryError(
                str(error), position=error.position or position_of(self._query, lambda kind, text: text == operator)
            ) from error
        return operators.scalars(operator, left, right)

    def _frame(self, node: Any) -> Frame:
        result = self.run(node)
        if not isinstance(result, Frame):
            raise QueryError("wanted a vector, got a scalar")
        return result

    def _scalar(self, node: Any) -> Scalar:
        result = self.run(node)
        if isinstance(result, Frame):
            raise QueryError("wanted a scalar, got a vector")
        return result


def _windowed(
    name: str, windows: kernels.Windows, range_s: float, quantile: Scalar | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if name in ("rate", "increase", "delta"):
        return kernels.extrapolated(windows, range_s, counter=name != "delta", per_second=name == "rate")
    if name == "irate":
        return kernels.instant_rate(windows)
    if quantile is not None:
        return kernels.quantile_over_time(quantile, windows)
    return kernels.over_time(name.removesuffix("_over_time"), windows)


def _distinct(descriptors: list[SeriesDescriptor]) -> list[Labels]:
    """Each series' labels as PromQL spells them.

    OpenTelemetry series may differ only in unit, scope or spelling; such twins get their series id as a
    label, so that none hides another.
    """
    spelt = [
        labels_of({
            **{prometheus_name(name): value for name, value in one.labels.items()}, NAME: prometheus_name(one.name),
        })
        for one in descriptors
    ]  # fmt: skip
    if len(set(spelt)) == len(spelt):
        return spelt
    seen: dict[Labels, int] = {}
    for one in spelt:
        seen[one] = seen.get(one, 0) + 1
    return [
        labels_of({**dict(labels), "series_id": f"{one.series_id:016x}"}) if seen[labels] > 1 else labels
        for labels, one in zip(spelt, descriptors, strict=True)
    ]


def _operator(op: Any) -> MatchOp:
    return next(ours for theirs, ours in _OPS if theirs == op)


def _bound(text: str) -> float | None:
    """An `le` label as Go's ParseFloat reads it; None where it is no number."""
    try:
        bound = float(text) if "_" not in text and text.strip() == text else None
    except ValueError:
        return None
    return None if bound is None or np.isnan(bound) else bound


def _ns(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(microseconds=1) * 1_000
