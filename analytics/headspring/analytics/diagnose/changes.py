"""Changes as a bounded prior: only on an entity that other evidence already points at, only before the onset.

Blaming the last deploy is wrong most of the time (`RootCauseBench`: 1 of 24), so recency alone adds nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from headspring.analytics.diagnose.case import Clue
from headspring.proto.clock import NS_PER_S
from headspring.proto.incident import CauseKind
from headspring.proto.telemetry import Change, ChangeKind

MAX_LLR = 1.5
"""A change multiplies the odds by 4.5 at most."""
_DECAY_S = 900.0
"""The prior falls to a third in this time between change and onset."""
_HORIZON_S = 3600.0
_ACTIVE = (ChangeKind.DEPLOY, ChangeKind.CONFIG, ChangeKind.FLAG, ChangeKind.SCALE, ChangeKind.ROLLBACK)


_WORD = re.compile(r"[A-Za-z]{4,}")
_PLAIN = frozenset(
    {
        "error", "errors", "failed", "failure", "request", "requests", "response", "service", "services", "server",
        "client", "from", "with", "this", "that", "line", "lines", "like", "since", "onset", "before", "after",
        "deploy", "code", "when", "have", "were", "call", "calls", "return", "returned",
    }
)  # fmt: skip
_OUTSIDE = re.compile(
    r"no such host|name resolution|enotfound|nxdomain|certificate (?:has )?expired|quota exceeded|no route to host",
    re.IGNORECASE,
)
"""Causes that no change of ours makes: names that do not resolve, expired certificates, foreign limits."""
_SURGE = 1.7
"""Traffic that grew by this factor explains saturation by itself."""
_WORD_LLR = 0.25
_WORD_CAP = 1.5


def outside_cause(texts: Iterable[str], traffic_ratio: float) -> str:
    """What outside of all changes explains the trouble; "" when nothing does.

    Args:
        texts: What alerts and error lines say.
        traffic_ratio: Traffic of the alerted entity over its normal.
    """
    for text in texts:
        found = _OUTSIDE.search(text)
        if found:
            return found.group(0)
    return f"{traffic_ratio:.1f} times the usual traffic" if traffic_ratio >= _SURGE else ""


def shared_words(change: Change, texts: Sequence[str]) -> tuple[str, ...]:
    """Words that a change and the error texts have in common, in order; words of every incident left out."""
    about = " ".join([change.summary, change.attributes.get("diff", ""), change.attributes.get("files", "")])
    named = {word.lower() for word in _WORD.findall(change.entity)}
    words = {word.lower() for text in texts for word in _WORD.findall(text)} - _PLAIN - named
    return tuple(sorted(words & {word.lower() for word in _WORD.findall(about)}))


def with_commits(changes: Iterable[Change]) -> list[Change]:
    """Deploys carry what their commit says, so that it can be compared with the errors."""
    changes = list(changes)
    commits = {change.change_id: change for change in changes if change.kind is ChangeKind.COMMIT}
    told = []
    for change in changes:
        commit = commits.get(change.attributes.get("commit", ""))
        if commit is not None and commit is not change:
            change = replace(
                change,
                summary=f"{change.summary}: {commit.summary}",
                attributes={**change.attributes, "diff": commit.attributes.get("diff", "")},
            )
        told.append(change)
    return told


def change_clues(
    changes: Iterable[Change],
    own: Mapping[str, float],
    onset_ns: int,
    *,
    onsets: Mapping[str, int] = MappingProxyType({}),
    tolerance_ns: int,
    mechanism: float = 1.0,
    texts: Sequence[str] = (),
) -> list[Clue]:
    """The likeliest change before the onset of every entity whose own evidence reaches `mechanism`.

    Of several, the one counts that shares most words with the errors; the nearest among equals.

    Args:
        own: Entity → log-likelihood ratio of its other clues.
        onset_ns: When the trouble as a whole began.
        onsets: Entity → when it left its own normal, which is what a change of it must come before.
        tolerance_ns: A change this much after the measured onset still counts as before it.
    """
    nearest: dict[str, Change] = {}
    for change in sorted(with_commits(changes), key=lambda c: (c.time_ns, c.change_id)):
        lag_ns = _begin(change.entity, onset_ns, onsets) - change.time_ns
        if change.kind in _ACTIVE and -tolerance_ns <= lag_ns <= _HORIZON_S * NS_PER_S:
            held = nearest.get(change.entity)
            if held is None or len(shared_words(change, texts)) >= len(shared_words(held, texts)):
                nearest[change.entity] = change
    found = []
    for entity, change in sorted(nearest.items()):
        if own.get(entity, 0.0) < mechanism:
            continue
        lag_s = max(0.0, (_begin(entity, onset_ns, onsets) - change.time_ns) / NS_PER_S)
        name = change.version or change.summary or change.change_id
        found.append(
            Clue(
                entity=entity,
                kind="change",
                llr=min(
                    MAX_LLR * math.exp(-lag_s / _DECAY_S)
                    + min(_WORD_CAP, _WORD_LLR * len(shared_words(change, texts))),
                    MAX_LLR,
                ),
                summary=f"{change.kind.value} {name} {lag_s:.0f} s before the trouble began",
                cause=CauseKind.CHANGE,
                onset_ns=change.time_ns,
                change_id=change.change_id,
            )
        )
    return found


def _begin(entity: str, onset_ns: int, onsets: Mapping[str, int]) -> int:
    """When the trouble reached an entity: not before it began anywhere."""
    return max(onset_ns, onsets[entity]) if entity in onsets else onset_ns
