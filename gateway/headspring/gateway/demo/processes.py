"""Child processes of the supervisor: started from argv lists, ready by pipe, stopped cleanly, never orphaned."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from headspring.proto.errors import ConfigError, Unavailable

START_TIMEOUT_S = 60.0
"""A process starts in about 1 s alone, and in several when all start at once on a busy machine."""
STOP_TIMEOUT_S = 4.0
_EXPORT_EVERY_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Where the shop's telemetry goes."""

    otlp_url: str
    """Base address of OTLP over HTTP, without `/v1/…`."""
    api_key: str
    metrics_every_ms: int = 2000


class Child:
    """One started process. `answer` is what it wrote when it was ready."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path, *, ready: bool) -> None:
        self._life_read, self._life_write = os.pipe()
        ready_read, ready_write = os.pipe()
        passed = [self._life_read, *([ready_write] if ready else [])]
        extra = ["--life-fd", str(self._life_read), *(["--ready-fd", str(ready_write)] if ready else [])]
        try:
            with log.open("ab") as out:
                self.process = subprocess.Popen(
                    [*argv, *extra], env=dict(env), pass_fds=passed, stdin=subprocess.DEVNULL,
                    stdout=out if ready else subprocess.PIPE, stderr=out,
                )  # fmt: skip
        finally:
            os.close(ready_write)
            os.close(self._life_read)
        self._ready_read = ready_read
        self._log = log
        self._lock = threading.Lock()
        self.started = time.monotonic()
        self.answer: dict[str, Any] = {}

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """
        Raises:
            Unavailable: the process ended or said nothing in time; its log file is named.
        """
        text = b""
        deadline = time.monotonic() + timeout_s
        while not text.endswith(b"\n"):
            readable, _, _ = select.select([self._ready_read], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._ready_read, 4096) if readable else b""
            if not piece:
                self.stop()
                raise Unavailable(f"a process did not start within {timeout_s:.0f} s; see {self._log}")
            text += piece
        self.answer = json.loads(text)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to say goodbye."""
        if self.alive:
            self.process.send_signal(signal.SIGKILL)
        self._reap(STOP_TIMEOUT_S)

    def terminate(self) -> None:
        """Asks the process to stop and does not wait."""
        if self.alive:
            self.process.terminate()

    def stop(self) -> None:
        """Asks, waits `STOP_TIMEOUT_S`, then kills."""
        self.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reap(STOP_TIMEOUT_S)

    def _reap(self, timeout_s: float) -> None:
        self.process.wait(timeout_s)
        with self._lock:
            descriptors = {self._life_write, self._ready_read} - {-1}
            self._life_write = self._ready_read = -1
        for descriptor in descriptors:
            os.close(descriptor)
        if self.process.stdout:
            self.process.stdout.close()


def instrumentation() -> Path:
    """The program that instruments another from outside.

    Raises:
        ConfigError: the `shop` extra is not installed.
    """
    wrapper = Path(sys.executable).with_name("opentelemetry-instrument")
    if not wrapper.exists():
        raise ConfigError("the demo's packages are not installed; install them: pip install 'headspring[shop]'")
    return wrapper


def instrumented(module: str, *arguments: str) -> list[str]:
    """argv that runs a module under OpenTelemetry's zero-code instrumentation.

    Raises:
        ConfigError: the `shop` extra is not installed.
    """
    return [str(instrumentation()), sys.executable, "-m", module, *arguments]


def telemetry_env(export: Export, *, service: str, version: str, replica: int) -> dict[str, str]:
    """Environment for one service's process (OpenTelemetry's environment variable specification)."""
    every = str(_EXPORT_EVERY_MS)
    return {
        **os.environ,
        "VERSION": version,
        "OTEL_SERVICE_NAME": service,
        # A stable instance id: a restarted process continues its series, its counters just reset.
        "OTEL_RESOURCE_ATTRIBUTES": f"service.version={version},service.instance.id={service}-{replica}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": export.otlp_url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote('Bearer ' + export.api_key)}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
        "OTEL_BSP_SCHEDULE_DELAY": every,
        "OTEL_BLRP_SCHEDULE_DELAY": every,
        "OTEL_METRIC_EXPORT_INTERVAL": str(export.metrics_every_ms),
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }
