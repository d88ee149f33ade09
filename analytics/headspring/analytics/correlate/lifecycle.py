"""The life of an incident, as a table: state × what happened → next state. What is not in the table changes nothing.

::

    open ──acknowledge──► acknowledged ──action starts──► mitigating
      ▲                                                     │
      └───────────── relapse ──── settling ◄── all alerts ended (from any of them)
                                     │
                                     └── quiet for `settle_s` ──► resolved ── relapse ──► open
"""

from __future__ import annotations

from enum import StrEnum

from headspring.proto.incident import IncidentState


class Happening(StrEnum):
    FIRED = "fired"
    """A member fires, new or again."""
    ALL_ENDED = "all_ended"
    SETTLED = "settled"
    """All ended and nothing came back for a while."""
    ACKNOWLEDGED = "acknowledged"
    ACTION_STARTED = "action_started"
    ACTION_ENDED = "action_ended"
    CLOSED = "closed"
    """A person, or silence for a very long time, ended it."""
    MERGED = "merged"


_S, _H = IncidentState, Happening
_ALIVE = (_S.OPEN, _S.ACKNOWLEDGED, _S.MITIGATING)

TRANSITIONS: dict[tuple[IncidentState, Happening], IncidentState] = {
    (_S.OPEN, _H.ACKNOWLEDGED): _S.ACKNOWLEDGED,
    (_S.OPEN, _H.ACTION_STARTED): _S.MITIGATING,
    (_S.ACKNOWLEDGED, _H.ACTION_STARTED): _S.MITIGATING,
    # Somebody approved the action, so somebody knows of the incident.
    (_S.MITIGATING, _H.ACTION_ENDED): _S.ACKNOWLEDGED,
    **{(state, _H.ALL_ENDED): _S.SETTLING for state in _ALIVE},
    (_S.SETTLING, _H.FIRED): _S.OPEN,
    (_S.SETTLING, _H.SETTLED): _S.RESOLVED,
    (_S.RESOLVED, _H.FIRED): _S.OPEN,
    **{(state, _H.CLOSED): _S.RESOLVED for state in (*_ALIVE, _S.SETTLING)},
    **{(state, _H.MERGED): _S.MERGED for state in (*_ALIVE, _S.SETTLING, _S.RESOLVED)},
}


def after(state: IncidentState, happening: Happening) -> IncidentState:
    """The next state; the same where the happening means nothing to it."""
    return TRANSITIONS.get((state, happening), state)
