"""Clues from what each kind of request makes an entity do: which calls it makes, which lines it logs.

An exception or a wrong return value often costs neither time nor an error status: the request just takes
another way through the code. So for every (entity, operation) the share of requests in which each call or
log template occurs is compared before and after the onset. Trouble below shows above as well (the caller
gets another answer), so the deepest entity that changed is the best guess.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.diagnose.case import Clue, LogTable
from headspring.analytics.diagnose.logs import level, speaks_of, template
from headspring.analytics.diagnose.spans import Forest
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind

_MIN_REQUESTS = 4
"""Requests of one kind on each side without which nothing is compared."""
_MIN_CHANGE = 0.15
"""Change of a share that counts, so that many requests do not turn trifles into clues."""
_MIN_Z = 3.0
_CAP_Z = 12.0
_ERROR_BONUS = 1.5
"""An error line that appears says more than a call that is missing."""
_PASSED_ON = 0.35
"""Share left to an entity when one that it calls has changed too."""

_Unit = tuple[str, str]
_Counts = dict[_Unit, tuple[int, int, Counter[str]]]
"""Requests, those of them while lines were collected, and in how many each event occurs."""
_CALL = "call "
_SILENCE_NS = 30 * 10**9
"""An entity that logs per request and yet wrote nothing for so long before or after one may not have been collected."""


def behaviour_clues(old: Forest, new: Forest, logs: LogTable | None) -> list[Clue]:
    """Clues ordered by entity. Lines without a span id, or of spans that are not here, are left out."""
    alarming: set[str] = set()
    then, now = _counts(old, logs, alarming), _counts(new, logs, alarming)
    below: dict[str, set[str]] = defaultdict(set)
    for caller, callee in sorted(_calls(old) | _calls(new)):
        below[caller].add(callee)
    names = {caller: [entity_name(callee) for callee in sorted(callees)] for caller, callees in below.items()}
    best: dict[str, tuple[float, str]] = {}
    most = 0.0
    for unit in sorted(then.keys() & now.keys()):
        (all_then, covered_then, before), (all_now, covered_now, after) = then[unit], now[unit]
        for event in sorted(before.keys() | after.keys()):
            # Lines that were not collected are no lines that were not written: an ordinary line is compared among
            # requests while the entity's lines were collected. An error line may well be the first there ever was.
            among_all = event.startswith(_CALL) or event in alarming
            n, m = (all_then, all_now) if among_all else (covered_then, covered_now)
            if n < _MIN_REQUESTS or m < _MIN_REQUESTS:
                continue
            p, q = before[event] / n, after[event] / m
            if abs(q - p) < _MIN_CHANGE:
                continue
            # Two proportions with half a request added on each side, so that 0 and 1 have a spread.
            mix = (before[event] + after[event] + 1) / (n + m + 2)
            z = abs(q - p) / float(np.sqrt(mix * (1 - mix) * (1 / n + 1 / m)))
            if z < _MIN_Z:
                continue
            score = min(z, _CAP_Z) * (_ERROR_BONUS if q > p and event in alarming else 1.0)
            most = max(most, score)
            if not event.startswith(_CALL) and speaks_of(event, names.get(unit[0], ())):
                score *= _PASSED_ON
            if score > best.get(unit[0], (0.0, ""))[0]:
                text = f"“{event[:90]}” in {q:.0%} of its {unit[1][:60]} requests, {p:.0%} before"
                best[unit[0]] = (score, text)
    if not best:
        return []
    scores = {
        entity: value * (_PASSED_ON if any(best.get(c, (0.0, ""))[0] >= 0.5 * value for c in below[entity]) else 1.0)
        for entity, (value, _) in best.items()
    }
    # Lines that speak of others do not set the measure, and do not look strong for want of better ones either.
    top = max(*scores.values(), _PASSED_ON * most) if scores else 1.0
    return [
        Clue(
            entity=entity,
            kind="trace",
            llr=(4.5 * scores[entity] / top - 1.0) * min(1.0, scores[entity] / 5),
            summary=best[entity][1],
            cause=CauseKind.ERRORS,
            deviation=best[entity][0],
        )
        for entity in sorted(best)
    ]


def _collected(forest: Forest, logs: LogTable | None) -> NDArray[np.bool_]:
    """For each span: its entity's lines were collected meanwhile, as lines of it shortly before and after tell."""
    table = forest.table
    covered = np.zeros(len(table), dtype=np.bool_)
    if logs is None:
        return covered
    for entity in sorted(set(logs.entity.tolist())):
        times = logs.time_ns[logs.entity == entity]
        rows = np.flatnonzero(table.entity == entity)
        start = table.start_ns[rows]
        end = start + table.duration_ns[rows]
        before = np.searchsorted(times, start, side="right") - 1
        after = np.searchsorted(times, end)
        inside = (before >= 0) & (after < times.size)
        before, after = np.maximum(before, 0), np.minimum(after, times.size - 1)
        covered[rows] = inside & (start - times[before] <= _SILENCE_NS) & (times[after] - end <= _SILENCE_NS)
    return covered


def _counts(forest: Forest, logs: LogTable | None, alarming: set[str]) -> _Counts:
    """(entity, operation) → requests, and in how many of them each event occurs."""
    table = forest.table
    requests: Counter[_Unit] = Counter()
    covered: Counter[_Unit] = Counter()
    collected = _collected(forest, logs)
    seen: set[tuple[int, str]] = set()
    for row in np.flatnonzero(forest.entry):
        unit = (str(table.entity[row]), str(table.operation[row]))
        requests[unit] += 1
        covered[unit] += int(collected[row])
    entry = forest.entry
    for row in np.flatnonzero(forest.outward):
        top = int(forest.serving[row])
        if entry[top]:
            seen.add((top, f"{_CALL}{table.operation[row]}"))
    if logs is not None and logs.span_id is not None and logs.trace_id is not None:
        rows = {key: row for row, key in enumerate(zip(table.trace_id, table.span_id, strict=True))}
        masked: dict[str, str] = {}
        for line in range(len(logs)):
            at = rows.get((logs.trace_id[line], logs.span_id[line]))
            if at is None:
                continue
            top = int(forest.serving[at])
            if not entry[top] or table.entity[top] != logs.entity[line]:
                continue
            body = str(logs.body[line])
            if body not in masked:
                masked[body] = template(body)
            error = level(int(logs.severity[line]), body) == "error"
            if error:
                alarming.add(masked[body])
            if error or collected[top]:
                seen.add((top, masked[body]))
    events: dict[_Unit, Counter[str]] = defaultdict(Counter)
    for top, event in seen:
        events[(str(table.entity[top]), str(table.operation[top]))][event] += 1
    return {unit: (count, covered[unit], events[unit]) for unit, count in requests.items()}


def _calls(forest: Forest) -> set[tuple[str, str]]:
    entity = forest.table.entity
    return {(str(entity[forest.parent[row]]), str(entity[row])) for row in np.flatnonzero(forest.crossing)}


def changed(clues: list[Clue]) -> Mapping[str, float]:
    """Entity → 0..1: how clearly it behaves differently."""
    return {clue.entity: min(1.0, clue.deviation / _CAP_Z) for clue in clues}
