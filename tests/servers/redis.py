"""Redis 7, one server, with or without a password."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import debian
from tests.servers.process import free_port, running

PACKAGES = ("redis-server", "redis-tools")


def prepare() -> Path:
    """Brings the server into the cache; where it is."""
    return debian.root("redis", PACKAGES)


@dataclass
class Redis:
    """A server on loopback; the same port over restarts, its data only with `persistent`."""

    folder: Path
    port: int
    password: str = field(default="", repr=False)
    persistent: bool = False
    """Whether every write is on disk before it is answered; else everything is gone after an end."""
    flags: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        if self._process is None:
            raise RuntimeError("redis does not run")
        return self._process.pid

    def start(self) -> None:
        """Again after `stop` or `kill9`."""
        home = prepare()
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        config = self.folder / "redis.conf"
        config.touch(mode=0o600)  # a password is not for the list of processes
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\ndir "{data}"\nsave ""\ndaemonize no\n'
            f"appendonly {'yes' if self.persistent else 'no'}\nappendfsync always\n"
            "maxmemory 128mb\nmaxmemory-policy volatile-lru\n"
            + (f"requirepass {self.password}\n" if self.password else "")
        )
        argv = [str(home / "usr/bin/redis-server"), str(config), *self.flags]
        env = {"LD_LIBRARY_PATH": debian.library_path(home)}
        log = self.folder / "redis.log"
        self._process = self._stack.enter_context(
            running(argv, health=self._answers, log=log, env=env, cwd=self.folder)
        )

    def stop(self) -> None:
        """An orderly end."""
        self._stack.close()
        self._process = None

    def kill9(self) -> None:
        """An end without warning."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.stop()

    def command(self, *words: str) -> str:
        """The answer to a command, by the server's own client."""
        home = prepare()
        env = {**os.environ, "LD_LIBRARY_PATH": debian.library_path(home), "REDISCLI_AUTH": self.password}
        argv = [str(home / "usr/bin/redis-cli"), "-p", str(self.port), *words]
        result = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=10.0, check=False)
        return result.stdout.strip() or result.stderr.strip()

    def _answers(self) -> bool:
        return self.command("ping") == "PONG"


@contextmanager
def redis(
    folder: Path, *, password: str | None = None, persistent: bool = False, flags: Sequence[str] = ()
) -> Iterator[Redis]:
    """An empty server; with a password of its own, or none when that is empty."""
    secret = secrets.token_hex(18) if password is None else password
    server = Redis(folder, free_port(), secret, persistent, flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()
