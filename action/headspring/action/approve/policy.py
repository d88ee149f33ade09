"""The rules of consent, as one pure function. The store adds the last one: the first decision counts."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from headspring.action.views import RunView
from headspring.proto.action import RunState
from headspring.proto.errors import Conflict, Forbidden, PreconditionFailed

_RANK = {"viewer": 0, "operator": 1, "admin": 2}


def check_decision(
    run: RunView, *, verdict: str, actor: str, role: str, roles: Sequence[str], digest: str, now_ns: int
) -> None:
    """Whether `actor` may decide about `run` now.

    Args:
        roles: Roles that the runbook lets decide; a higher role may too.

    Raises:
        Forbidden: the role may not, or an approver asked for the run.
        PreconditionFailed: the digest is of another plan, or the request's time is over.
        Conflict: the run waits for no decision.
    """
    needed = min((_RANK[one] for one in roles if one in _RANK), default=_RANK["admin"])
    if _RANK.get(role, -1) < max(needed, _RANK["operator"]):
        raise Forbidden(f"{actor} has the role {role}; this run needs {' or '.join(roles)}")
    if verdict == "approve" and actor == run.requested_by:
        raise Forbidden(f"{actor} asked for this run; somebody else must approve it")
    if run.state is not RunState.WAITING_APPROVAL:
        who = f", {run.decisions[-1].verdict} by {run.decisions[-1].actor}" if run.decisions else ""
        raise Conflict(f"run {run.run_id} is {run.state}{who}; it waits for no decision")
    if not hmac.compare_digest(digest.encode(), run.plan.digest.encode()):
        raise PreconditionFailed(
            f"the digest {digest[:12]}… is of another plan; this run's is {run.plan.digest[:12]}…: read the plan again"
        )
    if now_ns >= run.plan.expires_ns:
        raise PreconditionFailed("the request has expired; that means no. Ask again if it is still needed")
