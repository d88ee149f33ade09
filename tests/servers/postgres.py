"""PostgreSQL 15: passwords by SCRAM, an ordinary role, a fresh database per test; it can be killed and come back."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import debian
from tests.servers.process import argv_name, free_port
from tests.servers.process import stop as stop_process

PACKAGES = ("postgresql-15", "postgresql-client-15", "libpq5")
ROLE = "headspring"
"""The ordinary role that databases belong to: no superuser, bound by row-level security."""
_NOBODY = "nobody"
"""Who runs the server where the tests run as root, which the server refuses."""
_START_TIMEOUT_S = 60.0
_SETTINGS: Mapping[str, str] = {
    "unix_socket_directories": "", "shared_buffers": "64MB", "max_connections": "200",
    "password_encryption": "scram-sha-256", "lc_messages": "C", "log_min_messages": "warning",
    "timezone": "UTC",
}  # fmt: skip


def prepare() -> Path:
    """Brings the server into the cache; where it is."""
    return debian.root("postgres", PACKAGES)


@dataclass
class Postgres:
    """A running server. Its data and port outlive `kill9` and `stop`."""

    port: int
    password: str
    """Of both roles: `headspring` and the superuser `postgres`."""
    home: Path
    durable: bool
    host: str = "127.0.0.1"
    """Of this machine, where it listens besides loopback."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """A database of the ordinary role, the same each time; `database()` gives fresh ones."""
        return self.address()

    def address(self, database: str = ROLE, *, role: str = ROLE, password: str | None = None) -> str:
        """SQLAlchemy's form of an address of this server."""
        return f"postgresql+psycopg://{role}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def database(self, *, owner: str = ROLE, like: str = "") -> str:
        """A fresh database; its address for its owner.

        Args:
            like: address of a database that nobody is connected to, which this one is a copy of; "": it is empty.
        """
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE {like.rpartition('/')[2] or 'template0'}")
        return self.address(name, role=owner)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Runs statements as superuser, each in a transaction of its own."""
        import psycopg

        with psycopg.connect(self._superuser(database), autocommit=True, connect_timeout=10) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def start(self) -> None:
        """Starts it on its data; ready for connections on return."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            self._launch()
            try:
                self._await(deadline)
                return
            except RuntimeError as error:
                # After a kill the old server's last children hold the shared memory for a moment.
                if "shared memory" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill9(self) -> None:
        """SIGKILL to the server; its children see that and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """A fast shutdown: open sessions are ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                stop_process(self._process)
            self._process = None

    def _superuser(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def _launch(self) -> None:
        places = ",".join(sorted({"127.0.0.1", self.host}))
        fsync = "on" if self.durable else "off"
        settings = {**_SETTINGS, "listen_addresses": places, "port": str(self.port), "fsync": fsync}
        argv = [str(_program(self.home, "postgres")), "-D", str(self.home / "data")]
        argv += [f"--{name}={value}" for name, value in settings.items()]
        with (self.home / "log").open("ab") as out:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=self.home, env=_environment(self.home), user=_user(), group=_group(), extra_groups=_groups(),
            )  # fmt: skip

    def _await(self, deadline: float) -> None:
        import psycopg

        process = self._process
        assert process is not None
        while True:
            try:
                psycopg.connect(self._superuser("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError as error:
                ended = process.poll()
                if ended is not None or time.monotonic() > deadline:
                    end = (self.home / "log").read_text(errors="replace")[-3000:]
                    what = f"ended with {ended}" if ended is not None else f"takes no connection ({error})"
                    if ended is None:
                        stop_process(process)
                    raise RuntimeError(f"{argv_name(process)} {what}; its log ends:\n{end}") from None
                time.sleep(0.05)


@contextmanager
def postgres(folder: Path, *, durable: bool = False, host: str = "127.0.0.1") -> Iterator[Postgres]:
    """A server with the ordinary role and its database.

    Args:
        folder: where its log is copied to when the block ends by an error.
        durable: with fsync; without, a killed server loses nothing all the same, a machine without power would.
        host: another address of this machine to listen at; who shares its network (/30) may sign in there.
    """
    home = _home()
    server = Postgres(port=free_port(), password=secrets.token_urlsafe(18), home=home, durable=durable, host=host)
    try:
        _initdb(server)
        server.start()
        server.execute(
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{server.password}'",
            f"CREATE DATABASE {ROLE} OWNER {ROLE} TEMPLATE template0",
        )
        yield server
    except BaseException:
        if (home / "log").exists():
            shutil.copy(home / "log", folder / "postgres.log")
        raise
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _initdb(server: Postgres) -> None:
    secret = server.home / "password"
    secret.write_text(server.password)
    if os.getuid() == 0:
        shutil.chown(secret, _NOBODY)
        shutil.chown(server.home, _NOBODY)
    argv = [
        str(_program(server.home, "initdb")), "-D", str(server.home / "data"), "-U", "postgres", "-E", "UTF8",
        "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync",
    ]  # fmt: skip
    result = subprocess.run(
        argv, cwd=server.home, env=_environment(server.home), capture_output=True, text=True, timeout=120, check=False,
        user=_user(), group=_group(), extra_groups=_groups(),
    )  # fmt: skip
    secret.unlink()
    if result.returncode:
        raise RuntimeError(f"initdb failed with {result.returncode}: {result.stderr.strip()[-800:]}")
    if server.host != "127.0.0.1":
        with (server.home / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {server.host}/30 scram-sha-256\n")


def _home() -> Path:
    """A folder for data, log and, where the server's user cannot reach the cache, links to the programs.

    Every folder above it can be passed by anybody: tests' own folders cannot when they run as root.
    """
    home = Path(tempfile.mkdtemp(prefix="headspring-postgres-"))
    home.chmod(0o755)
    unpacked = prepare()
    if os.getuid() == 0 and not all(_passable(place) for place in (unpacked, *unpacked.parents)):
        shutil.copytree(unpacked, home / "root", copy_function=_link, symlinks=True)
    else:
        (home / "root").symlink_to(unpacked)
    return home


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _passable(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _program(home: Path, name: str) -> Path:
    return (home / "root").resolve() / "usr" / "lib" / "postgresql" / "15" / "bin" / name


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": debian.library_path((home / "root").resolve()), "LC_ALL": "C.UTF-8"}


def _user() -> str | None:
    return _NOBODY if os.getuid() == 0 else None


def _group() -> str | None:
    return "nogroup" if os.getuid() == 0 else None


def _groups() -> list[str] | None:
    return [] if os.getuid() == 0 else None
