"""How clients reach and sign in to a Kafka cluster. Used by the log, the engine and whatever else talks to Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headspring.proto.errors import ConfigError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Address and sign-in. The password is not in its `repr`.

    Raises:
        ConfigError: a setting cannot be used, or two do not go together.
    """

    servers: str
    """Bootstrap servers, `host:port[,host:port…]`."""
    security_protocol: str = "PLAINTEXT"
    """One of `PROTOCOLS`."""
    sasl_mechanism: str = ""
    """One of `MECHANISMS` where the protocol signs in, else empty."""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    """PEM file with the authorities that sign the brokers' certificates; empty for the system's."""
    client_id: str = "headspring"
    """What brokers call us in their logs and quotas."""

    def __post_init__(self) -> None:
        for address in self.servers.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ConfigError(f"kafka.servers has {address.strip()!r}; wanted host:port[,host:port…]")
        if self.security_protocol not in PROTOCOLS:
            raise ConfigError(
                f"kafka.security_protocol is {self.security_protocol!r}; wanted one of {', '.join(PROTOCOLS)}"
            )
        if self.signs_in:
            if self.sasl_mechanism not in MECHANISMS:
                raise ConfigError(
                    f"kafka.sasl_mechanism is {self.sasl_mechanism!r}; {self.security_protocol} wants one of "
                    f"{', '.join(MECHANISMS)}"
                )
            if not self.username or not self.password:
                raise ConfigError(f"kafka.username and kafka.password are both wanted for {self.security_protocol}")
        elif self.sasl_mechanism or self.username or self.password:
            raise ConfigError(
                f"kafka.security_protocol is {self.security_protocol}, which does not sign in: leave sasl_mechanism, "
                "username and password empty, or choose SASL_SSL"
            )
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ConfigError(f"kafka.ca_file is {self.ca_file}, which is no file; wanted a PEM file")

    @property
    def signs_in(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    @property
    def who(self) -> str:
        """How the brokers' access rules call us."""
        return f"User:{self.username}" if self.signs_in else "User:ANONYMOUS"

    def named(self, part: str) -> KafkaConnection:
        """The same with a client id that also tells which part of Headspring it is."""
        return replace(self, client_id=f"{self.client_id}.{part}")

    def config(self) -> dict[str, Any]:
        """Properties for any client of librdkafka. Holds the password: never log it."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.servers,
            "client.id": self.client_id,
            "security.protocol": self.security_protocol,
            # A broker that came back is found again within a second.
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 1000,
            "socket.keepalive.enable": True,
            # A broker that hangs is given up after this, and its partitions' new leader is asked.
            "socket.timeout.ms": 10_000,
            "socket.connection.setup.timeout.ms": 5_000,
            # What the client would write to stderr comes through `error_cb` into our log.
            "log_level": 2,
        }
        if self.signs_in:
            config |= {
                "sasl.mechanism": self.sasl_mechanism, "sasl.username": self.username, "sasl.password": self.password,
            }  # fmt: skip
        if self.ca_file:
            config["ssl.ca.location"] = self.ca_file
        return config
