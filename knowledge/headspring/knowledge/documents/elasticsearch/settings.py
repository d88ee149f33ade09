"""Where Elasticsearch is, how we sign in, and how our indices are laid out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from headspring.proto.errors import ConfigError

_PREFIX = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PARTITION_HOURS = (1, 2, 3, 4, 6, 8, 12, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticsearchSettings:
    """Checked when made.

    Raises:
        ConfigError: a value cannot be used; names the setting.
    """

    urls: tuple[str, ...]
    """Base addresses of nodes, `http[s]://HOST:PORT`; requests go round over those that answer."""
    user: str = ""
    password: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    """Instead of user and password: what Elasticsearch calls the encoded key."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the nodes' certificates; None: those the machine trusts."""
    prefix: str = "headspring"
    """Starts every index, alias and template of ours, so that installations can share a cluster."""
    replicas: int | None = None
    """Copies beside the first; None: one where there is a node to hold it."""
    log_shards: int = 1
    """Primary shards of a log partition. One holds about 50 GB well."""
    log_partition_hours: int = 24
    """Event time that one log index covers: logs are dropped by whole indices. A divisor of 24."""
    log_retention: timedelta = timedelta(days=7)
    """For the index lifecycle of a server that has one; `drop_logs_before` does the same wherever it runs."""
    read_timeout_s: float = 5.0
    write_timeout_s: float = 30.0
    busy_s: float = 10.0
    """How long a write goes on trying at a server that says it has too much to do."""
    connections: int = 32
    """At most, to each node; more calls than that at one time wait for one another."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("elasticsearch_url is empty; wanted http[s]://HOST:PORT")
        for url in self.urls:
            _check_url(url)
        if self.password and not self.user:
            raise ConfigError("elasticsearch_password is set without elasticsearch_user; set both or neither")
        if self.user and self.api_key:
            raise ConfigError("elasticsearch_user and elasticsearch_api_key are both set; keep one of them")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ConfigError(f"elasticsearch_ca is {self.ca_file}, which is no file; wanted a PEM file")
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                f"elasticsearch_prefix (of roles: kafka_prefix) is {self.prefix!r}; wanted lower-case letters, digits, "
                "- and _, a letter first, 63 at most"
            )
        if self.log_partition_hours not in _PARTITION_HOURS:
            raise ConfigError(
                f"log_partition_hours is {self.log_partition_hours}; wanted one of "
                f"{', '.join(map(str, _PARTITION_HOURS))}"
            )
        if self.log_shards < 1 or (self.replicas is not None and self.replicas < 0) or self.connections < 1:
            raise ConfigError(
                f"log_shards {self.log_shards}, replicas {self.replicas}, connections {self.connections}: wanted at "
                "least 1, 0 and 1"
            )

    @property
    def where(self) -> str:
        """The addresses, for messages."""
        return ", ".join(self.urls)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError(f"elasticsearch_url holds {url!r}, which is no address; wanted http[s]://HOST:PORT") from None
    if parts.username or parts.password:
        # Not repeated here: it may hold a password.
        raise ConfigError(
            "elasticsearch_url holds a user or password; set elasticsearch_user and elasticsearch_password instead"
        )
    if not ok or parts.query or parts.fragment:
        raise ConfigError(f"elasticsearch_url holds {url!r}; wanted http[s]://HOST:PORT")
