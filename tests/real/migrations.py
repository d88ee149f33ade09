"""`headspring migrate`, killed on the way and called again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def killed_and_done(data: Path, config: Path, folder: Path, kills: Sequence[int]) -> list[dict[str, Any]]:
    """What the command says of each part once it was let to its end.

    Args:
        data: Folder of the installation to move.
        config: Settings of the one to move to.
        folder: For what the command itself writes.
        kills: SIGKILL comes when the command has told of so many pages, one call of it after the other.
    """
    argv = [
        str(Path(sys.executable).with_name("headspring")), "migrate", str(data), "--config", str(config),
        "--data", str(folder), "-o", "json",
    ]  # fmt: skip
    killed = 0
    for pages in kills:
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said: list[str] = []
        for line in process.stderr or ():
            said.append(line)
            if sum(" moved" in line for line in said) > pages:
                killed += 1
                break
        process.kill()
        status = process.wait()
        # A quick one may be through before all kills have come.
        assert status in (0, -signal.SIGKILL), f"it ended with {status}: {''.join(said)[-3000:]}"
    assert killed >= len(kills) // 2, (
        f"only {killed} of {len(kills)} calls were still moving things when they were killed"
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
