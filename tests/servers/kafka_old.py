"""A Kafka of 2019 with its ZooKeeper: older than what the event log takes, to see that it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.maven import jars, java
from tests.servers.process import free_port, listening, running

VERSION = "2.2.2"
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.12:{VERSION}",
    "org.apache.zookeeper:zookeeper:3.5.10",  # its own 3.4.13 cannot connect on Java 14 and newer
    "org.slf4j:slf4j-log4j12:1.7.25",
)
_START_TIMEOUT_S = 120.0
_LOG4J = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
"""


def prepare() -> Path:
    """Brings the server into the cache; the folder of its jars."""
    return jars("kafka-old", ARTIFACTS)


@contextmanager
def old_kafka(folder: Path) -> Iterator[str]:
    """One empty broker; its address.

    Raises:
        RuntimeError: it cannot be had, or did not come up; says why.
    """
    lib = prepare()
    keeper, port = free_port(), free_port()
    (folder / "log4j.properties").write_text(_LOG4J)
    (folder / "zookeeper.properties").write_text(
        f"dataDir={folder / 'zookeeper'}\nclientPort={keeper}\nclientPortAddress=127.0.0.1\n"
    )
    (folder / "kafka.properties").write_text(
        f"broker.id=1\nzookeeper.connect=127.0.0.1:{keeper}\nzookeeper.connection.timeout.ms=60000\n"
        f"listeners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={folder / 'data'}\nauto.create.topics.enable=false\n"
        "offsets.topic.replication.factor=1\n"
    )
    log = folder / "kafka.log"

    def argv(main: str, properties: str, *options: str) -> list[str]:
        return [
            java(), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j.configuration=file:{folder / 'log4j.properties'}", *options, "-cp", f"{lib}/*", main,
            str(folder / properties),
        ]  # fmt: skip

    with ExitStack() as stack:
        stack.enter_context(
            running(
                argv(
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                    "zookeeper.properties",
                    "-Dzookeeper.admin.enableServer=false",
                ),
                health=lambda: listening(keeper),
                log=folder / "zookeeper.log",
                timeout_s=_START_TIMEOUT_S,
            )
        )
        stack.enter_context(
            running(
                argv("kafka.Kafka", "kafka.properties"),
                health=lambda: "started (kafka.server.KafkaServer)" in log.read_text(errors="replace"),
                log=log,
                timeout_s=_START_TIMEOUT_S,
            )
        )
        yield f"127.0.0.1:{port}"
