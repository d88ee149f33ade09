"""Earlier incidents like this one: what was it then, and what helped?

Likeness is a weighted mean of Jaccard indices over what both incidents can be compared by; the parts are
kept, so that a person sees why one is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from headspring.knowledge.documents.port import DocumentStore
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Incident, IncidentState

WEIGHTS: Mapping[str, float] = {"entities": 0.35, "alerts": 0.35, "cause": 0.3}
"""Where it hurt, how it showed and what was to blame count about alike; no data set stands behind more digits."""
MIN_LIKENESS = 0.3
"""Below this two incidents share little more than one busy service."""
_MAX_CANDIDATES = 500
"""Resolved incidents looked at, newest first."""
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """An earlier incident and how much it is like the one asked about."""

    incident: Incident
    diagnosis: Diagnosis | None
    likeness: float
    """0..1."""
    components: Mapping[str, float]
    """`entities`, `alerts`, `cause`, each 0..1; a part that one of the two lacks is left out."""


def similar_incidents(
    incident: Incident, diagnosis: Diagnosis | None, documents: DocumentStore, limit: int = 5
) -> tuple[Similar, ...]:
    """Resolved incidents of the same tenant by likeness, the more recent first among equals. Blocks on the store."""
    names = {incident.incident_id, *incident.aliases}
    mine = _shape(incident, diagnosis)
    found: list[Similar] = []
    cursor = ""
    for _ in range(_MAX_CANDIDATES // _PAGE):
        page = documents.incidents(incident.tenant, states=(IncidentState.RESOLVED.value,), limit=_PAGE, cursor=cursor)
        for other in page.items:
            if other.incident_id in names or other.opened_ns > incident.opened_ns:
                continue
            other_diagnosis = documents.diagnosis(other.tenant, other.incident_id)
            likeness, components = likeness_of(mine, _shape(other, other_diagnosis))
            if likeness >= MIN_LIKENESS:
                found.append(
                    Similar(incident=other, diagnosis=other_diagnosis, likeness=likeness, components=components)
                )
        cursor = page.next_cursor
        if not cursor:
            break
    found.sort(key=lambda one: (-one.likeness, -one.incident.opened_ns, one.incident.incident_id))
    return tuple(found[: max(0, limit)])


def likeness_of(
    left: Mapping[str, AbstractSet[str]], right: Mapping[str, AbstractSet[str]]
) -> tuple[float, dict[str, float]]:
    """Weighted mean of the Jaccard indices of the parts that both sides have, and the indices.

    >>> likeness_of({"entities": {"a"}, "alerts": {"x"}}, {"entities": {"a", "b"}, "cause": {"c"}})
    (0.5, {'entities': 0.5})
    """
    components = {
        part: len(left[part] & right[part]) / len(left[part] | right[part])
        for part in WEIGHTS
        if left.get(part) and right.get(part)
    }
    weight = sum(WEIGHTS[part] for part in components)
    if not weight:
        return 0.0, {}
    return sum(WEIGHTS[part] * value for part, value in components.items()) / weight, components


def _shape(incident: Incident, diagnosis: Diagnosis | None) -> dict[str, AbstractSet[str]]:
    shape: dict[str, AbstractSet[str]] = {
        "entities": set(incident.entities),
        "alerts": {member.alert.name for member in incident.members if member.alert.name},
    }
    best = diagnosis.hypotheses[0] if diagnosis is not None and diagnosis.hypotheses else None
    # An inconclusive diagnosis says nothing, so it neither matches nor speaks against a match.
    if diagnosis is not None and best is not None and diagnosis.status is not DiagnosisStatus.INCONCLUSIVE:
        shape["cause"] = {f"entity={best.entity}", f"kind={best.kind.value}"}
    return shape
