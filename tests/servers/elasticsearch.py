"""Elasticsearch 8, one node: the core from Maven Central with what its distributions add (`java/elasticsearch`).

It has no ILM, no security and no scripts: those modules are not published there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import debian
from tests.servers.maven import jars, java
from tests.servers.process import free_port, running

VERSION = "8.19.21"
ARTIFACTS = (
    f"org.elasticsearch:elasticsearch:{VERSION}",
    f"org.elasticsearch.plugin:transport-netty4:{VERSION}",
)
_SOURCES = Path(__file__).parent / "java" / "elasticsearch"
_COMPILE_TIMEOUT_S = 120.0
_START_TIMEOUT_S = 240.0
_IN_MODULE = ("netty-*.jar", "transport-netty4-*.jar")
_DESCRIPTOR = (
    "name={name}\ndescription={name}\nversion={version}\nelasticsearch.version={version}\njava.version=17\n"
    "classname={main}\n"
)
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


def prepare() -> Path:
    """Brings the server into the cache and compiles our two classes; the folder with lib, classes, modules, plugins.

    Raises:
        RuntimeError: it cannot be had; says why.
    """
    lib = jars("elasticsearch", ARTIFACTS)
    sources = sorted(_SOURCES.glob("*.java"))
    wanted = hashlib.sha256(VERSION.encode() + b"".join(source.read_bytes() for source in sources)).hexdigest()
    home = debian.cache() / "elasticsearch" / "home"
    stamp = home / "ready"
    with debian.locked("elasticsearch"):
        if stamp.exists() and stamp.read_text() == wanted:
            return home
        shutil.rmtree(home, ignore_errors=True)
        server, netty, parts = home / "lib", home / "modules" / "transport-netty4", home / "plugins" / "parts"
        shutil.copytree(lib, server, copy_function=os.link)
        netty.mkdir(parents=True)
        for pattern in _IN_MODULE:  # a module's classes may not be on the server's own path too
            for jar in server.glob(pattern):
                jar.rename(netty / jar.name)
        _compile(_SOURCES / "Server.java", server, home / "classes")
        _compile(_SOURCES / "DistributionParts.java", server, home / "parts")
        parts.mkdir(parents=True)
        _run([java("jar"), "cf", str(parts / "parts.jar"), "-C", str(home / "parts"), "."])
        for folder, main in (
            (netty, "org.elasticsearch.transport.netty4.Netty4Plugin"),
            (parts, "headspring.tests.DistributionParts"),
        ):
            text = _DESCRIPTOR.format(name=folder.name, version=VERSION, main=main)
            (folder / "plugin-descriptor.properties").write_text(text)
        stamp.write_text(wanted)
    return home


@dataclass(slots=True, kw_only=True)
class Elasticsearch:
    """A node that can be killed and started again on the same data and port."""

    url: str
    folder: Path
    _argv: list[str]
    _running: tuple[ExitStack, subprocess.Popen[bytes]] | None = None
    _starts: int = 0

    def start(self) -> None:
        """Returns when every index has its primary shards.

        Raises:
            RuntimeError: it runs already, or did not come up; holds the end of its log.
        """
        if self._running is not None:
            raise RuntimeError("elasticsearch runs already")
        self._starts += 1
        stack = ExitStack()
        process = stack.enter_context(
            running(
                self._argv, log=self.log, cwd=self.folder, timeout_s=_START_TIMEOUT_S,
                health=f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s",
            )
        )  # fmt: skip
        self._running = (stack, process)

    def stop(self) -> None:
        """A clean shutdown."""
        if self._running is not None:
            stack, _ = self._running
            self._running = None
            stack.close()

    def kill9(self) -> None:
        """SIGKILL; returns when the process is gone."""
        process = self._started()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Takes connections and answers nothing, as behind a broken network, until the block ends."""
        process = self._started()
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGCONT)

    @property
    def log(self) -> Path:
        """What it wrote since its last start."""
        return self.folder / f"elasticsearch.{self._starts}.log"

    @property
    def pid(self) -> int:
        """Its process, for measuring."""
        return self._started().pid

    def _started(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            raise RuntimeError("elasticsearch does not run")
        return self._running[1]


@contextmanager
def elasticsearch(
    folder: Path, *, settings: Mapping[str, str] = {}, heap: str = "512m", fast_start: bool = True
) -> Iterator[Elasticsearch]:
    """An empty node; its data are gone afterwards, its logs stay in `folder`.

    Args:
        settings: of the node, over the ones of the tests.
        fast_start: compile as little as possible; False where throughput is measured.

    Raises:
        RuntimeError: it cannot be had, or did not come up; says why.
    """
    home, port = prepare(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    place, config = folder / "elasticsearch", folder / "elasticsearch" / "config"
    for name in ("config", "data", "logs", "temporary"):
        (place / name).mkdir(parents=True)
    for name in ("modules", "plugins"):
        (place / name).symlink_to(home / name)
    values = {
        "cluster.name": "tests", "node.name": "node", "network.host": "127.0.0.1", "http.port": str(port),
        "transport.port": str(free_port()), "discovery.type": "single-node", "path.data": str(place / "data"),
        "path.logs": str(place / "logs"), "node.processors": "2", "indices.memory.index_buffer_size": "32mb",
        "cluster.routing.allocation.disk.threshold_enabled": "false",  # the disk of a test machine may be fuller
        **settings,
    }  # fmt: skip
    (config / "elasticsearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    (config / "log4j2.properties").write_text(_LOGGING)
    argv = [
        java(), "-Xms128m", f"-Xmx{heap}", "-XX:+UseSerialGC", *(["-XX:TieredStopAtLevel=1"] if fast_start else []),
        f"-Djava.io.tmpdir={place / 'temporary'}", "-Djava.awt.headless=true", "-Dlog4j2.disable.jmx=true",
        "-cp", f"{home / 'classes'}:{home / 'lib'}/*", "Server", str(place),
    ]  # fmt: skip
    node = Elasticsearch(url=f"http://127.0.0.1:{port}", folder=folder, _argv=argv)
    try:
        node.start()
        yield node
    finally:
        if node._running is not None:
            node.kill9()  # the data go anyway
        shutil.rmtree(place, ignore_errors=True)


def _compile(source: Path, lib: Path, into: Path) -> None:
    into.mkdir(parents=True)
    classpath = f"{lib}/*"
    _run([java("javac"), "-nowarn", "-proc:none", "-cp", classpath, "-d", str(into), str(source)])


def _run(argv: list[str]) -> None:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    if result.returncode:
        raise RuntimeError(f"elasticsearch: {argv[0]} failed: {(result.stdout + result.stderr).strip()[-800:]}")
