"""The stage: incidents in, diagnoses out, repeated while an incident is young or grows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from headspring.analytics.diagnose.engine import diagnose
from headspring.analytics.diagnose.gather import Ranges, Stores, gather
from headspring.knowledge.documents.port import DocumentStore
from headspring.knowledge.series.port import SeriesStore
from headspring.knowledge.topology.port import TopologyGraph
from headspring.knowledge.traces.port import TraceStore
from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import ContractError, Unavailable
from headspring.proto.incident import Diagnosis, DiagnosisStatus, Incident, IncidentState
from headspring.proto.topics import DIAGNOSES, INCIDENTS, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

_LOG = logging.getLogger(__name__)

_WATCHED = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
"""States in which news of an incident are a reason to diagnose it; once somebody acts on it, its telemetry shows the
action too."""
_LIVE = (*_WATCHED, IncidentState.MITIGATING, IncidentState.SETTLING)
"""States in which an incident's cause is at work elsewhere too, and looks that were planned still take place: an early
action must not hide a second cause."""
_AGAIN_NS = 10 * NS_PER_S
"""A diagnosis that had to do without a store is made again after this."""
_MAX_KNOWN = 500
"""Incidents remembered, newest kept: ended ones are needed to keep their time out of the normal period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseConfig:
    """Settings of the stage; durations in seconds."""

    settle_s: tuple[float, ...] = (3.0, 8.0, 20.0)
    """After an incident opened or grew, it is looked at again so much later: spans and edges trail behind."""
    lead_s: float = 60.0
    """The window begins this long before the first alert."""
    normal_s: float = 1800.0
    """Length of the normal period before the window; what exists of it is used."""
    deadline_s: float = 5.0
    """Kernels that would start later than this are left out of the answer."""


@dataclass(slots=True)
class _Watch:
    """What is remembered of one incident."""

    incident: Incident
    due_ns: list[int] = field(default_factory=list)
    version: int = 0
    answer: str = ""
    cause: str = ""
    """First hypothesis when it is at least likely."""


class DiagnoseStage:
    """`Stage` "analytics.diagnose". Members that are added and time that passes lead to new versions."""

    name = "analytics.diagnose"
    inputs = (INCIDENTS.name,)
    tick_s = 0.5

    def __init__(
        self,
        *,
        clock: Clock,
        topology: TopologyGraph,
        series: SeriesStore,
        traces: TraceStore,
        documents: DocumentStore,
        config: DiagnoseConfig | None = None,
    ) -> None:
        self._clock = clock
        self._stores = Stores(topology=topology, series=series, traces=traces, documents=documents)
        self._config = config or DiagnoseConfig()
        self._watched: dict[tuple[str, str], _Watch] = {}

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """Takes incident versions; the diagnosis itself follows with the next tick.

        Raises:
            ContractError: a record is no incident.
        """
        now_ns = self._clock.now_ns()
        for item in records:
            if item.record.value:
                self._take(codec.decode(Incident, item.record.value), now_ns)
        return []

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        """Diagnoses what is due and publishes answers that differ from the last one."""
        out: list[Outgoing] = []
        for key, watch in list(self._watched.items()):
            if not watch.due_ns or watch.due_ns[0] > now_ns:
                continue
            watch.due_ns = [due for due in watch.due_ns if due > now_ns]
            try:
                found, whole = await asyncio.to_thread(self._diagnose, key, now_ns)
            except Exception:  # noqa: BLE001 - the stage's edge: one incident that cannot be read must not stop the others
                _LOG.exception("incident %s cannot be diagnosed now", key[1])
                continue
            if not whole:
                watch.due_ns = sorted({*watch.due_ns, now_ns + _AGAIN_NS})
            out += self._published(watch, found, whole, now_ns)
        return out

    def snapshot(self) -> bytes:
        return json.dumps(
            [
                {
                    "incident": base64.b64encode(codec.encode(watch.incident)).decode(),
                    "due_ns": watch.due_ns,
                    "version": watch.version,
                    "answer": watch.answer,
                    "cause": watch.cause,
                }
                for watch in self._watched.values()
            ]
        ).encode()

    def restore(self, state: bytes) -> None:
        """
        Raises:
            ContractError: `state` is no snapshot of this stage.
        """
        self._watched = {}
        if not state:
            return
        try:
            for item in json.loads(state):
                incident = codec.decode(Incident, base64.b64decode(item.pop("incident")))
                self._watched[(incident.tenant, incident.incident_id)] = _Watch(incident=incident, **item)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(f"{len(state)} bytes are no diagnosis snapshot: {error!r}") from error

    # Inside

    def _take(self, incident: Incident, now_ns: int) -> None:
        key = (incident.tenant, incident.incident_id)
        watch = self._watched.get(key)
        if watch is not None and incident.version <= watch.incident.version:
            return
        if watch is None:
            watch = self._watched[key] = _Watch(incident=incident)
            grown = True
            while len(self._watched) > _MAX_KNOWN:
                ended = [k for k, w in self._watched.items() if w.incident.state not in _WATCHED]
                del self._watched[ended[0] if ended else next(iter(self._watched))]
        else:
            known = {member.alert.alert_id for member in watch.incident.members}
            grown = any(member.alert.alert_id not in known for member in incident.members)
            grown |= watch.incident.state not in _WATCHED
        watch.incident = incident
        if incident.state not in _LIVE:
            watch.due_ns = []
        elif grown and incident.state in _WATCHED:
            later = (now_ns + round(after * NS_PER_S) for after in self._config.settle_s)
            watch.due_ns = sorted({now_ns, *later})

    def _diagnose(self, key: tuple[str, str], now_ns: int) -> tuple[Diagnosis, bool]:
        """The answer, and whether every store answered."""
        incident = self._watched[key].incident
        others = [watch for other, watch in self._watched.items() if other != key and other[0] == key[0]]
        case = gather(
            incident,
            self._stores,
            Ranges(lead_ns=round(self._config.lead_s * NS_PER_S), normal_ns=round(self._config.normal_s * NS_PER_S)),
            now_ns=now_ns,
            others=[_span_of(watch.incident, now_ns) for watch in others],
            elsewhere=frozenset(watch.cause for watch in others if watch.cause and watch.incident.state in _LIVE),
        )
        return diagnose(case, deadline_s=self._config.deadline_s), not case.unavailable

    def _published(self, watch: _Watch, found: Diagnosis, whole: bool, now_ns: int) -> list[Outgoing]:
        text = _essence(found) if whole else f"without a store: {_essence(found)}"
        best = found.hypotheses[0] if found.hypotheses and not found.none else None
        sure = best is not None and best.status in (DiagnosisStatus.LIKELY, DiagnosisStatus.CONFIRMED)
        watch.cause = best.entity if best is not None and sure else ""
        if text == watch.answer:
            return []
        if not watch.version:
            # A store that is away holds nothing of a new incident; an old one's version came with the state.
            with contextlib.suppress(Unavailable):
                stored = self._stores.documents.diagnosis(found.tenant, found.incident_id)
                watch.version = stored.version if stored is not None else 0
        watch.answer = text
        watch.version += 1
        versioned = replace(found, version=watch.version)
        return [
            Outgoing(
                topic=DIAGNOSES.name,
                key=record_key(found.tenant, found.incident_id),
                value=codec.encode(versioned),
                time_ns=now_ns,
            )
        ]


def _span_of(incident: Incident, now_ns: int) -> tuple[int, int]:
    """[start, end) of an incident's trouble, with half a minute on both sides."""
    starts = [member.alert.starts_ns for member in incident.members if member.alert.starts_ns]
    margin_ns = 30 * NS_PER_S
    return min([incident.opened_ns, *starts]) - margin_ns, (incident.resolved_ns or now_ns) + margin_ns


def _essence(found: Diagnosis) -> str:
    """What must differ for an answer to be a new one: order, kinds, statuses, probabilities to a tenth."""
    rows = [
        [one.entity, one.kind.value, one.status.value, round(one.probability, 1), one.change_id]
        for one in found.hypotheses[:3]
    ]
    return json.dumps([found.status.value, found.none, rows])
