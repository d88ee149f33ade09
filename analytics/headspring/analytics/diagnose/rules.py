"""Known failures, as rules: an answer even where little else is known, and the fallback when time runs out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headspring.analytics.diagnose.case import Clue
from headspring.analytics.diagnose.metrics import View, clue, silences
from headspring.analytics.diagnose.severity import Deviation
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind
from headspring.proto.semantics import EDGE_ERROR_RATIO, EDGE_REQUEST_RATE

_FAILING = 0.2
"""Increase of a caller's error ratio that counts as "its calls fail"."""


def crash_clues(view: View, unreachable: frozenset[str]) -> list[Clue]:
    """Silence of an entity while its callers still call it, or fail, is a crash; silence with its callers is not.

    The callers' own calls (edge metrics) are what tells the two apart.
    """
    topology = view.case.topology
    rates, errors = view.edges(EDGE_REQUEST_RATE), view.edges(EDGE_ERROR_RATIO)
    silent = silences(view)
    node_errors = view.named("service_error_ratio")
    into: dict[str, list[str]] = defaultdict(list)
    for caller, callee in sorted(set(rates) | set(errors)):
        into[callee].append(caller)
    found = []
    for entity, item in silent.items():
        callers = sorted({*into[entity], *(c for c in topology.callers(entity))})
        if not callers:
            continue
        failing = [
            caller
            for caller in callers
            if _rise(errors, (caller, entity)) > _FAILING
            or (caller in node_errors and node_errors[caller].value - node_errors[caller].baseline > _FAILING)
        ]
        starving = [caller for caller in callers if caller in silent]
        # Where traces name who cannot be reached, its silent neighbours are only starved.
        if entity in unreachable or (not unreachable and failing and len(starving) < len(callers)):
            found.append(
                clue(
                    view,
                    item,
                    4.5,
                    f"fell silent ({item.baseline:.3g} to {item.value:.3g} requests/s) while "
                    f"{len(failing) or len(callers)} of its callers fail",
                    CauseKind.CRASH,
                )
            )
        elif len(starving) == len(callers):
            found.append(
                clue(view, item, -2.0, "fell silent together with everything that calls it", CauseKind.TRAFFIC)
            )
    return [_as_rule(one) for one in found]


def starved(view: View, unreachable: frozenset[str]) -> frozenset[str]:
    """Silent entities that are silent because everything that calls them is."""
    silent = silences(view)
    callers = {entity: list(view.case.topology.callers(entity)) for entity in silent}
    return frozenset(
        entity
        for entity, above in callers.items()
        if above and entity not in unreachable and all(one in silent for one in above)
    )


def no_demand(view: View, alerted: Sequence[str], unreachable: frozenset[str]) -> str:
    """Where requests come in no more, in words, if that is all that happened; else "".

    It is all when every alerted entity fell silent, and each of them has no caller that is known or only silent ones.
    Whether users stayed away, something before the entries broke, or telemetry is lost on its way looks the same here.
    """
    silent = silences(view)
    hungry = starved(view, unreachable)
    entries = [entity for entity in silent if not view.case.topology.callers(entity) and entity not in unreachable]
    if not alerted or not entries or not set(alerted) <= {*hungry, *entries}:
        return ""
    names = ", ".join(entity_name(entity) for entity in entries[:3]) + (" …" if len(entries) > 3 else "")
    return f"nothing asks {names} any more: their users, what stands before them, or the way telemetry takes from there"


def _rise(edges: Mapping[tuple[str, str], Deviation], key: tuple[str, str]) -> float:
    item = edges.get(key)
    return 0.0 if item is None else item.value - item.baseline


def _as_rule(one: Clue) -> Clue:
    return replace(one, kind="rule")
