"""Apache Kafka (KRaft): one broker or several, each also a controller; brokers can be killed and come back."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import debian
from tests.servers.maven import jars, java
from tests.servers.process import free_port, listening, running

VERSION = "4.3.1"
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-tools:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
)
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
ADMIN = ("admin", "admin-of-the-tests")
"""Name and password of the super user where `users` are given."""
_FORMAT_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 240.0
_STARTED = "Kafka Server started"
_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_MESSAGE_BYTES),
    "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "transaction.max.timeout.ms": "3600000",  # Flink's transactions ask for an hour
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
    "broker.session.timeout.ms": "4000",  # a killed broker may come back only when its old session is over
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.cleaner.backoff.ms": "1000",
    "log.initial.task.delay.ms": "1000",
}
_LOG4J = """\
Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {pattern: "[%d] %p %m (%c)%n"}}
  Loggers:
    Root: {level: INFO, AppenderRef: {ref: STDOUT}}
"""


def prepare() -> Path:
    """Brings the server into the cache; the folder of its jars. Formats a data folder that every broker copies."""
    lib = jars("kafka", ARTIFACTS)
    template = _template()
    with debian.locked("kafka"):
        if (template / "meta.properties").exists():
            return lib
        shutil.rmtree(template, ignore_errors=True)
        template.parent.mkdir(parents=True, exist_ok=True)
        made = template.parent / f".{template.name}.{os.getpid()}"
        properties = template.parent / "format.properties"
        _write(properties, {**_SETTINGS, **_places(1, {1: (9092, 9093, 9094)}, {}), "log.dirs": str(made)})
        (template.parent / "log4j2.yaml").write_text(_LOG4J)
        argv = [
            java(), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={template.parent / 'log4j2.yaml'}", "-cp", f"{lib}/*",
            "kafka.tools.StorageTool", "format", "-t", _random_id(), "-c", str(properties),
        ]  # fmt: skip
        result = subprocess.run(argv, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False)
        if result.returncode or not (made / "meta.properties").exists():
            raise RuntimeError(f"kafka: formatting a data folder failed: {(result.stdout + result.stderr)[-800:]}")
        made.rename(template)
    return lib


@dataclass(slots=True, kw_only=True)
class Kafka:
    """A running cluster. Nodes are numbered from 1."""

    servers: str
    """Bootstrap servers for clients."""
    folder: Path
    ports: Mapping[int, int]
    """Node → port of its clients' listener; the same after a restart."""
    host: str
    """Address of that listener."""
    _argv: Mapping[int, list[str]]
    _running: dict[int, tuple[ExitStack, subprocess.Popen[bytes]]] = field(default_factory=dict)
    _starts: dict[int, int] = field(default_factory=dict)

    def start(self, node: int) -> None:
        """Starts a node that does not run, on the data and ports it had; returns when it serves.

        Raises:
            RuntimeError: it did not come up; holds the end of its log.
        """
        if node in self._running:
            raise RuntimeError(f"kafka node {node} runs already")
        self._starts[node] = self._starts.get(node, 0) + 1
        log, port = self.log(node), self.ports[node]
        stack = ExitStack()
        process = stack.enter_context(
            running(
                self._argv[node],
                log=log,
                cwd=self.folder,
                timeout_s=_START_TIMEOUT_S,
                health=lambda: _STARTED in log.read_text(errors="replace") and listening(port, self.host),
            )
        )
        self._running[node] = (stack, process)

    def stop(self, node: int) -> None:
        """A clean shutdown: the node hands its leaderships over, then ends."""
        stack, _ = self._running.pop(node)
        stack.close()

    def kill9(self, node: int) -> None:
        """SIGKILL; returns when the process is gone. Harmless where it has ended by itself."""
        stack, process = self._running.pop(node)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stack.close()

    def pid(self, node: int) -> int:
        """The process of a running node, for signals other than the above."""
        return self._running[node][1].pid

    def ended(self, node: int) -> bool:
        """Whether a node that was started, and not stopped, has ended by itself."""
        return self._running[node][1].poll() is not None

    def log(self, node: int) -> Path:
        """What the node wrote since its last start."""
        return self.folder / f"kafka-{node}.{self._starts.get(node, 1)}.log"

    def running(self) -> tuple[int, ...]:
        """The nodes that run."""
        return tuple(sorted(self._running))


@contextmanager
def kafka(
    folder: Path, *, brokers: int = 1, settings: Mapping[str, str] = {}, users: Mapping[str, str] | None = None,
    heap: str = "512m", fast_start: bool = True, host: str = "127.0.0.1", place: Path | None = None,
    also: Path | None = None,
) -> Iterator[Kafka]:  # fmt: skip
    """An empty cluster; its data are gone afterwards, its logs stay in `folder`.

    Args:
        brokers: with three or more, topics have three replicas and want two in sync unless told otherwise.
        settings: broker properties, over the ones of the tests.
        users: name → password: clients then sign in by SASL/PLAIN over plaintext, and ACLs decide what each may do
            (none but `ADMIN` may do anything at first). None: no sign-in, no ACLs.
        heap: of each broker.
        fast_start: compile as little as possible; False where throughput is measured.
        host: this machine's address that clients reach the brokers at.
        place: an existing folder for the brokers' data, on a disk of its own; by default `folder`.
        also: another such folder: partitions are then spread over both, and `place` has what controllers keep.

    Raises:
        RuntimeError: Kafka cannot be had, or did not come up; says why.
    """
    lib = prepare()
    folder.mkdir(parents=True, exist_ok=True)
    nodes = range(1, brokers + 1)
    ports = {node: (free_port(), free_port(), free_port()) for node in nodes}
    (folder / "log4j2.yaml").write_text(_LOG4J)
    argv: dict[int, list[str]] = {}
    for node in nodes:
        data, properties = (place or folder) / f"data-{node}", folder / f"kafka-{node}.properties"
        folders = [data, *([also / f"data-{node}"] if also else [])]
        for one in folders:
            _format(one, node)
        dirs = {"log.dirs": ",".join(map(str, folders)), "metadata.log.dir": str(data)}
        _write(properties, {**_SETTINGS, **_copies(brokers), **_places(node, ports, users, host), **dirs, **settings})
        argv[node] = [
            java(), "-Xms64m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=192m",
            *(["-XX:TieredStopAtLevel=1"] if fast_start else []), "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={folder / 'log4j2.yaml'}", "-cp", f"{lib}/*", "kafka.Kafka", str(properties),
        ]  # fmt: skip
    clients = {node: places[0] for node, places in ports.items()}
    cluster = Kafka(
        servers=",".join(f"{host}:{port}" for port in clients.values()), folder=folder, ports=clients, host=host,
        _argv=argv,
    )  # fmt: skip
    try:
        with ThreadPoolExecutor(brokers) as pool:  # together: none serves before most of them are there
            list(pool.map(cluster.start, nodes))
        yield cluster
    finally:
        with ThreadPoolExecutor(brokers) as pool:
            # Killed: a clean shutdown of the last broker waits for a quorum that is gone.
            list(pool.map(cluster.kill9, cluster.running()))
        for node in nodes:
            shutil.rmtree((place or folder) / f"data-{node}", ignore_errors=True)


def _template() -> Path:
    return debian.cache() / "kafka" / f"formatted-{VERSION}"


def _random_id() -> str:
    """16 bytes as Kafka writes its ids; a dash is never first."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "0")


def _format(data: Path, node: int) -> None:
    """A data folder as `kafka-storage format` makes it: the template with the node's own numbers."""
    shutil.copytree(_template(), data)
    meta = dict(
        line.split("=", 1) for line in (data / "meta.properties").read_text().splitlines() if not line.startswith("#")
    )
    _write(data / "meta.properties", {**meta, "node.id": str(node), "directory.id": _random_id()})


def _places(
    node: int, ports: Mapping[int, tuple[int, int, int]], users: Mapping[str, str] | None, host: str = "127.0.0.1"
) -> dict[str, str]:
    """Listeners for clients, brokers and controllers. Only clients sign in."""
    client, internal, controller = ports[node]
    signed = "SASL_PLAINTEXT" if users else "PLAINTEXT"
    places = {
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p[2]}" for n, p in ports.items()),
        "listeners": f"CLIENT://{host}:{client},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"CLIENT://{host}:{client},INTERNAL://127.0.0.1:{internal}",
        "listener.security.protocol.map": f"CLIENT:{signed},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    if users:
        known = " ".join(f'user_{name}="{password}"' for name, password in {**dict([ADMIN]), **users}.items())
        places |= {
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {known};"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN[0]};User:ANONYMOUS",  # the brokers among themselves
        }
    return places


def _copies(brokers: int) -> dict[str, str]:
    replicas, in_sync = (3, 2) if brokers >= 3 else (1, 1)
    return {
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }


def _write(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
