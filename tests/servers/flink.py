"""Flink 2.2 with our windows: JobManager, TaskManagers and the ZooKeeper that lets a killed JobManager come back.

The programs come from Flink's own Python environment, which is made from the lock of `streaming/flink/`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from tests.servers import debian
from tests.servers.maven import jars, java
from tests.servers.process import free_port, listening, running

ARTIFACTS = ("org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",)
SOURCE = Path(__file__).resolve().parents[2] / "streaming" / "flink"
_INSTALL_TIMEOUT_S = 900.0
_START_TIMEOUT_S = 240.0
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} - %m%n
logger.kafka.name = org.apache.kafka
logger.kafka.level = WARN
logger.names.name = org.apache.flink.metrics.MetricGroup
logger.names.level = ERROR
logger.zookeeper.name = org.apache.flink.shaded.zookeeper3
logger.zookeeper.level = WARN
logger.curator.name = org.apache.flink.shaded.curator5
logger.curator.level = WARN
"""
_JOBMANAGER = "jobmanager"
_ZOOKEEPER = "zookeeper"


def prepare() -> Path:
    """Brings Flink, connector and our jar into the cache; the environment that `headspring flink submit` wants."""
    lock = SOURCE / "requirements.txt"
    connector = jars("flink-connectors", ARTIFACTS, transitive=False)
    with debian.locked("flink"):
        home = debian.cache() / "flink"
        home.mkdir(parents=True, exist_ok=True)
        environment = home / f"env-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
        if not (environment / "installed").exists():
            shutil.rmtree(environment, ignore_errors=True)
            _install(environment, lock)
            (environment / "installed").touch()
        sources = sorted(path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in (".md", ".pyc"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        stamp = environment / "headspring" / "built"
        if not (stamp.exists() and stamp.read_text() == digest):
            shutil.rmtree(stamp.parent, ignore_errors=True)
            (jar,) = connector.glob("*.jar")
            _run([str(environment / "bin" / "python"), str(SOURCE / "build.py"), "--connector", str(jar)])
            stamp.write_text(digest)
    return environment


@dataclass(slots=True, kw_only=True)
class Flink:
    """A running session cluster. TaskManagers are numbered from 1."""

    rest: str
    """Address of the JobManager's REST interface; the same after a restart."""
    environment: Path
    """Flink's Python environment with our jars in `headspring/`."""
    folder: Path
    _argv: Mapping[str, list[str]]
    _ports: Mapping[str, int]
    _running: dict[str, tuple[ExitStack, subprocess.Popen[bytes]]] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Where retained checkpoints are: `JOB/chk-N`."""
        return self.folder / "checkpoints"

    @property
    def savepoints(self) -> Path:
        return self.folder / "savepoints"

    @property
    def taskmanagers(self) -> tuple[int, ...]:
        """The TaskManagers that run."""
        return tuple(sorted(int(name.removeprefix("tm-")) for name in self._running if name.startswith("tm-")))

    def start_jobmanager(self) -> None:
        """Starts it where it does not run; returns when it answers, which is before it has its jobs back."""
        self._start(_JOBMANAGER, f"{self.rest}/overview")

    def kill9_jobmanager(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._kill9(_JOBMANAGER)

    def start_taskmanager(self, number: int) -> None:
        """Starts one that does not run; returns when its slots are known to the JobManager.

        Raises:
            RuntimeError: it did not come up; holds the end of its log.
        """
        name = f"tm-{number}"
        identity = f"{name}-{self._starts.get(name, 0) + 1}"
        self._start(name, partial(self._registered, identity), f"-Dtaskmanager.resource-id={identity}")

    def kill9_taskmanager(self, number: int) -> None:
        """SIGKILL; returns when the process is gone."""
        self._kill9(f"tm-{number}")

    def pid(self, number: int | None = None) -> int:
        """The process of a TaskManager, or of the JobManager."""
        return self._running[_JOBMANAGER if number is None else f"tm-{number}"][1].pid

    def log(self, number: int | None = None) -> Path:
        """What a TaskManager, or the JobManager, wrote since its last start."""
        name = _JOBMANAGER if number is None else f"tm-{number}"
        return self._log(name)

    def _registered(self, identity: str) -> bool:
        try:
            found = httpx2.get(f"{self.rest}/taskmanagers", timeout=5.0, trust_env=False).json()
        except (httpx2.HTTPError, ValueError):
            return False
        return any(one["id"] == identity and one["slotsNumber"] > 0 for one in found.get("taskmanagers", ()))

    def _start(self, name: str, health: Any, *more: str) -> None:
        if name in self._running:
            raise RuntimeError(f"flink's {name} runs already")
        self._starts[name] = self._starts.get(name, 0) + 1
        stack = ExitStack()
        process = stack.enter_context(
            running(
                [*self._argv[name.rstrip("0123456789")], *more],
                health=health,
                log=self._log(name),
                cwd=self.folder,
                timeout_s=_START_TIMEOUT_S,
            )
        )
        self._running[name] = (stack, process)

    def _kill9(self, name: str) -> None:
        stack, process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stack.close()

    def _log(self, name: str) -> Path:
        return self.folder / f"flink-{name}.{self._starts.get(name, 1)}.log"


@contextmanager
def flink(
    folder: Path, *, taskmanagers: int = 1, slots: int = 2, ha: bool = True, settings: Mapping[str, str] = {},
    heap: str = "448m", fast_start: bool = True,
) -> Iterator[Flink]:  # fmt: skip
    """A session cluster without jobs; its state is gone afterwards, its logs stay in `folder`.

    Args:
        ha: a killed JobManager has its jobs back when it is started again, by way of a ZooKeeper.
        settings: of Flink, over the ones of the tests.
        heap: of each TaskManager, for its tasks.
        fast_start: compile as little as possible; False where throughput is measured.

    Raises:
        RuntimeError: Flink cannot be had, or did not come up; says why.
    """
    environment = prepare()
    folder.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ("rest", "rpc", _ZOOKEEPER)}
    conf = folder / "conf"
    conf.mkdir(exist_ok=True)
    (conf / "config.yaml").write_text(
        "".join(f"{name}: '{value}'\n" for name, value in _settings(folder, ports, slots, heap, ha, settings).items())
    )
    (conf / "log4j.properties").write_text(_LOG4J)
    (conf / "zoo.cfg").write_text(
        f"dataDir={folder / 'zookeeper'}\nclientPort={ports[_ZOOKEEPER]}\nclientPortAddress=127.0.0.1\n"
        "tickTime=1000\nadmin.enableServer=false\nserver.1=127.0.0.1:1:2\n"
    )
    cluster = Flink(
        rest=f"http://127.0.0.1:{ports['rest']}", environment=environment, folder=folder,
        _argv=_programs(environment, conf, heap, fast_start), _ports=ports,
    )  # fmt: skip
    try:
        if ha:
            cluster._start(_ZOOKEEPER, partial(listening, ports[_ZOOKEEPER]))
        cluster.start_jobmanager()
        for number in range(1, taskmanagers + 1):
            cluster.start_taskmanager(number)
        yield cluster
    finally:
        for name in sorted(cluster._running, reverse=True):  # ZooKeeper first, so that nobody says good-bye to it
            cluster._kill9(name)
        for name in ("checkpoints", "savepoints", "ha", "zookeeper", "tmp"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _settings(
    folder: Path, ports: Mapping[str, int], slots: int, heap: str, ha: bool, more: Mapping[str, str]
) -> dict[str, str]:
    places = {
        "jobmanager.rpc.address": "127.0.0.1", "jobmanager.rpc.port": str(ports["rpc"]),
        "jobmanager.bind-host": "127.0.0.1", "taskmanager.host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": str(ports["rest"]),
        "rest.bind-port": str(ports["rest"]), "io.tmp.dirs": str(folder / "tmp"),
        "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (folder / "savepoints").as_uri(),
    }  # fmt: skip
    kept = {
        "high-availability.type": "zookeeper",
        "high-availability.storageDir": (folder / "ha").as_uri(),
        "high-availability.zookeeper.quorum": f"127.0.0.1:{ports[_ZOOKEEPER]}",
        "high-availability.zookeeper.client.session-timeout": "6000",
        "high-availability.zookeeper.client.tolerate-suspended-connections": "true",
        "high-availability.jobmanager.port": str(ports["rpc"]),
    }
    (folder / "tmp").mkdir(exist_ok=True)
    return {
        **places,
        **(kept if ha else {}),
        "taskmanager.numberOfTaskSlots": str(slots),
        "taskmanager.cpu.cores": str(float(slots)),
        "taskmanager.memory.task.heap.size": heap,
        "taskmanager.memory.task.off-heap.size": "64m",
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "96m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "128m",
        "taskmanager.memory.jvm-overhead.max": "128m",
        "taskmanager.memory.managed.size": "16m",
        "taskmanager.memory.network.min": "48m",
        "taskmanager.memory.network.max": "48m",
        "heartbeat.interval": "2000",
        "heartbeat.timeout": "10000",
        "slot.request.timeout": "60000",
        "metrics.fetcher.update-interval": "500",
        "web.submit.enable": "false",
        **more,
    }


def _programs(environment: Path, conf: Path, heap: str, fast_start: bool) -> dict[str, list[str]]:
    (lib,) = environment.glob("lib/python3*/site-packages/pyflink/lib")
    opens = next(
        line.split(":", 1)[1].split()
        for line in (lib.parent / "conf" / "config.yaml").read_text().splitlines()
        if line.strip().startswith("all: --add-")
    )
    common = [
        java(), "-XX:+UseSerialGC", *(["-XX:TieredStopAtLevel=1"] if fast_start else []), "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={conf.parent / 'tmp'}",
        f"-Dlog4j.configurationFile={conf / 'log4j.properties'}", *opens, "-cp", f"{lib}/*",
    ]  # fmt: skip
    size = {"jobmanager": "320m", "taskmanager": f"{int(heap.removesuffix('m')) + 128}m", "zookeeper": "64m"}
    main = {
        "jobmanager": "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
        "taskmanager": "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        "zookeeper": "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer",
    }

    def argv(program: str, *arguments: str) -> list[str]:
        memory = [f"-Xmx{size[program]}", "-XX:MaxMetaspaceSize=256m", "-XX:MaxDirectMemorySize=208m"]
        if not fast_start:
            memory.append(f"-Xms{size[program]}")  # as Flink's own scripts do
        return [common[0], *memory, *common[1:], main[program], *arguments]

    return {
        _JOBMANAGER: argv("jobmanager", "--configDir", str(conf)),
        "tm-": argv("taskmanager", "--configDir", str(conf)),
        _ZOOKEEPER: argv("zookeeper", "--zkConfigFile", str(conf / "zoo.cfg"), "--peerId", "1"),
    }


def _install(environment: Path, lock: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    python = str(environment / "bin" / "python")
    if uv:
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
        _run([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(lock)])
    else:
        _run([sys.executable, "-m", "venv", str(environment)])
        _run([python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])


def _run(argv: list[str]) -> None:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    if result.returncode:
        raise RuntimeError(f"{Path(argv[0]).name} failed with {result.returncode}: {result.stderr.strip()[-1500:]}")
