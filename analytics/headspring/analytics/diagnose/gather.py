"""The facts of an incident, read from the stores. Blocking; runs in a thread."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.diagnose.case import Case, LogTable, Series
from headspring.analytics.diagnose.logs import level
from headspring.analytics.diagnose.roles import is_outbound, role_of
from headspring.knowledge.documents.port import DocumentStore, LogHit
from headspring.knowledge.series.port import Matcher, MatchOp, SeriesData, SeriesStore
from headspring.knowledge.topology.graph import Topology
from headspring.knowledge.topology.port import TopologyGraph
from headspring.knowledge.traces.port import SpanTable, TraceStore
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import LimitExceeded, Unavailable
from headspring.proto.ids import entity_name, split_entity
from headspring.proto.incident import Incident
from headspring.proto.semantics import DERIVED_METRICS, LABEL_CALLEE, prometheus_name
from headspring.proto.telemetry import MetricKind, SeriesDescriptor

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

_MAX_SERIES = 4_000
_MAX_ENTITIES = 60
_RADIUS = 4
_MAX_SPANS = 40_000
"""On each side; the newest. Forty thousand spans are read and compared in well under a second."""
_MAX_LINES = 10_000
"""Of logs on each side; the newest."""
_CHANGES_NS = 3600 * NS_PER_S
_LEAST_LEAD_NS = 10 * NS_PER_S
_LEAD_SHARE = 0.3
"""Of what was recorded before the alert, when there is little: the rest is the normal period."""
_SKIPPED = re.compile(r".*_(?:bucket|sum|count|created|info)$")
"""Parts of histograms and constants: their means and quantiles come as derived metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the facts are."""

    topology: TopologyGraph
    series: SeriesStore
    traces: TraceStore
    documents: DocumentStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """How far back to look."""

    lead_ns: int
    """The window begins this long before the first alert."""
    normal_ns: int
    """Length of the normal period before the window."""


class _Asked:
    """Questions to stores, of which some may go unanswered."""

    def __init__(self, incident_id: str) -> None:
        self._incident_id = incident_id
        self.lost: list[str] = []

    def ask(self, what: str, question: Callable[[], T]) -> T | None:
        """None where the store is away: a cause told from what is there, saying what is not, is worth more at night
        than none."""
        try:
            return question()
        except Unavailable as error:
            _LOG.warning("diagnosis goes on without a store: incident=%s facts=%s error=%s",
                         self._incident_id, what, error)  # fmt: skip
            self.lost.append(what)
            return None


def gather(
    incident: Incident,
    stores: Stores,
    ranges: Ranges,
    *,
    now_ns: int,
    others: Sequence[tuple[int, int]] = (),
    elsewhere: frozenset[str] = frozenset(),
) -> Case:
    """The case of an incident as of `now_ns`.

    Args:
        others: [start, end) of other incidents; their samples do not count as normal.
        elsewhere: Entities that other open incidents are blamed on.
    """
    tenant = incident.tenant
    asked = _Asked(incident.incident_id)
    alerts = tuple(member.alert for member in incident.members)
    starts = [alert.starts_ns for alert in alerts if alert.starts_ns > 0]
    detected_ns = min(starts, default=incident.opened_ns or now_ns)
    topology = asked.ask("topology", lambda: _topology(stores.topology, tenant, detected_ns, now_ns)) or Topology()
    entities = _entities(topology, [alert.entity for alert in alerts if alert.entity])
    normal_start = detected_ns - ranges.lead_ns - ranges.normal_ns
    data = asked.ask("metrics", lambda: _series(stores.series, tenant, entities, normal_start, now_ns)) or []
    first_ns = min((int(one.time_ns[0]) for one in data if one.time_ns.size), default=normal_start)
    lead_ns = int(min(ranges.lead_ns, max(_LEAST_LEAD_NS, _LEAD_SHARE * (detected_ns - first_ns))))
    window = (detected_ns - lead_ns, now_ns + 1)
    normal = (normal_start, window[0])
    by_name = {entity_name(entity): entity for entity in sorted(topology.by_entity)}
    series = [_one(item, by_name, window[0], others) for item in data]
    spans = stores.traces.select(tenant, start_ns=window[0], end_ns=window[1], limit=_MAX_SPANS)
    normal_spans = stores.traces.select(tenant, start_ns=normal[0], end_ns=normal[1], limit=_MAX_SPANS)
    if others:
        normal_spans = _outside(normal_spans, others)
    logs = asked.ask("logs", lambda: _logs(stores.documents, tenant, normal, window))
    changes_ns = window[0] - _CHANGES_NS
    changes = asked.ask(
        "changes", lambda: stores.documents.changes(tenant, start_ns=changes_ns, end_ns=window[1], limit=200)
    )
    return Case(
        incident_id=incident.incident_id,
        tenant=tenant,
        now_ns=now_ns,
        window=window,
        normal=normal,
        detected_ns=detected_ns,
        alerts=alerts,
        series=tuple(one for one in series if one is not None),
        spans=spans,
        normal_spans=normal_spans,
        logs=logs,
        changes=tuple(changes or ()),
        topology=topology,
        elsewhere=elsewhere - {alert.entity for alert in alerts},
        unavailable=tuple(asked.lost),
    )


def _topology(graph: TopologyGraph, tenant: str, detected_ns: int, now_ns: int) -> Topology:
    """What is known now and what was known when it began: a dead service's edges may have expired since."""
    now, then = graph.snapshot(tenant, at_ns=now_ns), graph.snapshot(tenant, at_ns=detected_ns)
    if now is then:
        return now
    edges = {(e.caller, e.callee, e.type): e for e in (*then.edges, *now.edges)}
    nodes = {n.entity: n for n in (*then.nodes, *now.nodes)}
    return Topology.of([edges[key] for key in sorted(edges)], [nodes[key] for key in sorted(nodes)])


def _entities(topology: Topology, alerted: Iterable[str]) -> tuple[str, ...]:
    """The alerted entities and what is near them, nearest first."""
    distance: dict[str, int] = {}
    for entity in sorted(set(alerted)):
        for other, hops in topology.hops(entity, _RADIUS).items():
            distance[other] = min(hops, distance.get(other, hops))
    return tuple(sorted(distance, key=lambda entity: (distance[entity], entity))[:_MAX_ENTITIES])


def _series(store: SeriesStore, tenant: str, entities: Sequence[str], start_ns: int, end_ns: int) -> list[SeriesData]:
    """Derived metrics of everything, and all other metrics of the entities that are near."""
    derived = Matcher(label="__name__", op=MatchOp.REGEX, value="|".join(sorted(DERIVED_METRICS)))
    found: dict[int, SeriesData] = {}
    asks: list[list[Matcher]] = [[derived]]
    asks += [[Matcher(label="__entity__", op=MatchOp.EQUAL, value=entity)] for entity in entities]
    for matchers in asks:
        try:
            answer = store.select(tenant, matchers, start_ns=start_ns, end_ns=end_ns + 1, limit=_MAX_SERIES)
        except LimitExceeded:
            continue
        for item in answer:
            name = prometheus_name(item.descriptor.name)
            if item.time_ns.size and (name in DERIVED_METRICS or not _SKIPPED.match(name)):
                found[item.descriptor.series_id] = item
        if len(found) >= _MAX_SERIES:
            break
    return list(found.values())


def _one(
    item: SeriesData, by_name: Mapping[str, str], window_ns: int, others: Sequence[tuple[int, int]]
) -> Series | None:
    """A stored series as the kernels want it: rates for counters, gaps out, other incidents' samples out."""
    described = item.descriptor
    if not described.entity:
        return None
    name = prometheus_name(described.name)
    times, values = item.time_ns, item.value
    if described.kind is MetricKind.COUNTER:
        times, values = rate(times, values)
    keep = np.isfinite(values)
    for start_ns, end_ns in others:
        keep &= ~((times >= start_ns) & (times < end_ns) & (times < window_ns))
    if not keep.any():
        return None
    callee = described.labels.get(LABEL_CALLEE, "") if name in DERIVED_METRICS else ""
    return Series(
        entity=described.entity,
        metric=name,
        role=role_of(name),
        outbound=bool(callee) or is_outbound(name),
        peer=_peer(callee, described.entity, by_name) if callee else "",
        query=query_of(described),
        time_ns=times[keep],
        value=values[keep],
    )


def rate(time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per-second increase between neighbouring samples, shape (n - 1,); a fall is a restart from 0."""
    if time_ns.size < 2:
        return time_ns[:0], value[:0]
    step = np.diff(value)
    step = np.where(step < 0, value[1:], step)
    return time_ns[1:], step / np.maximum(np.diff(time_ns) / NS_PER_S, 1e-3)


def query_of(descriptor: SeriesDescriptor) -> str:
    """A selector that finds this series.

    >>> query_of(SeriesDescriptor(series_id=1, tenant="t", name="service_error_ratio", labels={"service": "a"}))
    'service_error_ratio{service="a"}'
    """
    pairs = []
    for label, value in sorted(descriptor.labels.items()):
        text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append(f'{prometheus_name(label)}="{text}"')
    return prometheus_name(descriptor.name) + ("{" + ",".join(pairs) + "}" if pairs else "")


def _peer(name: str, caller: str, by_name: Mapping[str, str]) -> str:
    try:
        _, namespace, _ = split_entity(caller)
    except ValueError:
        namespace = "default"
    return by_name.get(name, f"service:{namespace}/{name}")


def _outside(spans: SpanTable, ranges: Sequence[tuple[int, int]]) -> SpanTable:
    keep = np.ones(len(spans), dtype=np.bool_)
    for start_ns, end_ns in ranges:
        keep &= ~((spans.start_ns >= start_ns) & (spans.start_ns < end_ns))
    return SpanTable(**{name: getattr(spans, name)[keep] for name in SpanTable.__slots__})


def _lines(documents: DocumentStore, tenant: str, between: tuple[int, int]) -> tuple[list[LogHit], bool]:
    """The newest lines of a range, and whether these are all."""
    hits: list[LogHit] = []
    cursor = ""
    while len(hits) < _MAX_LINES:
        page = documents.search_logs(tenant, "", start_ns=between[0], end_ns=between[1], limit=1000, cursor=cursor)
        hits += page.items
        cursor = page.next_cursor
        if not cursor:
            return hits, True
    return hits, False


def _logs(documents: DocumentStore, tenant: str, normal: tuple[int, int], window: tuple[int, int]) -> LogTable | None:
    hits, whole = _lines(documents, tenant, window)
    hits += _lines(documents, tenant, normal)[0]
    if not whole:
        # The oldest part of the window is missing, between lines that are there: nothing follows from an ordinary
        # line that is not seen.
        hits = [hit for hit in hits if level(hit.record.severity_number, hit.record.body) != "info"]
    if not hits:
        return None
    hits.sort(key=lambda hit: (hit.record.time_ns, hit.entity, hit.record.body))
    return LogTable(
        time_ns=np.array([hit.record.time_ns for hit in hits], dtype=np.int64),
        entity=np.array([hit.entity for hit in hits], dtype=np.object_),
        severity=np.array([hit.record.severity_number for hit in hits], dtype=np.int64),
        body=np.array([hit.record.body for hit in hits], dtype=np.object_),
        trace_id=np.array([hit.record.trace_id for hit in hits], dtype=np.object_),
        span_id=np.array([hit.record.span_id for hit in hits], dtype=np.object_),
    )
