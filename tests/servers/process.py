"""Server processes for tests: a free port, a health check, a clean stop, the log in the error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

_STOP_S = 15.0


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def running(
    argv: Sequence[str], *, health: str | Callable[[], bool], log: Path, env: Mapping[str, str] | None = None,
    cwd: Path | None = None, timeout_s: float = 30.0, run_as: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A process from the moment that `health` answers 2xx, or is true, until the block ends.

    Args:
        run_as: user it runs as; for servers that refuse root.

    Raises:
        RuntimeError: it ended, or was not healthy within `timeout_s`; holds the end of its log.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd=cwd,
            env={**os.environ, **(env or {})}, user=run_as,
        )  # fmt: skip
    try:
        _await(process, health, log, timeout_s)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process, after a while SIGKILL to it and its children."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(url: str) -> bool:
    """Whether a GET answers 2xx."""
    try:
        return httpx2.get(url, timeout=2.0, trust_env=False).is_success
    except httpx2.HTTPError:
        return False


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections on a port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _await(process: subprocess.Popen[bytes], health: str | Callable[[], bool], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not (healthy(health) if isinstance(health, str) else health()):
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-3000:]
            what = f"ended with {ended}" if ended is not None else f"is not healthy after {timeout_s:.0f} s"
            raise RuntimeError(f"{argv_name(process)} {what}; its log ends:\n{end}")
        time.sleep(0.1)


def argv_name(process: subprocess.Popen[bytes]) -> str:
    """The program's name, for messages."""
    arguments = process.args
    first = arguments[0] if isinstance(arguments, (list, tuple)) else arguments
    return Path(os.fsdecode(first)).name  # type: ignore[arg-type] # argv always starts with text here
