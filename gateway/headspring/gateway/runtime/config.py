"""Every setting, in one table: name, type, default, unit, reason; and where its value came from.

A value is looked up in this order: command-line flag, environment (`HEADSPRING_NAME`), settings file
(TOML), default. `headspring config` prints what was found and where.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headspring.proto.errors import ConfigError

ENV_PREFIX = "HEADSPRING_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One option."""

    name: str
    type: type
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    """Never printed, never logged."""
    shape: str = ""
    """"" for both shapes, else the only one it is for: `embedded` or `distributed`."""


SETTINGS: tuple[Setting, ...] = (
    Setting(name="data", type=Path, default=Path("headspring-data"), help="folder for everything Headspring writes"),
    Setting(name="host", type=str, default="127.0.0.1", help="address to listen on; loopback unless you say otherwise"),
    Setting(name="port", type=int, default=8420, help="port of the API and the web UI", minimum=0, maximum=65535),
    Setting(name="otlp_port", type=int, default=4318, help="port of OTLP over HTTP", minimum=0, maximum=65535),
    Setting(name="grpc_port", type=int, default=4317, help="port of OTLP over gRPC", minimum=0, maximum=65535),
    Setting(name="max_body_bytes", type=int, default=20 * 1024 * 1024,
            help="largest request after decompression, bytes", minimum=1024, maximum=1 << 30),
    Setting(name="max_series", type=int, default=1_000_000, help="most series a tenant may have", minimum=1),
    Setting(name="window_s", type=float, default=300.0, help="length of the sliding window, seconds",
            minimum=10, maximum=3600),
    Setting(name="pane_s", type=float, default=10.0, help="length of a pane of the window, seconds",
            minimum=1, maximum=300),
    Setting(name="evaluate_every_s", type=float, default=1.0, help="how often windows are evaluated, seconds",
            minimum=0.1, maximum=60),
    Setting(name="settle_s", type=float, default=15.0,
            help="calm after the last alert before an incident counts as resolved, seconds", minimum=0, maximum=3600),
    Setting(name="approval_expires_s", type=float, default=3600.0,
            help="how long an approval request stays open, seconds; expiry means no", minimum=1, maximum=7 * 86400),
    Setting(name="host_metrics", type=bool, default=True, help="watch the machine Headspring runs on"),
    Setting(name="ops_url", type=str, default="",
            help="base address of the operations API that runbooks call; empty: runbooks that need it are not offered"),
    Setting(name="runbooks", type=str, default="",
            help="folder of your own runbooks (*.yaml): added to the packaged ones, and of equal names yours is taken"),
    Setting(name="runbook_settings", type=str, default="",
            help="what runbooks read as settings.NAME, as NAME=VALUE separated by spaces, e.g. scale_out_replicas=4"),
    Setting(name="programs", type=str, default="",
            help="full paths, separated by spaces, of the only local programs that runbooks may run"),
    Setting(name="notify", type=str, default="",
            help="Apprise addresses to notify, separated by spaces", secret=True),
    Setting(name="public_url", type=str, default="", help="address that people reach the UI at, for links"),
    Setting(name="retention_h", type=float, default=360.0, help="how long metric history is kept, hours",
            minimum=1, maximum=24 * 400),
    Setting(name="log_retention_h", type=float, default=168.0, help="how long log records are kept, hours",
            minimum=1, maximum=24 * 400),
    Setting(name="traces_url", type=str, default="",
            help="OTLP/HTTP address that takes Headspring's own traces, e.g. http://collector:4318/v1/traces; "
            "empty: none are made"),
    Setting(name="traces_share", type=float, default=0.05, help="share of its own traces that is sent, 0 to 1",
            minimum=0, maximum=1),
    Setting(name="bootstrap_key", type=str, default="",
            help="first admin API key, for automation; made at random when empty", secret=True),
    Setting(name="log_level", type=str, default="warning", help="debug, info, warning or error"),
    # The distributed shape: where its servers are. `headspring run ROLE` says which of them a role needs.
    Setting(name="kafka", type=str, default="127.0.0.1:9092", shape="distributed",
            help="Kafka brokers to start from, HOST:PORT separated by commas"),
    Setting(name="kafka_security", type=str, default="PLAINTEXT", shape="distributed",
            help="how brokers are spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    Setting(name="kafka_mechanism", type=str, default="SCRAM-SHA-512", shape="distributed",
            help="how SASL signs in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    Setting(name="kafka_user", type=str, default="", shape="distributed", help="user at Kafka, with SASL"),
    Setting(name="kafka_password", type=str, default="", shape="distributed", help="password at Kafka", secret=True),
    Setting(name="kafka_ca", type=str, default="", shape="distributed",
            help="file of the authority that signed the brokers' certificates; empty: the system's"),
    Setting(name="kafka_prefix", type=str, default="", shape="distributed",
            help="put before every topic and group, so that installations can share a cluster"),
    Setting(name="partitions", type=int, default=12, shape="distributed", minimum=1, maximum=1000,
            help="partitions of every topic: the most processes that share a role; fixed at the first start"),
    Setting(name="replication", type=int, default=3, shape="distributed", minimum=1, maximum=9,
            help="copies of every topic; with 3 or more, 2 must have a record before it counts as written"),
    Setting(name="victoria_url", type=str, default="http://127.0.0.1:8428", shape="distributed",
            help="VictoriaMetrics: series"),
    Setting(name="victoria_user", type=str, default="", shape="distributed", help="user at VictoriaMetrics"),
    Setting(name="victoria_password", type=str, default="", shape="distributed", secret=True,
            help="password at VictoriaMetrics"),
    Setting(name="elasticsearch_url", type=str, default="http://127.0.0.1:9200", shape="distributed",
            help="Elasticsearch 8: incidents, alerts, logs; several addresses separated by commas"),
    Setting(name="elasticsearch_user", type=str, default="", shape="distributed", help="user at Elasticsearch"),
    Setting(name="elasticsearch_password", type=str, default="", shape="distributed", secret=True,
            help="password at Elasticsearch"),
    Setting(name="neo4j_url", type=str, default="bolt://127.0.0.1:7687", shape="distributed", help="Neo4j: topology"),
    Setting(name="neo4j_user", type=str, default="neo4j", shape="distributed", help="user at Neo4j"),
    Setting(name="neo4j_password", type=str, default="", shape="distributed", secret=True, help="password at Neo4j"),
    Setting(name="redis_url", type=str, default="redis://127.0.0.1:6379/0", shape="distributed",
            help="Redis: cache, rate limits"),
    Setting(name="redis_password", type=str, default="", shape="distributed", secret=True, help="password at Redis"),
    Setting(name="postgres_url", type=str, default="postgresql://headspring@127.0.0.1:5432/headspring",
            shape="distributed", help="PostgreSQL: runs, approvals, audit, keys, labels; without the password"),
    Setting(name="postgres_password", type=str, default="", shape="distributed", secret=True,
            help="password at PostgreSQL"),
    Setting(name="minio_url", type=str, default="http://127.0.0.1:9000", shape="distributed",
            help="MinIO or another S3: artifacts of models"),
    Setting(name="minio_user", type=str, default="", shape="distributed", help="access key at MinIO"),
    Setting(name="minio_password", type=str, default="", shape="distributed", secret=True, help="secret key at MinIO"),
    Setting(name="minio_bucket", type=str, default="headspring", shape="distributed", help="bucket of the artifacts"),
    Setting(name="secrets", type=Path, default=Path("headspring-secrets"), shape="distributed",
            help="folder of the keys that all processes share; made by the first that finds it empty"),
    Setting(name="windows", type=str, default="kernel", shape="distributed",
            help="who computes windows: kernel (role windows) or flink (`headspring flink submit`)"),
    Setting(name="flink_url", type=str, default="http://127.0.0.1:8081", shape="distributed",
            help="address of Flink's JobManager, where windows are on Flink"),
    Setting(name="event_engine", type=str, default="faust", shape="distributed",
            help="what runs correlate, diagnose and act: faust or kafka"),
    Setting(name="health_port", type=int, default=8421, shape="distributed", minimum=0, maximum=65535,
            help="port of /healthz, /readyz and /metrics of a role that has no other"),
    Setting(name="spool_bytes", type=int, default=4 * 1024**3, shape="distributed", minimum=0,
            help="most telemetry kept on the disk of an ingestion process while Kafka is away, bytes; 0: none"),
)  # fmt: skip
BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A setting's value and where it came from: `flag`, `environment`, `file PATH` or `default`."""

    setting: Setting
    value: Any
    source: str

    @property
    def shown(self) -> str:
        """The value as a person may see it."""
        if self.setting.secret:
            return "(set, hidden)" if self.value else ""
        return str(self.value)


class Settings:
    """All settings, resolved once at start."""

    def __init__(self, resolved: Mapping[str, Resolved]) -> None:
        self.resolved = dict(resolved)

    def __getattr__(self, name: str) -> Any:
        # Values are typed by the table above, which the type checker cannot see.
        try:
            return self.__dict__["resolved"][name].value
        except KeyError:
            raise AttributeError(name) from None


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Looks every setting up.

    Raises:
        ConfigError: a value cannot be used, or the file names a setting that does not exist.
    """
    flags = flags or {}
    environ = os.environ if environ is None else environ
    file = file or (Path(environ[ENV_PREFIX + "CONFIG"]) if environ.get(ENV_PREFIX + "CONFIG") else None)
    from_file = _read(file) if file else {}
    unknown = sorted(set(from_file) - set(BY_NAME))
    if unknown:
        raise ConfigError(f"{file}: unknown setting {', '.join(unknown)}; `headspring config` lists all settings")
    resolved = {}
    for setting in SETTINGS:
        raw: Any
        if flags.get(setting.name) is not None:
            raw, source = flags[setting.name], "flag"
        elif environ.get(ENV_PREFIX + setting.name.upper()) is not None:
            raw, source = environ[ENV_PREFIX + setting.name.upper()], "environment"
        elif setting.name in from_file:
            raw, source = from_file[setting.name], f"file {file}"
        else:
            raw, source = setting.default, "default"
        resolved[setting.name] = Resolved(setting=setting, value=_convert(setting, raw, source), source=source)
    return Settings(resolved)


def runbook_settings(settings: Settings) -> dict[str, str]:
    """What runbooks may read as `settings.NAME`.

    Raises:
        ConfigError: a word of the setting is not NAME=VALUE.
    """
    found = {"ops_url": settings.ops_url} if settings.ops_url else {}
    for word in settings.runbook_settings.split():
        name, equals, value = word.partition("=")
        if not (name.isidentifier() and equals and value):
            raise ConfigError(
                f"setting runbook_settings (from {settings.resolved['runbook_settings'].source}): {word!r} is not "
                "NAME=VALUE, e.g. scale_out_replicas=4"
            )
        found[name] = value
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {file}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error


def _convert(setting: Setting, raw: Any, source: str) -> Any:
    where = f"setting {setting.name} (from {source})"
    try:
        value = _as_bool(raw) if setting.type is bool else setting.type(raw)
    except (TypeError, ValueError) as error:
        shown = "a value" if setting.secret else repr(raw)
        raise ConfigError(f"{where}: {shown} is not {setting.type.__name__}; {setting.help}") from error
    if setting.minimum is not None and value < setting.minimum:
        raise ConfigError(f"{where}: {value} is below {setting.minimum:g}; {setting.help}")
    if setting.maximum is not None and value > setting.maximum:
        raise ConfigError(f"{where}: {value} is above {setting.maximum:g}; {setting.help}")
    return value


def _as_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    text = str(raw).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)
