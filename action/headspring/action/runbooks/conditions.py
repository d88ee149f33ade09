"""Conditions of runbooks in CEL (Common Expression Language): no loops, no I/O, no effects.

Source: https://github.com/google/cel-spec, evaluated by the `common-expression-language` package.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import cel

from headspring.action.runbooks.schema import MAX_CONDITION_CHARS
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.ids import split_entity
from headspring.proto.incident import Diagnosis, Hypothesis, Incident

ROOTS = ("cause", "incident")
"""The only names a condition can see."""

_MAX_ITEMS = 200
"""Entities and alert names given to a condition: `all` inside `all` costs the square of it."""

_MAX_MACROS = 3
"""Comprehensions of one condition."""

_MAX_NESTED = 2
"""Comprehensions inside one another; each walks every item, so this bounds the work at items^2: some 20 ms."""

_MACRO = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
"""A comprehension and the name it binds; a text that only looks like one costs its author a macro."""

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|[rR]?\"{3}.*?\"{3}|[rR]?'{3}.*?'{3}|[rR]"[^"\n]*"|[rR]'[^'\n]*'"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<macro>\.\s*(?:all|exists|exists_one|map|filter)\s*\()|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<plus>\+)""",
    re.DOTALL,
)
"""What matters for the work: brackets, `+`, and the comments and texts in which these do not count."""


def check_condition(text: str) -> None:
    """Raises `ConfigError` where `text` is not a condition that can be evaluated here."""
    if text:
        _compiled(text)


def holds(text: str, *, hypothesis: Hypothesis, diagnosis: Diagnosis, incident: Incident) -> bool:
    """Whether the condition is true of this cause and incident; "" always is.

    Raises:
        ConfigError: it does not parse.
        PreconditionFailed: it names what does not exist, or is no boolean.
    """
    if not text:
        return True
    try:
        result = _compiled(text).execute(facts(hypothesis=hypothesis, diagnosis=diagnosis, incident=incident))
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:  # what the evaluator raises
        raise PreconditionFailed(f"condition {text!r} cannot be evaluated: {error}") from error
    if not isinstance(result, bool):
        raise PreconditionFailed(f"condition {text!r} gives {result!r}, wanted true or false")
    return result


def facts(*, hypothesis: Hypothesis, diagnosis: Diagnosis, incident: Incident) -> Mapping[str, Any]:
    """What a condition sees; `Any` because CEL values are untyped maps."""
    try:
        kind, namespace, name = split_entity(hypothesis.entity)
    except ValueError:
        kind, namespace, name = "unknown", "", hypothesis.entity
    return {
        "cause": {
            "entity": hypothesis.entity,
            "entity_kind": kind,
            "namespace": namespace,
            "name": name,
            "kind": hypothesis.kind.value,
            "metric": hypothesis.metric,
            "probability": hypothesis.probability,
            "status": hypothesis.status.value,
            "has_change": bool(hypothesis.change_id),
        },
        "incident": {
            "id": incident.incident_id,
            "severity": incident.severity.value,
            "state": incident.state.value,
            "title": incident.title,
            "entities": list(incident.entities[:_MAX_ITEMS]),
            "alerts": [member.alert.name for member in incident.members[:_MAX_ITEMS]],
            "alert_count": len(incident.members),
            "diagnosis": diagnosis.status.value,
        },
    }


def _work(text: str) -> tuple[int, bool]:
    """How deep comprehensions stand inside one another, and whether anything is added; `text` is known to parse.

    >>> _work("a.all(x, b.exists(y, x == y)) && c.all(z, z != ')+')")
    (2, False)
    """
    deepest, adds = 0, False
    opened: list[bool] = []
    for token in _TOKEN.finditer(text):
        if token["macro"] or token["open"]:
            opened.append(bool(token["macro"]))
            deepest = max(deepest, sum(opened))
        elif token["close"] and opened:
            opened.pop()
        elif token["plus"]:
            adds = True
    return deepest, adds


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> Any:
    if len(text) > MAX_CONDITION_CHARS:
        raise ConfigError(f"a condition has {len(text)} characters, at most {MAX_CONDITION_CHARS} are read")
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise ConfigError(f"condition {text!r} does not parse: {error}") from error
    macros = _MACRO.findall(text)
    unknown = sorted(set(program.variables()) - set(ROOTS) - set(macros))
    if unknown:
        raise ConfigError(f"condition {text!r} names {unknown[0]!r}; it can see {', '.join(ROOTS)}")
    nested, adds = _work(text)
    if nested > _MAX_NESTED:
        raise ConfigError(
            f"condition {text!r} has all, exists, map or filter {nested} deep inside one another; "
            f"at most {_MAX_NESTED} are evaluated"
        )
    if nested and adds:
        raise ConfigError(f"condition {text!r} walks lists and uses +, which joins lists; use one or the other")
    if len(macros) > _MAX_MACROS:
        raise ConfigError(f"condition {text!r} walks lists more than {_MAX_MACROS} times")
    return program
