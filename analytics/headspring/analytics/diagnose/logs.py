"""Clues from logs: error lines that are new or far more frequent, per entity.

Lines are reduced to templates with simple masks (numbers, ids, addresses, quoted text). Frequencies are
shares of all lines, so that more traffic alone is no clue.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from headspring.analytics.diagnose.case import Clue, LogTable
from headspring.proto.incident import CauseKind

_MASKS = (
    (re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27,}"), "<id>"),
    (re.compile(r"\b(?:0x)?[0-9a-fA-F]{12,}\b"), "<id>"),
    (re.compile(r"\"[^\"]{0,200}\"|'[^']{0,200}'"), "<text>"),
    (re.compile(r"\d+(?:[.:]\d+)*"), "<n>"),
)
_MAX_TEMPLATE_CHARS = 160
_MAX_LINES = 200_000
_ERROR, _WARNING = 17, 13
_ERROR_WORDS = re.compile(r"\b(?:error|exception|fail(?:ed|ure)?|fatal|panic|refused|timed? ?out|traceback)\b", re.I)
_OF_OTHERS = 0.2
"""Share left to a line of an entity's log that names what the entity calls."""
_MIN_NAME = 3
"""Characters; shorter names stand in too many lines by chance."""
_WEIGHT = {"error": 1.0, "warning": 0.4, "info": 0.03}


def template(body: str) -> str:
    """
    >>> template("order 17 of 'ann' failed after 3.5 ms")
    'order <n> of <text> failed after <n> ms'
    """
    text = body[:400]
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text[:_MAX_TEMPLATE_CHARS]


def level(severity: int, body: str) -> str:
    """`error`, `warning` or `info`; the text decides where the record gives no severity."""
    if severity >= _ERROR:
        return "error"
    if severity >= _WARNING:
        return "warning"
    if severity == 0 and _ERROR_WORDS.search(body):
        return "error"
    return "info"


def speaks_of(body: str, names: Iterable[str]) -> bool:
    """Whether a line names one of these, as a word of its own.

    >>> speaks_of("payment cannot be reached: ConnectionError", ["payment", "mail"])
    True
    >>> speaks_of("prepayment failed", ["payment"])
    False
    """
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", body) for name in names if len(name) >= _MIN_NAME)


def log_clues(
    table: LogTable, onset_ns: int, end_ns: int, called: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Clue]:
    """Clues ordered by entity; lines from `onset_ns` on are compared with those before.

    Args:
        called: Entity → names of what it calls. A line that names one of them tells of trouble there.
    """
    rows = range(max(0, len(table) - _MAX_LINES), len(table))
    before: Counter[tuple[str, str]] = Counter()
    after: Counter[tuple[str, str]] = Counter()
    levels: dict[tuple[str, str], str] = {}
    example: dict[tuple[str, str], str] = {}
    masked: dict[str, str] = {}
    first: dict[tuple[str, str], int] = {}
    for row in rows:
        time_ns, body = int(table.time_ns[row]), str(table.body[row])
        if time_ns >= end_ns:
            continue
        if body not in masked:
            masked[body] = template(body)
        key = (str(table.entity[row]), masked[body])
        if time_ns >= onset_ns:
            after[key] += 1
            first.setdefault(key, time_ns)
        else:
            before[key] += 1
        example.setdefault(key, body)
        levels.setdefault(key, level(int(table.severity[row]), body))
    total_before, total_after = max(sum(before.values()), 1), sum(after.values())
    if not total_after:
        return []
    scale = total_after / total_before
    score: dict[str, float] = defaultdict(float)
    all_of: dict[str, float] = defaultdict(float)
    worst: dict[str, tuple[float, tuple[str, str]]] = {}
    for key in sorted(after):
        expected = before[key] * scale
        count = after[key]
        if count < 2 or count <= 2 * expected:
            continue
        # Poisson surprise of seeing `count` where `expected` (smoothed by one line) was usual.
        surprise = _WEIGHT[levels[key]] * max(
            0.0, count * float(np.log(count / (expected + 1.0))) - count + expected + 1
        )
        all_of[key[0]] += surprise
        surprise *= _OF_OTHERS if speaks_of(example[key], called.get(key[0], ())) else 1.0
        score[key[0]] += surprise
        if surprise > worst.get(key[0], (0.0, key))[0]:
            worst[key[0]] = (surprise, key)
    # The strongest sets the measure even if it speaks of another: what is left must not look strong for want of it.
    top = max(all_of.values(), default=0.0)
    if top < 3.0:
        return []
    found = []
    for entity in sorted(worst):
        share = float(np.log1p(score[entity]) / np.log1p(top)) * min(1.0, score[entity] / 6)
        key = worst[entity][1]
        found.append(
            Clue(
                entity=entity,
                kind="log",
                llr=3.0 * (score[entity] / top) + 1.0 * share - 0.5,
                summary=f"{after[key]} lines like “{key[1][:100]}” since the onset, {before[key]} before",
                cause=CauseKind.ERRORS if levels[key] == "error" else CauseKind.UNSPECIFIED,
                value=float(after[key]),
                baseline=float(before[key]),
                onset_ns=first[key],
            )
        )
    return found
