"""What the distributed shape is made of: roles, the servers each of them needs, and the settings that join them.

`make stack` and `k8s/compose/compose.yaml` are both made from this table, so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headspring.gateway.runtime import ROLES
from headspring.proto.topics import (
    ACTIONS,
    ALERTS,
    CHANGES,
    CONFIGURATION,
    DIAGNOSES,
    FEATURES,
    FEEDBACK,
    INCIDENTS,
    LOGS,
    METRICS,
    SERIES,
    SPANS,
    Topic,
)

KAFKA, VICTORIA, ELASTICSEARCH, NEO4J, REDIS, MINIO, POSTGRES = (
    "kafka", "victoria", "elasticsearch", "neo4j", "redis", "minio", "postgres",
)  # fmt: skip
TELEMETRY = (METRICS, SERIES, LOGS, SPANS, CHANGES, ALERTS)
"""What comes from senders; alerts of others among it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleShape:
    """One role, as it is deployed."""

    name: str
    servers: tuple[str, ...]
    """Servers it cannot start without."""
    memory_mb: int
    """Limit that it stays below at 10 000 series."""
    reads: tuple[Topic, ...]
    writes: tuple[Topic, ...]
    """Beside these, every role reads and writes its groups' states and writes dead letters."""
    doors: Mapping[str, int] = field(default_factory=dict)
    """Setting of each port it serves besides health, with its usual number."""

    @property
    def does(self) -> str:
        return ROLES[self.name]


SHAPE: tuple[RoleShape, ...] = (
    RoleShape(
        name="ingestion", servers=(KAFKA, POSTGRES), memory_mb=1024, doors={"otlp_port": 4318, "grpc_port": 4317},
        reads=(SERIES,), writes=TELEMETRY,
    ),
    RoleShape(name="windows", servers=(KAFKA,), memory_mb=1024, reads=(METRICS, SPANS),
              writes=(FEATURES, METRICS, SERIES)),
    RoleShape(name="detect", servers=(KAFKA, REDIS), memory_mb=1024, reads=(FEATURES, SERIES, CONFIGURATION),
              writes=(ALERTS,)),
    RoleShape(name="correlate", servers=(KAFKA, NEO4J), memory_mb=768,
              reads=(ALERTS, CHANGES, ACTIONS, FEEDBACK, DIAGNOSES), writes=(INCIDENTS,)),
    RoleShape(name="diagnose", servers=(KAFKA, NEO4J, VICTORIA, ELASTICSEARCH), memory_mb=1536,
              reads=(INCIDENTS, SPANS), writes=(DIAGNOSES,)),
    RoleShape(name="act", servers=(KAFKA, NEO4J, VICTORIA, ELASTICSEARCH, POSTGRES), memory_mb=768,
              reads=(INCIDENTS, DIAGNOSES), writes=(ACTIONS, FEEDBACK)),
    RoleShape(name="store", servers=(KAFKA, NEO4J, VICTORIA, ELASTICSEARCH, POSTGRES), memory_mb=768,
              reads=(*TELEMETRY, INCIDENTS, DIAGNOSES, FEEDBACK), writes=()),
    RoleShape(
        name="gateway", servers=(KAFKA, NEO4J, VICTORIA, ELASTICSEARCH, REDIS, POSTGRES), memory_mb=1536,
        doors={"port": 8420}, reads=(SERIES, SPANS, INCIDENTS, DIAGNOSES, ACTIONS, CONFIGURATION),
        writes=(*TELEMETRY, ACTIONS, FEEDBACK, CONFIGURATION),
    ),
)  # fmt: skip
"""In the order of the flow, which is also a good order to start them in."""
HEALTH_PORT = 8421
BY_NAME = {shape.name: shape for shape in SHAPE}
