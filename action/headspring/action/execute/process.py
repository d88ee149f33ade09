"""Steps as local programs: allow-listed by full path, an argument list, never a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from headspring.proto.action import PlannedStep
from headspring.proto.errors import ExecutionFailed, Rejected, Unavailable

_TIMEOUT_S = 60.0
_MAX_TIMEOUT_S = 3600.0
_SHOWN_CHARS = 2000
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class ProcessExecutor:
    name = "process"

    def __init__(self, *, allow: Sequence[str] = ()) -> None:
        """
        Args:
            allow: Full paths of programs that runbooks may start; none by default.
        """
        self._allowed = frozenset(allow)

    def preview(self, step: PlannedStep) -> str:
        return json.dumps(self._argv(step), ensure_ascii=False)

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        argv = self._argv(step)
        timeout_s = _seconds(step.arguments.get("timeout_s", ""))
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                env={**_ENVIRONMENT, "HEADSPRING_IDEMPOTENCY_KEY": idempotency_key}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ExecutionFailed(f"cannot start {argv[0]}: {error.strerror}") from error
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Unavailable(f"{argv[0]} did not end within {timeout_s:g} s and was killed") from error
        text = output.decode("utf-8", "replace")[-_SHOWN_CHARS:]
        if process.returncode != 0:
            raise ExecutionFailed(f"{argv[0]} ended with {process.returncode}: {text.strip()[-300:]}")
        return text

    def _argv(self, step: PlannedStep) -> list[str]:
        try:
            argv = json.loads(step.arguments["argv"])
        except (KeyError, ValueError) as error:
            raise Rejected("a process step needs argv, a JSON list of words") from error
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise Rejected("argv is not a list of words")
        if argv[0] not in self._allowed or not Path(argv[0]).is_absolute():
            allowed = ", ".join(sorted(self._allowed)) or "none"
            raise Rejected(f"{argv[0]} is not an allowed program; allowed: {allowed}")
        return argv


def _seconds(text: str) -> float:
    try:
        value = float(text) if text else _TIMEOUT_S
    except ValueError as error:
        raise Rejected(f"timeout_s is {text!r}; wanted seconds") from error
    if not 0 < value <= _MAX_TIMEOUT_S:
        raise Rejected(f"timeout_s is {value:g}; wanted more than 0 and at most {_MAX_TIMEOUT_S:g}")
    return value
