"""VictoriaMetrics, single node."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from tests.servers import debian
from tests.servers.process import free_port, running

PACKAGES = ("victoria-metrics",)


def prepare() -> Path:
    """Brings the server into the cache; where it is."""
    return debian.root("victoria", PACKAGES)


def program() -> Path:
    """The server's binary."""
    return prepare() / "usr" / "bin" / "victoria-metrics"


@dataclass
class Victoria:
    """A server on loopback; the same port and data over restarts."""

    folder: Path
    port: int
    retention: str = "30d"
    password: str = field(default="", repr=False)
    """With it, user `headspring` signs in; without, nobody has to."""
    flags: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    USER = "headspring"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("victoria-metrics does not run")
        return self._process.pid

    def start(self) -> None:
        """Again after `stop` or `kill9`, with what it held."""
        argv = [
            str(program()), f"-storageDataPath={self.folder / 'victoria'}", f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-retentionPeriod={self.retention}", "-memory.allowedBytes=256MiB",
            "-maxLabelsPerTimeseries=80",
            "-search.latencyOffset=0s",  # else the last 30 s stay hidden
            *self.flags,
        ]  # fmt: skip
        if self.password:
            argv += [f"-httpAuth.username={self.USER}", f"-httpAuth.password={self.password}"]
        log = self.folder / "victoria.log"
        self._process = self._stack.enter_context(running(argv, health=f"{self.url}/health", log=log, cwd=self.folder))

    def stop(self) -> None:
        """An orderly end: everything is on disk."""
        self._stack.close()
        self._process = None

    def kill9(self) -> None:
        """An end without warning: samples of the last seconds are lost."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.stop()


@contextmanager
def victoria(
    folder: Path, *, retention: str = "30d", password: str = "", flags: Sequence[str] = ()
) -> Iterator[Victoria]:
    """An empty server. New series can be queried after `flush`, else after about 10 s."""
    server = Victoria(folder, free_port(), retention, password, flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def victoria_metrics(folder: Path) -> Iterator[str]:
    """The same for who needs its base address only."""
    with victoria(folder) as server:
        yield server.url


def flush(url: str) -> None:
    """Makes everything written so far visible to queries."""
    httpx2.get(f"{url}/internal/force_flush", timeout=10.0, trust_env=False).raise_for_status()
