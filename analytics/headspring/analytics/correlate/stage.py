"""The correlation stage: alerts in, versions of incidents out.

Besides alerts it reads what else belongs on an incident's page: changes near it, actions taken on it,
and what people say of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from headspring.analytics.correlate.dynamic_xy import Rules
from headspring.analytics.correlate.incidents import Incidents
from headspring.knowledge.topology.port import Snapshots
from headspring.proto import codec
from headspring.proto.action import ActionEvent, Feedback
from headspring.proto.clock import Clock
from headspring.proto.detection import Alert
from headspring.proto.errors import ConfigError, ContractError
from headspring.proto.incident import Diagnosis
from headspring.proto.telemetry import Change
from headspring.proto.topics import ACTIONS, ALERTS, CHANGES, DIAGNOSES, FEEDBACK, INCIDENTS, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

_FORMAT = 2
"""Of the snapshot; 1 is read too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelateConfig:
    """Settings of the stage."""

    rules: Rules = field(default_factory=Rules)
    settle_s: float = 15.0
    """Without a firing alert for this long, an incident counts as resolved."""
    stale_s: float = 6 * 3600.0
    """An incident of which nothing is heard for this long is closed; sources that never say "resolved" exist."""
    keep_s: float = 3600.0
    """A resolved incident can still relapse or be merged for this long."""
    max_incidents: int = 2000
    """Incidents of one tenant in memory; the one unchanged longest is let go beyond."""


class CorrelateStage:
    """`Stage` "analytics.correlate"; keeps one `Incidents` per tenant."""

    name = "analytics.correlate"
    inputs = (ALERTS.name, CHANGES.name, ACTIONS.name, FEEDBACK.name, DIAGNOSES.name)
    tick_s = 1.0

    def __init__(self, *, clock: Clock, topology: Snapshots, config: CorrelateConfig | None = None) -> None:
        """
        Args:
            clock: Stamps of versions and the time of settling.
            topology: Where snapshots come from.
            config: None for the defaults.

        Raises:
            ConfigError: a time is negative or a limit below 1.
        """
        self._config = config or CorrelateConfig()
        for setting in ("settle_s", "stale_s", "keep_s"):
            if getattr(self._config, setting) < 0:
                raise ConfigError(f"{setting} is {getattr(self._config, setting)}; wanted at least 0 seconds")
        if self._config.max_incidents < 1:
            raise ConfigError(f"max_incidents is {self._config.max_incidents}; wanted at least 1")
        self._clock = clock
        self._topology = topology
        self._tenants: dict[str, Incidents] = {}

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """Takes records of one of `inputs`.

        Raises:
            ContractError: a record is not what its topic says; nothing of the call has been taken in then.
        """
        now_ns = self._clock.now_ns()
        values = [item.record.value for item in records]
        if topic == ALERTS.name:
            for alert in [codec.decode(Alert, value) for value in values]:
                self._of(alert.tenant).alert(alert, now_ns)
        elif topic == CHANGES.name:
            for change in [codec.decode(Change, value) for value in values]:
                self._of(change.tenant).change(change, now_ns)
        elif topic == ACTIONS.name:
            for event in [codec.decode(ActionEvent, value) for value in values]:
                self._of(event.tenant).action(event, now_ns)
        elif topic == FEEDBACK.name:
            for feedback in [codec.decode(Feedback, value) for value in values]:
                self._of(feedback.tenant).feedback(feedback, now_ns)
        elif topic == DIAGNOSES.name:
            for diagnosis in [codec.decode(Diagnosis, value) for value in values if value]:
                self._of(diagnosis.tenant).diagnosed(diagnosis, now_ns)
        else:
            raise ContractError(f"topic {topic!r} is none of {', '.join(self.inputs)}")
        return self._versions(now_ns)

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        for incidents in self._tenants.values():
            incidents.passed(now_ns)
        return self._versions(now_ns)

    def split(self, tenant: str, incident_id: str, alert_ids: Sequence[str], *, actor: str) -> str:
        """Takes alerts out of an incident into one of their own; its id, or "" when nothing could be split off.

        Both are published with the next call of `process` or `tick`.
        """
        return self._of(tenant).split(incident_id, alert_ids, self._clock.now_ns(), actor=actor)

    def merge(self, tenant: str, incident_id: str, into: str, *, actor: str) -> bool:
        """Joins one incident into another; False when either is not known. Published as `split` is."""
        return self._of(tenant).merge(incident_id, into, self._clock.now_ns(), actor=actor)

    def snapshot(self) -> bytes:
        state = {
            "format": _FORMAT,
            "tenants": {tenant: incidents.dump() for tenant, incidents in self._tenants.items()},
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def restore(self, state: bytes) -> None:
        """Raises `ContractError` for a snapshot of another format."""
        self._tenants = {}
        if not state:
            return
        data = json.loads(state)
        if data.get("format") not in (1, _FORMAT):
            raise ContractError(f"snapshot of {self.name} has format {data.get('format')!r}, wanted 1 or {_FORMAT}")
        for tenant, item in data["tenants"].items():
            self._of(tenant).load(item)

    def _of(self, tenant: str) -> Incidents:
        incidents = self._tenants.get(tenant)
        if incidents is None:
            incidents = Incidents(tenant, topology=self._topology, config=self._config)
            self._tenants[tenant] = incidents
        return incidents

    def _versions(self, now_ns: int) -> Sequence[Outgoing]:
        return [
            Outgoing(
                topic=INCIDENTS.name,
                key=record_key(incident.tenant, incident.incident_id),
                value=codec.encode(incident),
                time_ns=now_ns,
            )
            for incidents in self._tenants.values()
            for incident in incidents.versions(now_ns)
        ]
