"""Two confirmed causes in one incident: which alerts belong to the second.

Alerts alone cannot always tell two faults from one below both (`regions`). A diagnosis can: it has seen traces
and each entity's own time. This is the pure part of what correlation does with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headspring.knowledge.topology.graph import Topology
from headspring.proto import semantics
from headspring.proto.detection import Alert
from headspring.proto.ids import entity_name
from headspring.proto.incident import CauseKind, Diagnosis, DiagnosisStatus, Hypothesis

SURE = 0.75
"""Probability from which a cause, likely or confirmed, may take an incident apart beside a confirmed one."""
_COMMITTED = (DiagnosisStatus.CONFIRMED, DiagnosisStatus.LIKELY)
_ERRORS = (semantics.SERVICE_ERROR_RATIO, semantics.EDGE_ERROR_RATIO)
_LATENCY = (
    semantics.SERVICE_LATENCY_MEAN, semantics.SERVICE_LATENCY_P95, semantics.SERVICE_SELF_TIME_MEAN,
    semantics.EDGE_LATENCY_MEAN,
)  # fmt: skip
_SHOWS_AS: Mapping[CauseKind, tuple[str, ...]] = {
    CauseKind.LATENCY: _LATENCY,
    CauseKind.ERRORS: _ERRORS,
    CauseKind.CRASH: _ERRORS,
}


def sure_causes(diagnosis: Diagnosis, topology: Topology) -> tuple[Hypothesis, ...]:
    """Independent causes, best first: none lies above another on the way of calls. () unless one is confirmed."""
    found: list[Hypothesis] = []
    if diagnosis.none or not any(one.status is DiagnosisStatus.CONFIRMED for one in diagnosis.hypotheses):
        return ()
    for one in diagnosis.hypotheses:
        if one.status not in _COMMITTED or one.probability < SURE:
            continue
        if all(_apart(one.entity, other.entity, topology) for other in found):
            found.append(one)
    return tuple(found)


def _apart(one: str, other: str, topology: Topology) -> bool:
    return other not in topology.reach(one, down=True) and one not in topology.reach(other, down=True)


def of_second(alerts: Iterable[Alert], first: Hypothesis, second: Hypothesis, topology: Topology) -> tuple[str, ...]:
    """Ids of the alerts that the second cause explains better than the first.

    What only one of the two can reach, callee → caller, is its own. What both reach goes to the cause whose kind
    shows as that metric, else to the nearer one, else to the first.
    """
    near_first = topology.reach(first.entity, down=False)
    near_second = topology.reach(second.entity, down=False)
    names = {entity_name(entity): entity for entity in topology.by_entity}
    chosen = []
    for alert in alerts:
        spot = names.get(alert.labels.get(semantics.LABEL_CALLEE, ""), alert.entity)
        far = len(topology.nodes) + 1
        one, two = near_first.get(spot, far), near_second.get(spot, far)
        if two < far and (one == far or _better(alert, first, second, one, two)):
            chosen.append(alert.alert_id)
    return tuple(chosen)


def _better(alert: Alert, first: Hypothesis, second: Hypothesis, one: int, two: int) -> bool:
    fits_first = alert.metric in _SHOWS_AS.get(first.kind, ())
    fits_second = alert.metric in _SHOWS_AS.get(second.kind, ())
    if fits_first != fits_second:
        return fits_second
    return two < one
