"""Writes `compose.yaml` from the table of roles that `make stack` uses too: `python k8s/compose/generate.py`.

No password has a default: compose refuses to start without a `.env` that sets them (`README.md` beside this file).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from headspring.gateway.runtime.config import ENV_PREFIX
from headspring.gateway.runtime.shape import (
    ELASTICSEARCH,
    HEALTH_PORT,
    KAFKA,
    MINIO,
    NEO4J,
    POSTGRES,
    REDIS,
    SHAPE,
    VICTORIA,
    RoleShape,
)

IMAGE = "headspring:0.1.0"
_HEAD = """\
# The distributed shape on one machine. Made by generate.py from the table of roles: change that, not this.
# Needs a file .env beside it with the passwords; README.md says which.
"""
_SETTINGS = {
    "kafka": "kafka:9092",
    "replication": "1",
    "victoria_url": "http://victoria:8428",
    "elasticsearch_url": "http://elasticsearch:9200",
    "elasticsearch_user": "elastic",
    "neo4j_url": "bolt://neo4j:7687",
    "redis_url": "redis://redis:6379/0",
    "minio_url": "http://minio:9000",
    "minio_user": "headspring",
    "postgres_url": "postgresql://headspring@postgres:5432/headspring",
    "secrets": "/var/lib/headspring/secrets",
    "data": "/var/lib/headspring/data",
    "host": "0.0.0.0",  # noqa: S104 - inside the container; published on loopback only
}
_PASSWORDS = {
    ELASTICSEARCH: "ELASTICSEARCH_PASSWORD", NEO4J: "NEO4J_PASSWORD", REDIS: "REDIS_PASSWORD",
    MINIO: "MINIO_PASSWORD", POSTGRES: "POSTGRES_PASSWORD",
}  # fmt: skip


def _needed(name: str) -> str:
    return f"${{{ENV_PREFIX}{name}:?set it in .env}}"


def _server(image: str, test: list[str], memory: str, **more: Any) -> dict[str, Any]:
    return {
        "image": image, "restart": "unless-stopped", "mem_limit": memory, "security_opt": ["no-new-privileges:true"],
        "healthcheck": {"test": test, "interval": "5s", "timeout": "5s", "retries": 30, "start_period": "60s"},
        **more,
    }  # fmt: skip


def _servers() -> dict[str, dict[str, Any]]:
    return {
        KAFKA: _server(
            "apache/kafka:4.3.1", ["CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh", "--bootstrap-server",
                                   "localhost:9092"], "1g",
            environment={
                "KAFKA_PROCESS_ROLES": "broker,controller", "KAFKA_NODE_ID": "1",
                "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@kafka:9093",
                "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
                "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9092", "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
                "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1", "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
                "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1", "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
                "KAFKA_MESSAGE_MAX_BYTES": str(32 * 1024 * 1024), "KAFKA_OFFSETS_RETENTION_MINUTES": str(60 * 24 * 60),
                "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
            },
            volumes=["kafka:/var/lib/kafka/data"],
        ),
        VICTORIA: _server(
            "victoriametrics/victoria-metrics:v1.79.5", ["CMD", "wget", "-qO-", "http://localhost:8428/health"], "512m",
            command=["-storageDataPath=/storage", "-retentionPeriod=15d", "-search.latencyOffset=0s",
                     "-dedup.minScrapeInterval=1ms"],
            volumes=["victoria:/storage"],
        ),
        ELASTICSEARCH: _server(
            "docker.elastic.co/elasticsearch/elasticsearch:8.19.21",
            ["CMD-SHELL", "curl -sf -u elastic:$$ELASTIC_PASSWORD http://localhost:9200/_cluster/health"], "1g",
            environment={
                "discovery.type": "single-node", "xpack.security.http.ssl.enabled": "false",
                "ES_JAVA_OPTS": "-Xms512m -Xmx512m", "ELASTIC_PASSWORD": _needed("ELASTICSEARCH_PASSWORD"),
            },
            volumes=["elasticsearch:/usr/share/elasticsearch/data"],
        ),
        NEO4J: _server(
            "neo4j:5.26.30-community", ["CMD", "wget", "-qO-", "http://localhost:7474"], "1g",
            environment={"NEO4J_AUTH": "neo4j/" + _needed("NEO4J_PASSWORD"),
                         "NEO4J_server_memory_heap_max__size": "512m"},
            volumes=["neo4j:/data"],
        ),
        REDIS: _server(
            "redis:7.0.15", ["CMD-SHELL", 'redis-cli -a "$$REDISCLI_AUTH" ping | grep PONG'], "256m",
            command=["sh", "-c", 'exec redis-server --requirepass "$$REDISCLI_AUTH" --save ""'],
            environment={"REDISCLI_AUTH": _needed("REDIS_PASSWORD")},
        ),
        MINIO: _server(
            "minio/minio:RELEASE.2025-09-07T16-13-09Z", ["CMD", "mc", "ready", "local"], "512m",
            command=["server", "/data"],
            environment={"MINIO_ROOT_USER": "headspring", "MINIO_ROOT_PASSWORD": _needed("MINIO_PASSWORD")},
            volumes=["minio:/data"],
        ),
        POSTGRES: _server(
            "postgres:15.18", ["CMD-SHELL", "pg_isready -U postgres"], "512m",
            environment={"POSTGRES_PASSWORD": _needed("POSTGRES_PASSWORD"),
                         "HEADSPRING_PASSWORD": _needed("POSTGRES_PASSWORD")},
            volumes=["postgres:/var/lib/postgresql/data", "./postgres-role.sh:/docker-entrypoint-initdb.d/role.sh:ro"],
        ),
    }  # fmt: skip


def _role(shape: RoleShape) -> dict[str, Any]:
    environment = {ENV_PREFIX + name.upper(): value for name, value in _SETTINGS.items()}
    environment |= {
        ENV_PREFIX + _PASSWORDS[server]: _needed(_PASSWORDS[server]) for server in shape.servers if server in _PASSWORDS
    }
    if shape.name == "gateway":
        environment[ENV_PREFIX + "BOOTSTRAP_KEY"] = _needed("BOOTSTRAP_KEY")
    ready = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{HEALTH_PORT}/readyz', timeout=3)"
    found: dict[str, Any] = {
        "image": IMAGE,
        "build": {"context": "../..", "dockerfile": "k8s/compose/Dockerfile"},
        "command": ["headspring", "run", shape.name],
        "restart": "unless-stopped",
        "mem_limit": f"{shape.memory_mb}m",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "environment": environment,
        "depends_on": {server: {"condition": "service_healthy"} for server in shape.servers},
        "volumes": [f"{shape.name}:/var/lib/headspring/data", "secrets:/var/lib/headspring/secrets"],
        "healthcheck": {
            "test": ["CMD", "python", "-c", ready], "interval": "5s", "timeout": "5s", "retries": 30,
            "start_period": "60s",
        },
    }  # fmt: skip
    if shape.doors:
        found["ports"] = [f"127.0.0.1:{port}:{port}" for port in shape.doors.values()]
    return found


def compose() -> str:
    """The file's text."""
    servers = _servers()
    volumes = [volume.split(":")[0] for server in servers.values() for volume in server.get("volumes", ())]
    names = [name for name in volumes if not name.startswith(".")] + [shape.name for shape in SHAPE] + ["secrets"]
    document = {
        "name": "headspring",
        "services": servers | {shape.name: _role(shape) for shape in SHAPE},
        "volumes": {name: {} for name in sorted(set(names))},
    }
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 100
    text = io.StringIO()
    yaml.dump(document, text)
    return _HEAD + text.getvalue()


def main() -> int:
    Path(__file__).with_name("compose.yaml").write_text(compose(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
