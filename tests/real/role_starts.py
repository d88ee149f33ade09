"""A role started with settings that are wrong, and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATIENCE_S = 90.0
_NEXT_TRY = re.compile(r"; next try in (\d+) s$")


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a start."""

    status: int | None
    """None: it went on trying, or runs."""
    lines: tuple[str, ...]

    @property
    def waits_s(self) -> list[int]:
        """Seconds that it waited between its tries."""
        return [int(found[1]) for line in self.lines if (found := _NEXT_TRY.search(line))]


def start(role: str, config: Path, folder: Path, *, tries: int = 3, **changes: Any) -> Said:
    """Runs a role with these settings, until it ended, runs, or has said `tries` times that it tries again."""
    folder.mkdir(parents=True)
    kept = [line for line in config.read_text().splitlines() if line.split(" = ")[0] not in changes]
    file = folder / "headspring.toml"
    file.touch(mode=0o600)
    file.write_text("\n".join([*kept, *(f"{name} = {_toml(value)}" for name, value in changes.items())]) + "\n")
    argv = [
        str(Path(sys.executable).with_name("headspring")), "run", role, "--config", str(file),
        "--data", str(folder / "data"), "--health-port", "0",
    ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []

    def read_on() -> None:
        lines.extend(line.rstrip() for line in process.stdout or ())

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if sum("; next try in " in line for line in lines) >= tries or f"{role}: running" in lines:
                break
            time.sleep(0.1)
        status = process.poll()
    finally:
        process.terminate()
        process.wait(30)
        reader.join(10)
    return Said(status, tuple(lines))


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
