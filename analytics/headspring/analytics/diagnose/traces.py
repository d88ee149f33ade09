"""Clues from spans: who failed first, who took the extra time, who stopped calling, who no longer answers.

"Before" and "after" are compared per kind of request (operation of the topmost span), so that a change
in the mix of requests is not taken for a fault. Errors and time are charged to the entity that owns
them: an unanswered call to whom it was addressed, the gap between a call and its answer to both ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.diagnose.case import Clue
from headspring.analytics.diagnose.spans import Forest, names
from headspring.knowledge.topology.graph import Topology
from headspring.knowledge.traces.port import SpanTable
from headspring.proto.incident import CauseKind

_MIN_TRACES = 3
"""Requests of one kind on each side without which nothing is compared."""
_GAP_TO_CALLEE = 0.6
"""Share of the time between a call and its answer that is charged to the callee; the caller gets the rest."""
_MATERIAL = 0.1
"""Extra time below this share of a request's normal duration does not count in full."""
_MIN_EVENTS = 3
"""Failures without which nobody is blamed for failing."""
_CONNECTION_WORDS = ("refused", "connect", "unreachable", "reset", "unavailable", "no route", "broken pipe", "retries")
_RESPONSE_PREFIX = ("HTTP ",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFacts:
    """What the spans say, per entity."""

    clues: tuple[Clue, ...]
    symptoms: Mapping[str, float]
    """Entity → strength 0..1 of latency or errors seen on its own requests."""
    unreachable: frozenset[str]
    """Entities that calls no longer reach."""


def select(table: SpanTable, keep: NDArray[np.bool_]) -> SpanTable:
    """The rows of a table where `keep` holds."""
    return SpanTable(**{name: getattr(table, name)[keep] for name in table.__slots__})


def joined(first: SpanTable, second: SpanTable) -> SpanTable:
    """Two tables as one."""
    return SpanTable(**{n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in first.__slots__})


def trace_facts(
    before: SpanTable, after: SpanTable, topology: Topology, *, ignore: frozenset[str] = frozenset()
) -> TraceFacts:
    """All trace clues.

    Args:
        before: Spans of the normal period; may be empty, then only failures are looked at.
        after: Spans from the onset on.
        topology: For calls whose callee no span names.
        ignore: Entities whose share in failures and time is explained elsewhere and left out.
    """
    old, new = Forest.of(before), Forest.of(after)
    resolve = _resolver(old, new, topology)
    failing, unreachable, failing_share = _first_failing(old, new, resolve, ignore)
    time, slow = _extra_time(old, new, resolve, ignore)
    clues = [*failing, *time, *_stopped_calling(old, new)]
    symptoms: dict[str, float] = {}
    for entity, strength in [*failing_share.items(), *slow.items()]:
        symptoms[entity] = max(symptoms.get(entity, 0.0), strength)
    return TraceFacts(clues=tuple(clues), symptoms=symptoms, unreachable=frozenset(unreachable))


def _resolver(old: Forest, new: Forest, topology: Topology) -> Callable[[Forest, int], str]:
    """Whom an unanswered call was addressed to; "" unknown.

    The span's own word counts first; then what calls of that name reached when they were answered; among
    several, the one that falls shortest of its usual share; then the only callee the topology knows.
    """
    answered: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    answered_now: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for forest, into in ((old, answered), (new, answered_now)):
        for row in np.flatnonzero(forest.crossing):
            up = forest.parent[row]
            into[(forest.table.entity[up], forest.table.operation[up])][forest.table.entity[row]] += 1
    calls_before = max(len(old.table), 1)
    scale = len(new.table) / calls_before
    served = Counter(new.table.entity[new.entry].tolist())
    served_before = Counter(old.table.entity[old.entry].tolist())
    cache: dict[tuple[str, str], str] = {}

    def guess(caller: str, operation: str) -> str:
        usual = answered.get((caller, operation)) or answered_now.get((caller, operation))
        if usual:
            lack = {c: n * scale - answered_now[(caller, operation)][c] for c, n in usual.items()}
            return max(sorted(lack), key=lambda c: (lack[c], usual[c]))
        known = [c for c in topology.callees(caller) if not c.startswith("host:")]
        silent = [c for c in known if served[c] == 0 and (served_before[c] > 0 or len(known) == 1)]
        return silent[0] if len(silent) == 1 else (known[0] if len(known) == 1 else "")

    def resolve(forest: Forest, row: int) -> str:
        peer = str(forest.table.peer[row])
        if peer:
            return peer
        key = (str(forest.table.entity[row]), str(forest.table.operation[row]))
        if key not in cache:
            cache[key] = guess(*key)
        return cache[key]

    return resolve


def _blamed(forest: Forest, resolve: Callable[[Forest, int], str]) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Deepest failures by (entity, what happened), and failed requests by entity."""
    table = forest.table
    failed = table.status == "error"
    child_failed = np.zeros(len(table), dtype=np.bool_)
    rows = np.flatnonzero(failed & (forest.parent >= 0))
    child_failed[forest.parent[rows]] = True
    answer = np.full(len(table), -1, dtype=np.int64)
    crossing = np.flatnonzero(forest.crossing)
    answer[forest.parent[crossing]] = crossing
    blamed: Counter[tuple[str, str]] = Counter()
    for row in np.flatnonzero(failed & ~child_failed):
        entity = str(table.entity[row])
        if forest.outward[row]:
            if answer[row] >= 0:
                blamed[(str(table.entity[answer[row]]), "timeout")] += 1
                continue
            callee = resolve(forest, int(row))
            message = str(table.status_message[row]).lower()
            refused = any(word in message for word in _CONNECTION_WORDS)
            blamed[(callee or entity, "unreachable" if callee and (refused or not message) else "call")] += 1
        else:
            blamed[(entity, "own")] += 1
    return blamed, Counter(table.entity[failed & forest.entry].tolist())


def _first_failing(
    old: Forest, new: Forest, resolve: Callable[[Forest, int], str], ignore: frozenset[str]
) -> tuple[list[Clue], set[str], dict[str, float]]:
    now, failed_now = _blamed(new, resolve)
    then, failed_then = _blamed(old, resolve)
    entries_now = Counter(new.table.entity[new.entry].tolist())
    entries_then = Counter(old.table.entity[old.entry].tolist())
    scale = sum(entries_now.values()) / max(sum(entries_then.values()), 1)
    excess: dict[str, float] = defaultdict(float)
    how: dict[str, Counter[str]] = defaultdict(Counter)
    for (entity, what), count in sorted(now.items()):
        more = count - then[(entity, what)] * scale
        if more > 0 and entity not in ignore:
            excess[entity] += more
            how[entity][what] += round(more)
    shares = {
        entity: max(0.0, failed_now[entity] / entries_now[entity] - failed_then[entity] / max(entries_then[entity], 1))
        for entity in sorted(failed_now)
    }
    symptoms = {entity: min(1.0, 5 * share) for entity, share in shares.items() if share > 0.01}
    total = sum(excess.values())
    clues: list[Clue] = []
    unreachable: set[str] = set()
    if total < _MIN_EVENTS:
        return clues, unreachable, symptoms
    for entity in sorted(excess):
        share = excess[entity] / total
        if share < 0.02:
            continue
        what = max(sorted(how[entity]), key=lambda kind: how[entity][kind])
        served_before = entries_then[entity] * scale
        silent = what in ("unreachable", "call") and entries_now[entity] <= 0.1 * served_before
        if silent and share >= 0.3:
            unreachable.add(entity)
        text = {
            "own": "fails in its own code: {n:.0f} requests end here with no failing call beneath",
            "timeout": "answers after its callers gave up in {n:.0f} requests",
            "unreachable": "cannot be reached: {n:.0f} calls to it got no answer",
            "call": "{n:.0f} calls to it failed without a trace of an answer",
        }[what]
        certain = min(1.0, excess[entity] / 6)
        clues.append(
            Clue(
                entity=entity,
                kind="trace",
                llr=(6.0 * share - 1.0) * certain,
                summary=text.format(n=excess[entity]) + f" ({share:.0%} of the first failures)",
                cause=CauseKind.CRASH if silent else CauseKind.LATENCY if what == "timeout" else CauseKind.ERRORS,
                value=share,
            )
        )
    return clues, unreachable, symptoms


def _charges(
    forest: Forest, resolve: Callable[[Forest, int], str], codes: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows (root, entity number, nanoseconds): who spent the time of each request."""
    table = forest.table
    owner = names(table.entity, codes)
    own = forest.exclusive_ns.astype(np.float64)
    outward = forest.outward
    answer = np.full(len(table), -1, dtype=np.int64)
    crossing = np.flatnonzero(forest.crossing)
    answer[forest.parent[crossing]] = crossing
    answered = np.flatnonzero(outward & (answer >= 0))
    extra = own[answered] * _GAP_TO_CALLEE
    own[answered] -= extra
    lonely = np.flatnonzero(outward & (answer < 0))
    for row in lonely:
        callee = resolve(forest, int(row))
        if callee:
            owner[row] = codes.setdefault(callee, len(codes))
    return (
        np.concatenate([forest.root, forest.root[answered]]),
        np.concatenate([owner, owner[answer[answered]]]),
        np.concatenate([own, extra]),
    )


def _extra_time(
    old: Forest, new: Forest, resolve: Callable[[Forest, int], str], ignore: frozenset[str]
) -> tuple[list[Clue], dict[str, float]]:
    if not len(old.table) or not len(new.table):
        return [], {}
    codes: dict[str, int] = {}
    kinds: dict[str, int] = {}
    sums = []
    for forest in (old, new):
        root, entity, ns = _charges(forest, resolve, codes)
        top = np.unique(forest.root)
        place = np.searchsorted(top, root)
        kind = names(forest.table.operation[top], kinds)
        sums.append((top, place, entity, ns, kind, forest.table.duration_ns[top]))
    n = len(codes)
    grids = []
    for top, place, entity, ns, kind, duration in sums:
        grid = np.zeros((top.size, n))
        np.add.at(grid, (place, entity), ns)
        grids.append((grid, kind, duration.astype(np.float64)))
    (grid_old, kind_old, took_old), (grid_new, kind_new, _) = grids
    delta, variance, weight, normal_took = np.zeros(n), np.zeros(n), 0, 0.0
    for number in range(len(kinds)):
        a, b = grid_new[kind_new == number], grid_old[kind_old == number]
        if len(a) < _MIN_TRACES or len(b) < _MIN_TRACES:
            continue
        delta += len(a) * (a.mean(axis=0) - b.mean(axis=0))
        variance += len(a) ** 2 * (a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
        normal_took += len(a) * float(np.median(took_old[kind_old == number]))
        weight += len(a)
    if not weight:
        return [], {}
    delta, error, normal_took = delta / weight, np.sqrt(variance) / weight, normal_took / weight
    longer = np.maximum(delta, 0.0)
    longer[[code for name, code in codes.items() if name in ignore]] = 0.0
    total = float(longer.sum())
    if total <= 0:
        return [], {}
    clues: list[Clue] = []
    slow: dict[str, float] = {}
    for name, code in sorted(codes.items()):
        share = float(longer[code] / total)
        sure = float(np.clip(delta[code] / max(error[code], 1e3) / 4, 0.0, 1.0))
        material = float(np.clip(delta[code] / max(_MATERIAL * normal_took, 1e5), 0.0, 1.0))
        if share < 0.05 or sure * material < 0.05:
            continue
        slow[name] = share * sure * material
        clues.append(
            Clue(
                entity=name,
                kind="trace",
                llr=(6.0 * share - 0.8) * sure * material,
                summary=f"adds {delta[code] / 1e6:.1f} ms of its own to each request ({share:.0%} of the extra time)",
                cause=CauseKind.LATENCY,
                value=float(delta[code] / 1e6),
                deviation=float(min(delta[code] / max(error[code], 1e3), 50.0)),
            )
        )
    return clues, slow


def _calls_per_request(forest: Forest) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(entity, operation it serves) → calls to others under each such request."""
    table = forest.table
    own = np.arange(len(table))
    up = np.where(forest.entry | forest.crossing | (forest.parent < 0), own, forest.parent)
    for _ in range(8):
        following = up[up]
        if (following == up).all():
            break
        up = following
    made = np.bincount(up[forest.outward], minlength=len(table)).astype(np.float64)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in np.flatnonzero(forest.entry):
        found[(str(table.entity[row]), str(table.operation[row]))].append(made[row])
    return {key: np.array(values) for key, values in found.items()}


def _stopped_calling(old: Forest, new: Forest) -> list[Clue]:
    """Entities that serve as before but call others less: they give up midway."""
    then, now = _calls_per_request(old), _calls_per_request(new)
    best: dict[str, tuple[float, str]] = {}
    for key in sorted(then.keys() & now.keys()):
        a, b = now[key], then[key]
        if len(a) < 5 or len(b) < 5 or b.mean() < 0.2:
            continue
        fewer = 1.0 - a.mean() / b.mean()
        error = np.sqrt(a.var() / len(a) + b.var() / len(b)) + 0.02 * b.mean()
        score = float(np.clip((b.mean() - a.mean()) / error / 6, 0.0, 1.0) * min(1.0, 2 * max(fewer, 0.0)))
        if score > best.get(key[0], (0.1, ""))[0]:
            best[key[0]] = (score, f"makes {a.mean():.1f} calls per {key[1]} instead of {b.mean():.1f}")
    return [
        Clue(entity=entity, kind="trace", llr=2.0 * score, summary=text, cause=CauseKind.ERRORS, value=score)
        for entity, (score, text) in sorted(best.items())
    ]
