"""Which alert definitions fire by habit: repeats within minutes, and episodes that never led anywhere.

It learns from outcomes only: of each settled episode, whether others around fired with it or it stayed
alone. A verdict marks an alert; nothing is dropped. Errors and critical alerts never get one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headspring.analytics.correlate.signals import Signal
from headspring.proto.clock import NS_PER_S
from headspring.proto.detection import Severity

INFORMATIONAL = "informational"
_DEFINITIONS = 50_000
"""Definitions remembered; the one that fired longest ago goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why an alert alone is not worth a call."""

    reason: str
    rule: str
    components: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class HabitRules:
    flap_repeats: int = 1
    """So many earlier episodes within `flap_window_s` make the next one flapping."""
    flap_window_s: float = 900.0
    habit_episodes: int = 3
    """So many episodes that stayed alone, before a definition can count as habitual."""
    habit_share: float = 0.5
    """And at least this share of all its episodes."""


@dataclass(slots=True)
class _History:
    times_ns: list[int] = field(default_factory=list)
    alone: int = 0
    together: int = 0
    incidents: int = 0
    last: str = ""
    """The incident counted last."""


class Habits:
    """State per definition (fingerprint)."""

    def __init__(self, rules: HabitRules) -> None:
        self._rules = rules
        self._known: OrderedDict[str, _History] = OrderedDict()
        self._incidents = 0

    def judge(self, signal: Signal) -> Verdict | None:
        """Notes the episode; says why it is marked, or None."""
        rules = self._rules
        history = self._known.get(signal.fingerprint)
        if history is None:
            history = self._known[signal.fingerprint] = _History()
            if len(self._known) > _DEFINITIONS:
                self._known.popitem(last=False)
        self._known.move_to_end(signal.fingerprint)
        since = signal.time_ns - round(rules.flap_window_s * NS_PER_S)
        recent = [time for time in history.times_ns if time >= since]
        history.times_ns = [*recent, signal.time_ns][-max(8, rules.flap_repeats + 1) :]
        if signal.rank >= Severity.ERROR.rank:
            return None
        if signal.rank == Severity.INFO.rank:
            return Verdict(reason="for information only", rule=INFORMATIONAL, components={})
        if len(recent) >= rules.flap_repeats:
            return Verdict(
                reason=f"fired {len(recent) + 1} times within {rules.flap_window_s / 60:.0f} minutes",
                rule="flapping",
                components={"episodes": len(recent) + 1},
            )
        total = history.alone + history.together
        if history.alone >= rules.habit_episodes and history.alone >= rules.habit_share * total:
            return Verdict(
                reason=f"{history.alone} of its last {total} episodes came to nothing",
                rule="habitual",
                components={"alone": history.alone, "episodes": total},
            )
        return None

    def outcome(self, fingerprint: str, *, alone: bool) -> None:
        """What a settled episode turned out to be."""
        history = self._known.get(fingerprint)
        if history is None:
            return
        if alone:
            history.alone += 1
        else:
            history.together += 1
        if history.alone + history.together > 64:  # old episodes fade
            history.alone, history.together = history.alone // 2, history.together // 2

    def surprise(self, fingerprint: str) -> float:
        """How telling a definition is, nats: the rarer in past incidents, the more; above 0."""
        history = self._known.get(fingerprint)
        seen = history.incidents if history else 0
        return math.log((self._incidents + 1.5) / (min(seen, self._incidents) + 0.5))

    def opened(self) -> None:
        """One more incident."""
        self._incidents += 1

    def took_part(self, fingerprint: str, incident: str) -> None:
        history = self._known.get(fingerprint)
        if history is not None and history.last != incident:
            history.incidents, history.last = history.incidents + 1, incident

    def acquit(self, fingerprint: str) -> None:
        """A person said that it mattered."""
        self._known.pop(fingerprint, None)

    def dump(self) -> Mapping[str, Any]:
        return {
            "incidents": self._incidents,
            "known": [
                [key, item.times_ns, item.alone, item.together, item.incidents, item.last]
                for key, item in self._known.items()
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._incidents = state["incidents"]
        self._known = OrderedDict(
            (key, _History(times_ns=list(times), alone=alone, together=together, incidents=incidents, last=last))
            for key, times, alone, together, incidents, last in state["known"]
        )
