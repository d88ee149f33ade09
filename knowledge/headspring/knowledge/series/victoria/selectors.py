"""Label conditions of the port as selectors of VictoriaMetrics.

A selector finds at least what the conditions mean. Where it cannot mean the same, because labels are spelt
differently or a series is odd (`labels.py`), the conditions are looked at again on this side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from headspring.knowledge.series.port import Matcher, MatchOp
from headspring.knowledge.series.re2 import check_length
from headspring.knowledge.series.victoria.labels import (
    ENTITY,
    MAX_NAME_BYTES,
    NAME,
    ORIGINAL,
    RESERVED,
    REST,
    SERIES,
    TENANT,
    series_key,
)
from headspring.proto.errors import QueryError
from headspring.proto.semantics import prometheus_name

_WRITABLE = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_WORDS = frozenset(("or",))
"""Means something else than a label in the selectors of newer servers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How series are asked for."""

    selectors: tuple[str, ...]
    """Their union holds every series that matches."""
    recheck: tuple[Matcher, ...]
    """All conditions, for odd series; empty when none can be among the answers by mistake."""
    recheck_all: bool
    """Whether series that are not odd must be looked at again too."""


def plan(tenant: str, matchers: Sequence[Matcher], fresh: str = "") -> Plan:
    """
    Args:
        fresh: see `unseen`.

    Raises:
        QueryError: a condition holds text that cannot be sent, or too long a pattern.
    """
    sure = [_filter(TENANT, MatchOp.EQUAL, tenant), *unseen(fresh)]
    """True of odd series too."""
    names: tuple[str, ...] = ()
    """If set, one of these must be true as well."""
    plain: list[str] = []
    """True of series that are not odd."""
    recheck_all = False
    for matcher in matchers:
        if matcher.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            check_length(matcher.value)
        if matcher.label == NAME:
            if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
                spelt_so = prometheus_name(matcher.value) == matcher.value
                sure.append(_filter(NAME if spelt_so else ORIGINAL, matcher.op, matcher.value))
            elif matcher.op is MatchOp.REGEX and not names:
                names = (
                    _filter(NAME, matcher.op, matcher.value),
                    f'{_filter(ORIGINAL, matcher.op, matcher.value)},{ORIGINAL}!=""',
                )
            else:
                recheck_all = True
                if matcher.op is MatchOp.NOT_REGEX:
                    sure.append(_filter(NAME, matcher.op, matcher.value))
        elif matcher.label == ENTITY:
            sure.append(_filter(ENTITY, matcher.op, matcher.value))
        elif _asked_as_is(matcher.label):
            plain.append(_filter(matcher.label, matcher.op, matcher.value))
        else:
            recheck_all = True
            spelt = prometheus_name(matcher.label)
            if matcher.op is MatchOp.EQUAL and matcher.value and _asked_as_is(spelt):
                plain.append(_filter(spelt, matcher.op, matcher.value))
    selectors: list[str] = []
    for name in names or ("",):
        always = [*sure, name] if name else sure
        selectors.append("{" + ",".join([*always, *plain]) + "}")
        if plain:
            selectors.append("{" + ",".join([*always, f'{REST}!=""']) + "}")
    return Plan(tuple(selectors), tuple(matchers) if plain or recheck_all else (), recheck_all)


def by_ids(tenant: str, series_ids: Sequence[int], fresh: str = "") -> str:
    """The selector of all series with these ids, described or not."""
    pattern = "|".join(map(series_key, series_ids))
    op = MatchOp.REGEX if len(series_ids) > 1 else MatchOp.EQUAL
    filters = (_filter(TENANT, MatchOp.EQUAL, tenant), *unseen(fresh), _filter(SERIES, op, pattern))
    return "{" + ",".join(filters) + "}"


def of_tenant(tenant: str, fresh: str = "") -> str:
    """The selector of everything a tenant has."""
    return "{" + ",".join((_filter(TENANT, MatchOp.EQUAL, tenant), *unseen(fresh))) + "}"


def unseen(fresh: str) -> tuple[str, ...]:
    """A condition that is true of every series and that the server has not met before; none without `fresh`.

    The server remembers which series a set of conditions found, for up to ten seconds after new ones came; that
    `/internal/force_flush` makes it forget depends on which of its background flushes came first.
    """
    return (f'__unseen__!="{fresh}"',) if fresh else ()


def _asked_as_is(label: str) -> bool:
    return (
        label not in RESERVED
        and label.lower() not in _WORDS
        and len(label) <= MAX_NAME_BYTES
        and _WRITABLE.fullmatch(label) is not None
    )


def _filter(label: str, op: MatchOp, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"the condition on {label!r} holds text that is not Unicode") from error
    return f"{label}{op.value}{json.dumps(value, ensure_ascii=False)}"
