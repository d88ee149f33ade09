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

from headspring.analytics.diagnose.behaviour import behaviour_clues, changed
from headspring.analytics.diagnose.case import Clue, LogTable
from headspring.analytics.diagnose.spans import Forest
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
    before: SpanTable,
    after: SpanTable,
    topology: Topology,
    *,
    ignore: frozenset[str] = frozenset(),
    logs: LogTable | None = None,
) -> TraceFacts:
    """All trace clues.

    Args:
        before: Spans of the normal period; may be empty, then only failures are looked at.
        after: Spans from the onset on.
        topology: For calls whose callee no span names.
        logs: Lines with the ids of the spans that wrote them, for what requests do.
        ignore: Entities whose share in failures and time is explained elsewhere and left out.
    """
    old, new = Forest.of(before), Forest.of(after)
    resolve = _resolver(old, new, topology)
    failing, unreachable, failing_share = _first_failing(old, new, resolve, ignore)
    time, slow = _extra_time(old, new, resolve, ignore)
    acting = [clue for clue in behaviour_clues(old, new, logs) if clue.entity not in ignore]
    clues = [*failing, *time, *acting]
    symptoms: dict[str, float] = {}
    for entity, strength in [*failing_share.items(), *slow.items(), *changed(acting).items()]:
        symptoms[entity] = max(symptoms.get(entity, 0.0), strength)
    return TraceFacts(clues=tuple(clues), symptoms=symptoms, unreachable=frozenset(unreachable))


def _resolver(old: Forest, new: Forest, topology: Topology) -> Callable[[Forest, int], str]:
    """Whom an unanswered call was addressed to; "" unknown.

    The span's own word counts first; then whom the call at this place in this kind of request reached when it
    was answered; several of those are told apart by who falls short of the usual; then the only callee known.
    """
    answered: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    reached: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for forest, into in ((old, answered), (new, reached)):
        for row in np.flatnonzero(forest.crossing):
            up = int(forest.parent[row])
            for key in (_place(forest, up), _place(forest, up)[:2]):
                into[key][str(forest.table.entity[row])] += 1
    served = Counter(new.table.entity[new.entry].tolist())
    served_before = Counter(old.table.entity[old.entry].tolist())
    cache: dict[tuple[str, ...], str] = {}

    def guess(place: tuple[str, ...]) -> str:
        caller = place[0]
        now = reached[place[:2]]
        # The caller's own traffic is the measure: what it was asked for then and now.
        scale = served[caller] / served_before[caller] if served_before[caller] else 1.0
        usual = answered.get(place) or answered.get(place[:2]) or reached.get(place) or reached.get(place[:2])
        if usual:
            often = answered.get(place[:2]) or usual
            short = [callee for callee in usual if now[callee] < 0.7 * scale * often[callee]]
            return max(sorted(short or usual), key=lambda callee: usual[callee])
        known = [callee for callee in topology.callees(caller) if not callee.startswith("host:")]
        silent = [callee for callee in known if served[callee] == 0 and served_before[callee] > 0]
        return silent[0] if len(silent) == 1 else (known[0] if len(known) == 1 else "")

    def resolve(forest: Forest, row: int) -> str:
        peer = str(forest.table.peer[row])
        if peer:
            return peer
        place = _place(forest, row)
        if place not in cache:
            cache[place] = guess(place)
        return cache[place]

    return resolve


def _place(forest: Forest, row: int) -> tuple[str, ...]:
    """Where a call is made: caller, name of the call, what the caller was doing, the how-manieth call of that."""
    up = int(forest.parent[row])
    doing = str(forest.table.operation[up]) if up >= 0 else ""
    return str(forest.table.entity[row]), str(forest.table.operation[row]), doing, str(forest.rank[row])


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


@dataclass(frozen=True, slots=True)
class _Served:
    """Own time of each served request: who served what, and the nanoseconds it spent itself."""

    unit: NDArray[np.int64]
    """Number of (entity, operation)."""
    own_ns: NDArray[np.float64]
    took_ns: NDArray[np.float64]


def _served(forest: Forest, resolve: Callable[[Forest, int], str], units: dict[tuple[str, str], int]) -> _Served:
    table = forest.table
    own = forest.exclusive_ns.astype(np.float64)
    charged = forest.serving.copy()
    unit_of_row: dict[int, tuple[str, str]] = {}
    answer = np.full(len(table), -1, dtype=np.int64)
    crossing = np.flatnonzero(forest.crossing)
    answer[forest.parent[crossing]] = crossing
    answered = np.flatnonzero(forest.outward & (answer >= 0))
    extra = own[answered] * _GAP_TO_CALLEE
    own[answered] -= extra
    for row in np.flatnonzero(forest.outward & (answer < 0)):
        callee = resolve(forest, int(row))
        if callee:
            charged[row] = row
            unit_of_row[int(row)] = (callee, str(table.operation[row]))
    total = np.zeros(len(table))
    np.add.at(total, charged, own)
    np.add.at(total, forest.serving[answer[answered]], extra)
    rows = np.unique(charged)
    unit = np.fromiter(
        (
            units.setdefault(unit_of_row.get(int(row), (str(table.entity[row]), str(table.operation[row]))), len(units))
            for row in rows
        ),
        dtype=np.int64,
        count=rows.size,
    )
    return _Served(unit=unit, own_ns=total[rows], took_ns=table.duration_ns[rows].astype(np.float64))


def _extra_time(
    old: Forest, new: Forest, resolve: Callable[[Forest, int], str], ignore: frozenset[str]
) -> tuple[list[Clue], dict[str, float]]:
    """Time that entities add themselves: the change per request that they serve, times how often they do."""
    if not len(old.table) or not len(new.table):
        return [], {}
    units: dict[tuple[str, str], int] = {}
    then, now = _served(old, resolve, units), _served(new, resolve, units)
    n = len(units)
    count_then, mean_then, var_then = _moments(then.unit, then.own_ns, n)
    count_now, mean_now, var_now = _moments(now.unit, now.own_ns, n)
    _, took_then, _ = _moments(then.unit, then.took_ns, n)
    enough = (count_then >= _MIN_TRACES) & (count_now >= _MIN_TRACES)
    requests = max(int((new.root == np.arange(len(new.table))).sum()), 1)
    usual_ns = float(np.median(old.table.duration_ns[np.unique(old.root)]))
    added: dict[str, float] = defaultdict(float)
    variance: dict[str, float] = defaultdict(float)
    relative: dict[str, float] = defaultdict(float)
    for (entity, _), code in sorted(units.items()):
        if not enough[code] or entity in ignore:
            continue
        delta = mean_now[code] - mean_then[code]
        added[entity] += count_now[code] * delta / requests
        variance[entity] += (count_now[code] / requests) ** 2 * (
            var_now[code] / count_now[code] + var_then[code] / count_then[code]
        )
        relative[entity] = max(relative[entity], delta / max(took_then[code], 1e6))
    total = sum(value for value in added.values() if value > 0)
    clues: list[Clue] = []
    slow: dict[str, float] = {}
    for entity in sorted(added):
        delta, error = added[entity], max(variance[entity] ** 0.5, 1e3)
        share = max(delta, 0.0) / total if total > 0 else 0.0
        sure = float(np.clip(delta / error / 4, 0.0, 1.0))
        material = float(np.clip(max(delta / max(_MATERIAL * usual_ns, 1e5), relative[entity]), 0.0, 1.0))
        if share < 0.05 or sure * material < 0.05:
            continue
        slow[entity] = share * sure * material
        clues.append(
            Clue(
                entity=entity,
                kind="trace",
                llr=(6.0 * share - 0.8) * sure * material,
                summary=f"adds {delta / 1e6:.1f} ms of its own to each request ({share:.0%} of the extra time)",
                cause=CauseKind.LATENCY,
                value=delta / 1e6,
                deviation=min(delta / error, 50.0),
            )
        )
    return clues, slow


def _moments(
    group: NDArray[np.int64], value: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count, mean and variance of the values of each of `n` groups."""
    count = np.bincount(group, minlength=n).astype(np.float64)
    safe = np.maximum(count, 1.0)
    mean = np.bincount(group, weights=value, minlength=n) / safe
    square = np.bincount(group, weights=value**2, minlength=n) / safe
    return count, mean, np.maximum(square - mean**2, 0.0)
