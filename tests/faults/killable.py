"""Processes of Headspring that can be killed and started again on the same folder and ports."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.headspring import Headspring
from tests.servers.process import free_port, healthy, stop

START_S = 120.0
"""The first start compiles kernels."""


class Lives:
    """One command over many lives of its process, its log in one file."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, health: str, name: str) -> None:
        """
        Args:
            argv: The command; `env` comes on top of the environment of the test.
            health: Address that answers 200 once the process is ready.
            name: For messages.
        """
        self.name = name
        self._argv = list(argv)
        self._env = {**os.environ, **env}
        self._log = log
        self._health = health
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self._process is None or self._process.poll() is not None

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env=self._env,
            )  # fmt: skip

    def await_ready(self, seconds: float = START_S) -> None:
        """
        Raises:
            RuntimeError: the process ended, or is not ready in time; holds the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not healthy(self._health):
            ended = self._process.poll() if self._process else -1
            if ended is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready (ended: {ended}); its log ends:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def start(self) -> float:
        """Starts the process; returns the seconds until it was ready."""
        began = time.monotonic()
        self.launch()
        self.await_ready()
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        os.kill(self.process_id, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after a while; harmless when it is not running."""
        if self._process is not None and self._process.poll() is None:
            stop(self._process)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class Killable(Lives):
    """One installation over many lives of `headspring up`."""

    def __init__(self, folder: Path, *, data: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        """
        Args:
            folder: For the log, and for the data unless `data` says otherwise.
            data: The platform's data folder.
            settings: More settings by name, lower case.
        """
        self.data = data or folder / "data"
        key = "hsk_" + secrets.token_urlsafe(32)
        port, otlp, grpc = free_port(), free_port(), free_port()
        argv = [
            str(Path(sys.executable).with_name("headspring")), "up", "--data", str(self.data), "--port", str(port),
            "--otlp-port", str(otlp), "--grpc-port", str(grpc),
        ]  # fmt: skip
        given = {f"HEADSPRING_{name.upper()}": value for name, value in (settings or {}).items()}
        self.asked = Headspring(
            url=f"http://127.0.0.1:{port}", otlp_url=f"http://127.0.0.1:{otlp}", grpc_target=f"127.0.0.1:{grpc}",
            api_key=key,
        )  # fmt: skip
        super().__init__(
            argv, env={"HEADSPRING_BOOTSTRAP_KEY": key, **given}, log=folder / "headspring.log",
            health=f"{self.asked.url}/api/v1/ready", name="headspring",
        )  # fmt: skip
