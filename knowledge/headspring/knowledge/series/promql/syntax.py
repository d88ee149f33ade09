"""PromQL text to a tree that holds only what the evaluator knows, or an error with its position.

The grammar and the type check are promql-parser's. Its tree carries no positions, so this module finds
the offending word again in the text, outside strings and comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import promql_parser as pp

from headspring.proto.errors import QueryError

RANGE_FUNCTIONS = frozenset({
    "rate", "irate", "increase", "delta", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
    "count_over_time", "last_over_time", "quantile_over_time",
})  # fmt: skip
ELEMENT_FUNCTIONS = frozenset({
    "abs", "ceil", "floor", "exp", "sqrt", "ln", "log2", "log10", "clamp", "clamp_min", "clamp_max",
})  # fmt: skip
OTHER_FUNCTIONS = frozenset({"histogram_quantile", "scalar", "vector", "time"})
AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count", "group", "topk", "bottomk"})
ARITHMETIC = frozenset({"+", "-", "*", "/", "%", "^"})
COMPARISON = frozenset({"==", "!=", ">", "<", ">=", "<="})

SUBSET = f"""\
Selectors     name{{label="v", label!="v", label=~"re", label!~"re"}}, offset (also negative), [range];
              5-minute lookback, NaN samples are stale markers; `__entity__` is the entity id
Range         {", ".join(sorted(RANGE_FUNCTIONS))}
Functions     {", ".join(sorted(ELEMENT_FUNCTIONS | OTHER_FUNCTIONS))} (histogram_quantile: classic buckets)
Aggregations  {", ".join(sorted(AGGREGATIONS))}, with by or without
Operators     {" ".join(sorted(ARITHMETIC))} {" ".join(sorted(COMPARISON))} with bool; unary minus;
              vectors one-to-one, with on or ignoring
Not           subqueries, @, group_left/group_right, and/or/unless, atan2, native histograms, all other functions
"""

MAX_QUERY_CHARS = 4_000
_MAX_DEPTH = 64
_MAX_DURATION = timedelta(days=36_500)
"""A hundred years of range or offset: with any time of a query they stay within 64 bits of nanoseconds."""
"""Nested expressions; far above any dashboard, far below Python's recursion limit."""
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<word>[A-Za-z_:][\w:]*)
      | (?P<number>[0-9.][\w.]*)
      | (?P<sign>==|!=|>=|<=|=~|!~|.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"'([^']+)'")


def parse(query: str) -> Any:
    """The tree of a query inside the subset. (promql-parser ships stubs but no common node type: `Any`.)

    Raises:
        QueryError: not PromQL, not in the subset, or too long.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise QueryError(
            f"the query has {len(query)} characters, at most {MAX_QUERY_CHARS} are taken", position=MAX_QUERY_CHARS
        )
    _check_nesting(query)
    try:
        tree = pp.parse(query)
    except ValueError as error:
        raise QueryError(f"not PromQL: {error}", position=_position_of_error(query, str(error))) from error
    _check(query, tree, 0)
    return tree


def position_of(query: str, accept: Callable[[str, str], bool]) -> int:
    """Where the first token (kind, text) that `accept` takes starts; 0 when none does."""
    return next((start for kind, text, start in _tokens(query) if accept(kind, text)), 0)


def unsupported(query: str, what: str, word: str) -> QueryError:
    """The error for a construct that the subset leaves out, at its first occurrence."""
    return QueryError(
        f"{what} is not in the supported subset of PromQL",
        position=position_of(query, lambda kind, text: kind != "string" and text.lower() == word.lower()),
    )


def _tokens(query: str) -> list[tuple[str, str, int]]:
    return [
        (str(match.lastgroup), match.group(), match.start())
        for match in _TOKEN.finditer(query)
        if match.lastgroup != "space"
    ]


def _check_nesting(query: str) -> None:
    depth = 0
    signs = 0
    for kind, text, start in _tokens(query):
        signs = signs + 1 if text in "+-^" else 0
        if kind == "sign":
            depth += (text in "([{") - (text in ")]}")
        # The parser recurses; a thousand brackets must not end the process.
        if depth > _MAX_DEPTH or signs > _MAX_DEPTH:
            raise QueryError(f"nested deeper than {_MAX_DEPTH}", position=start)


def _position_of_error(query: str, message: str) -> int:
    """As near as the parser's message lets us say; the end of the text where something is missing there."""
    named = _QUOTED.search(message)
    if named:
        word = named.group(1)
        return position_of(query, lambda kind, text: text == word)
    if "regex" in message:
        bad = message.rpartition("regex for ")[2].partition(",")[0].strip()
        return position_of(query, lambda kind, text: kind == "string" and bad in text)
    if "aggregat" in message:
        return position_of(query, lambda kind, text: text in AGGREGATIONS)
    if "bool" in message.lower():
        return position_of(query, lambda kind, text: text in COMPARISON)
    opened: list[int] = []
    previous: tuple[str, str, int] | None = None
    for kind, text, start in _tokens(query):
        if text in ("(", "[", "{"):
            opened.append(start)
        elif text in (")", "]", "}"):
            if not opened:
                return start
            opened.pop()
        # Two operands with nothing between them.
        if previous and kind == "number" and previous[0] in ("word", "number") and previous[1].lower() != "offset":
            return start
        previous = (kind, text, start)
    return opened[-1] if opened else len(query.rstrip())


def _check(query: str, node: Any, depth: int) -> None:
    if depth > _MAX_DEPTH * 4:
        raise QueryError(f"nested deeper than {_MAX_DEPTH * 4}")
    children: list[Any] = []
    if isinstance(node, pp.VectorSelector):
        _check_selector(query, node)
    elif isinstance(node, pp.MatrixSelector):
        _check_duration(query, node.range)
        _check_selector(query, node.vector_selector)
    elif isinstance(node, pp.SubqueryExpr):
        raise QueryError("subqueries are not in the supported subset of PromQL", position=_subquery_at(query))
    elif isinstance(node, pp.Call):
        name = node.func.name
        if name not in RANGE_FUNCTIONS | ELEMENT_FUNCTIONS | OTHER_FUNCTIONS:
            raise unsupported(query, f"function {name}", name)
        children = list(node.args)
    elif isinstance(node, pp.AggregateExpr):
        name = str(node.op)
        if name not in AGGREGATIONS:
            raise unsupported(query, f"aggregation {name}", name)
        children = [node.expr] if node.param is None else [node.param, node.expr]
    elif isinstance(node, pp.BinaryExpr):
        _check_operator(query, node)
        children = [node.lhs, node.rhs]
    elif isinstance(node, pp.ParenExpr | pp.UnaryExpr):
        children = [node.expr]
    elif isinstance(node, pp.StringLiteral):
        raise QueryError(
            "a text is no value in the supported subset",
            position=position_of(query, lambda kind, text: kind == "string"),
        )
    elif not isinstance(node, pp.NumberLiteral):
        raise QueryError(f"{type(node).__name__} is not in the supported subset of PromQL")
    for child in children:
        _check(query, child, depth + 1)


def _check_selector(query: str, selector: Any) -> None:
    if selector.at is not None:
        raise unsupported(query, "the @ modifier", "@")
    if selector.matchers.or_matchers:
        raise unsupported(query, "or between label conditions", "or")
    _check_duration(query, selector.offset)


def _check_duration(query: str, duration: timedelta | None) -> None:
    if duration is not None and abs(duration) > _MAX_DURATION:
        raise QueryError(
            f"a duration of {duration.days} days; at most {_MAX_DURATION.days} are taken",
            position=position_of(query, lambda kind, text: text in ("[", "offset")),
        )


def _check_operator(query: str, node: Any) -> None:
    operator = str(node.op)
    if operator not in ARITHMETIC | COMPARISON:
        raise unsupported(query, f"operator {operator}", operator)
    modifier = node.modifier
    if modifier is None:
        return
    if modifier.card != pp.VectorMatchCardinality.OneToOne:
        word = "group_left" if modifier.card == pp.VectorMatchCardinality.ManyToOne else "group_right"
        raise unsupported(query, word, word)
    if modifier.fill_values is not None and (
        modifier.fill_values.lhs is not None or modifier.fill_values.rhs is not None
    ):
        word = next((text for _, text, _ in _tokens(query) if text.startswith("fill")), "fill")
        raise unsupported(query, word, word)


def _subquery_at(query: str) -> int:
    opened = 0
    inside = False
    for _, text, start in _tokens(query):
        if text == "[":
            opened, inside = start, True
        elif text == "]":
            inside = False
        elif inside and ":" in text:
            return opened
    return 0
