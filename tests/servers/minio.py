"""MinIO, one node: built once from its last published source by Go's own tools."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import debian
from tests.servers.process import free_port, running

_MODULE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
_BUILD_S = 1800.0
"""Four minutes on two idle cores; more where others work."""


def prepare() -> Path:
    """Brings the server into the cache; where it is.

    Raises:
        RuntimeError: it cannot be built; says why.
    """
    home = debian.cache() / "minio"
    program, stamp = home / "bin" / "minio", home / "built"
    with debian.locked("minio"):
        if stamp.exists() and stamp.read_text() == _MODULE:
            return program
        go = shutil.which("go")
        if go is None:
            raise RuntimeError(f"minio: this machine has no go; put the server into {program} and {_MODULE} in {stamp}")
        home.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [go, "install", "-trimpath", "-ldflags", "-s -w", _MODULE], cwd=home, capture_output=True, text=True,
            timeout=_BUILD_S, check=False,
            env={**os.environ, "CGO_ENABLED": "0", "GOBIN": str(program.parent), "GOFLAGS": "-buildvcs=false"},
        )  # fmt: skip
        if result.returncode:
            raise RuntimeError(f"minio: go install failed with {result.returncode}: {result.stderr.strip()[-800:]}")
        stamp.write_text(_MODULE)
    return program


@dataclass
class Minio:
    """A server on loopback; the same port, data and root user over restarts."""

    folder: Path
    port: int
    user: str = field(default_factory=lambda: f"root-{secrets.token_hex(4)}")
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    _process: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def address(self) -> str:
        """`host:port`, as the client library wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def data(self) -> Path:
        """Where the server keeps `BUCKET/KEY`."""
        return self.folder / "minio"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("minio does not run")
        return self._process.pid

    def start(self) -> None:
        """Again after `stop` or `kill9`, with what it held."""
        self.data.mkdir(exist_ok=True)
        argv = [str(prepare()), "server", str(self.data), "--address", self.address]
        env = {
            "MINIO_ROOT_USER": self.user, "MINIO_ROOT_PASSWORD": self.password, "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off", "GOMEMLIMIT": "256MiB", "HOME": str(self.folder),
        }  # fmt: skip
        health = f"{self.url}/minio/health/ready"
        log = self.folder / "minio.log"
        self._process = self._stack.enter_context(running(argv, health=health, log=log, env=env, cwd=self.folder))

    def stop(self) -> None:
        """An orderly end."""
        self._stack.close()
        self._process = None

    def kill9(self) -> None:
        """An end without warning, as a crash has it."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.stop()


@contextmanager
def minio(folder: Path) -> Iterator[Minio]:
    """An empty server with a root user of its own; no bucket."""
    server = Minio(folder, free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()
