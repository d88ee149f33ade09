"""Neo4j 5 community, one server, Bolt only, authentication on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.maven import jars, java
from tests.servers.process import free_port, running

VERSION = "5.26.30"
ARTIFACTS = (f"org.neo4j.app:neo4j-server:{VERSION}", f"org.neo4j:neo4j:{VERSION}")
_START_TIMEOUT_S = 240.0
_PASSWORD_TIMEOUT_S = 120.0
_OPENS = (
    "--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "-Dio.netty.tryReflectionSetAccessible=true",
)  # fmt: skip
_HELLO = bytes.fromhex("6060b017") + bytes.fromhex("00000405") + bytes(12)
"""Bolt's magic, and four proposals of versions: 5.4 and three times none."""


def prepare() -> Path:
    """Brings the server into the cache; the folder of its jars."""
    return jars("neo4j", ARTIFACTS)


@dataclass
class Neo4j:
    """A server on loopback; the same port, data and password over restarts."""

    folder: Path
    port: int
    quick: bool = True
    """Compiles less: the start and the first statements take less, the thousandth more."""
    user: str = "neo4j"
    # Hexadecimal: an argument that begins with a dash would be taken for an option, once in 64 starts.
    password: str = field(default_factory=lambda: secrets.token_hex(18), repr=False)
    _process: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _starts: int = 0

    @property
    def uri(self) -> str:
        return f"bolt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("neo4j does not run")
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Again after `stop` or `kill9`, with what it held. Eight seconds."""
        home = self.folder / "neo4j"
        if not home.exists():
            self._install(home)
        self._starts += 1
        argv = [
            java(), "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:MaxMetaspaceSize=320m",
            *(["-XX:TieredStopAtLevel=1"] if self.quick else []), *_OPENS, "-cp", f"{prepare()}/*",
            "org.neo4j.server.CommunityEntryPoint", f"--home-dir={home}",
            f"--config-dir={home / 'conf'}",
        ]  # fmt: skip
        log = self.folder / f"neo4j-{self._starts}.log"
        self._process = self._stack.enter_context(
            running(argv, health=self._speaks_bolt, log=log, cwd=home, timeout_s=_START_TIMEOUT_S)
        )

    def stop(self) -> None:
        """An orderly end; the server takes 12 s for it."""
        self._stack.close()
        self._process = None

    def kill9(self) -> None:
        """An end without warning, as a crash has it; what was committed is there after `start`."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.stop()

    def _install(self, home: Path) -> None:
        for name in ("conf", "data", "logs", "run", "import", "plugins"):
            (home / name).mkdir(parents=True)
        (home / "conf" / "neo4j.conf").write_text(_CONF.format(port=self.port))
        result = subprocess.run(
            [java(), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_OPENS, "-cp", f"{prepare()}/*",
             "org.neo4j.cli.AdminTool", "dbms", "set-initial-password", self.password],
            env={**os.environ, "NEO4J_HOME": str(home), "NEO4J_CONF": str(home / "conf")},
            capture_output=True, text=True, timeout=_PASSWORD_TIMEOUT_S, check=False,
        )  # fmt: skip
        if result.returncode:
            raise RuntimeError(f"neo4j: setting the password failed: {(result.stdout + result.stderr)[-800:]}")

    def _speaks_bolt(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as connection:
                connection.sendall(_HELLO)
                return len(connection.recv(4)) == 4
        except OSError:
            return False


@contextmanager
def neo4j(folder: Path, *, quick: bool = True) -> Iterator[Neo4j]:
    """An empty server with a password of its own; killed at the end, as its data goes away with the folder.

    Args:
        quick: False where its speed is measured.
    """
    server = Neo4j(folder, free_port(), quick)
    try:
        server.start()
        yield server
    finally:
        server.kill9()


_CONF = """\
server.default_listen_address=127.0.0.1
server.default_advertised_address=127.0.0.1
server.bolt.enabled=true
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.advertised_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
dbms.security.auth_enabled=true
dbms.usage_report.enabled=false
server.memory.pagecache.size=64m
db.tx_log.rotation.size=16M
db.tx_log.preallocate=false
dbms.memory.transaction.total.max=256m
"""
