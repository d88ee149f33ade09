"""Steps as local programs: allow-listed, without a shell, with an environment that holds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from headspring.action.execute.port import printable
from headspring.proto.action import PlannedStep
from headspring.proto.errors import ConfigError, ExecutionFailed, Rejected

MAX_OUTPUT_BYTES = 256 * 1024
MAX_TIMEOUT_S = 600.0
MAX_WORDS = 64
_TIMEOUT_S = 60.0
_GRACE_S = 2.0
"""Between asking a program to end and ending it."""


class ProcessExecutor:
    """`process` steps: `argv` (JSON list of words), `timeout_s`. Without an allow list nothing runs."""

    def __init__(self, *, allow: Sequence[str] = ()) -> None:
        """
        Args:
            allow: Full paths of the programs that may run.

        Raises:
            ConfigError: a path is not absolute and plain.
        """
        for entry in allow:
            if not os.path.isabs(entry) or os.path.normpath(entry) != entry:
                raise ConfigError(f"allow takes full paths of programs, got {entry!r}")
        self._allowed = frozenset(allow)

    @property
    def name(self) -> str:
        return "process"

    def preview(self, step: PlannedStep) -> str:
        argv, timeout_s = self._check(step)
        return f"would run {json.dumps(argv, ensure_ascii=False)}, at most {timeout_s:.0f} s"

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        argv, timeout_s = self._check(step)
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HEADSPRING_IDEMPOTENCY_KEY": idempotency_key}
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                env=environment, start_new_session=True, close_fds=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise ExecutionFailed(f"{argv[0]} cannot be started: {error}") from error
        output = bytearray()
        assert process.stdout is not None  # noqa: S101  # PIPE above; for the type checker
        reader = threading.Thread(target=_drain, args=(process.stdout, output), daemon=True)
        reader.start()
        try:
            process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ExecutionFailed(
                f"{argv[0]} ran longer than {timeout_s:.0f} s and was ended: {printable(bytes(output))[:500]}"
            ) from error
        finally:
            _end_group(process)
            reader.join(timeout=_GRACE_S)
        text = printable(bytes(output), cut=len(output) >= MAX_OUTPUT_BYTES)
        if process.returncode != 0:
            raise ExecutionFailed(f"{argv[0]} ended with {process.returncode}: {text[:500]}")
        return text

    def _check(self, step: PlannedStep) -> tuple[list[str], float]:
        try:
            argv = json.loads(step.arguments.get("argv", ""))
            timeout_s = float(step.arguments.get("timeout_s", _TIMEOUT_S))
        except ValueError as error:
            raise Rejected(f"argv is a JSON list of words and timeout_s a number: {error}") from error
        if (
            not isinstance(argv, list)
            or not 0 < len(argv) <= MAX_WORDS
            or not all(isinstance(one, str) for one in argv)
        ):
            raise Rejected(f"argv is a JSON list of 1 to {MAX_WORDS} words, got {step.arguments['argv'][:200]!r}")
        if any("\x00" in one for one in argv):
            raise Rejected("a word of argv holds a zero byte")
        if argv[0] not in self._allowed:
            raise Rejected(f"{argv[0]!r} is not on the list of programs that may run")
        if not Path(argv[0]).is_file() or not os.access(argv[0], os.X_OK):
            raise Rejected(f"{argv[0]} is not a program here")
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise Rejected(f"timeout_s is above 0 and at most {MAX_TIMEOUT_S:.0f}, got {timeout_s}")
        return argv, timeout_s


def _drain(stream: IO[bytes], output: bytearray) -> None:
    """Keeps the first bytes and throws the rest away, so that a talkative program neither blocks nor fills memory."""
    with stream:
        while chunk := os.read(stream.fileno(), 65_536):
            output += chunk[: max(MAX_OUTPUT_BYTES - len(output), 0)]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and whatever it started and left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
