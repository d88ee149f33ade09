"""Everything a diagnosis looks at, as columns, and the clues that its kernels find.

Kernels take a `Case` (or parts of it) and return `Clue`s: one observation each, with the log-likelihood
ratio "this entity has a fault of its own" against "it has none". `posterior` adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from headspring.knowledge.topology.graph import Topology
from headspring.knowledge.traces.port import SpanTable
from headspring.proto.detection import Alert
from headspring.proto.incident import CauseKind
from headspring.proto.telemetry import Change


class Role(StrEnum):
    """What a metric says about its entity."""

    LATENCY = "latency"
    SELF_TIME = "self_time"
    ERRORS = "errors"
    SUCCESS = "success"
    """A share or percentage that is good when high."""
    TRAFFIC = "traffic"
    RESOURCE = "resource"
    """Consumption inside the entity: processor, memory, disk, network, queues."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric of one entity, normal period and window together, in time order."""

    entity: str
    metric: str
    role: Role
    outbound: bool = False
    """Seen by the entity about those it calls (client side): an observation of them, not of it."""
    peer: str = ""
    """The other end of an edge metric: the callee when `outbound`, else the caller; "" for none."""
    instance: str = ""
    query: str = ""
    """Query that shows the series; "" where none applies."""
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTable:
    """Log lines as columns of equal length n, in time order."""

    time_ns: NDArray[np.int64]
    entity: NDArray[np.object_]
    severity: NDArray[np.int64]
    """OpenTelemetry severity numbers; 17 and above is an error, 13 to 16 a warning."""
    body: NDArray[np.object_]
    trace_id: NDArray[np.object_] | None = None
    span_id: NDArray[np.object_] | None = None
    """The span that logged the line; "" for none."""

    def __len__(self) -> int:
        return int(self.time_ns.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The facts of one incident. Ranges are [start, end) in unix nanoseconds."""

    incident_id: str
    tenant: str = "default"
    now_ns: int
    window: tuple[int, int]
    normal: tuple[int, int]
    detected_ns: int = 0
    """When the first alert started; 0 unknown."""
    alerts: tuple[Alert, ...] = ()
    target: tuple[str, str] | None = None
    """Entity and metric whose degradation is to be explained; None: whatever the alerts say."""
    series: tuple[Series, ...] = ()
    spans: SpanTable | None = None
    """Spans of the window."""
    normal_spans: SpanTable | None = None
    logs: LogTable | None = None
    """Lines of normal period and window."""
    changes: tuple[Change, ...] = ()
    topology: Topology = field(default_factory=Topology)
    elsewhere: frozenset[str] = frozenset()
    """Entities that other open incidents are blamed on; their symptoms are explained there."""
    unavailable: tuple[str, ...] = ()
    """Kinds of facts whose store did not answer, in words: what is not here may be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """One observation about one entity."""

    entity: str
    kind: str
    """`metric`, `onset`, `path`, `trace`, `change`, `log` or `rule`."""
    llr: float
    """Natural log of P(observation | own fault) / P(observation | no own fault)."""
    summary: str
    cause: CauseKind = CauseKind.UNSPECIFIED
    metric: str = ""
    query: str = ""
    baseline: float = 0.0
    value: float = 0.0
    deviation: float = 0.0
    onset_ns: int = 0
    change_id: str = ""
