"""What the gateway's endpoints and pages work with, put together by the runtime.

Endpoints know these ports and services, never a technology.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headspring.action.service import ActionService
    from headspring.gateway.auth.keys import KeyStore
    from headspring.gateway.auth.requests import Authenticator
    from headspring.gateway.backends import BackendState
    from headspring.gateway.detection import Detection
    from headspring.gateway.events import Events
    from headspring.gateway.runtime.config import Settings
    from headspring.ingestion.pipeline import Intake
    from headspring.knowledge.documents.port import DocumentStore
    from headspring.knowledge.series.port import SeriesStore
    from headspring.knowledge.topology.port import TopologyGraph
    from headspring.knowledge.traces.port import TraceStore
    from headspring.proto.action import Feedback
    from headspring.proto.clock import Clock
    from headspring.streaming.log.port import EventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One running installation, as its door sees it."""

    settings: Settings
    clock: Clock
    data: Path
    keys: KeyStore
    authenticator: Authenticator
    log: EventLog
    intake: Intake
    series: SeriesStore
    documents: DocumentStore
    topology: TopologyGraph
    traces: TraceStore
    detect: Detection
    actions: ActionService
    events: Events
    give_feedback: Callable[[Feedback], Awaitable[None]]
    """Durable on return."""
    stage_health: Callable[[], Mapping[str, Any]]
    """Per stage: state, lag, records, errors, restarts (`headspring.streaming.engine` `StageHealth`)."""
    ready: Callable[[], bool]
    backends: Callable[[], Mapping[str, BackendState]] = dict
    """Servers behind this installation, by product; none in the embedded shape."""
