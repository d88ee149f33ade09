"""What a plan promises to check, as one text that people read and machines decode."""

from __future__ import annotations

import json

from pydantic import ValidationError

from headspring.action.runbooks.schema import Check

_MARK = " ⟦"
_END = "⟧"


def encode_check(check: Check) -> str:
    """Human words, then the exact check as JSON between ⟦ and ⟧.

    >>> encode_check(Check(kind="alerts_cleared", within_s=60)).split(" ⟦")[0]
    'every alert of the incident has ended within 60 s'
    """
    exact = json.dumps(check.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{words(check)}{_MARK}{exact}{_END}"


def decode_check(text: str) -> Check | None:
    """The check inside an entry of `Plan.validation`; None where it holds none that is valid."""
    start = text.find(_MARK)
    if start < 0 or not text.endswith(_END):
        return None
    try:
        return Check.model_validate_json(text[start + len(_MARK) : -len(_END)])
    except ValidationError:
        return None


def words(check: Check) -> str:
    """The check in a sentence."""
    if check.kind == "alerts_cleared":
        return f"every alert of the incident has ended within {check.within_s} s"
    query = check.query.replace(_MARK[-1], "").replace(_END, "")
    return f"{query} {check.comparator} {check.threshold:g} within {check.within_s} s"
