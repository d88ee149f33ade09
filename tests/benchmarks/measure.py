"""What benchmarks share: about the machine, CPU time of process trees, results as JSON and as text."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"


def about(script: str) -> dict[str, Any]:
    """Where, when and of what a figure was taken; `load` is what the machine had to do before the run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "command": f"python tests/benchmarks/{script}",
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu_s(pid: int) -> float:
    """User and system time of a process and its living descendants, and of those it waited for, seconds."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:4]) for one in (process, *process.children(recursive=True)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in the values' unit; empty for none."""
    if not values:
        return {}
    at = np.percentile(values, (50, 90, 99, 100))
    return {name: round(float(value), 3) for name, value in zip(("p50", "p90", "p99", "max"), at, strict=True)}


def write(name: str, result: dict[str, Any], text: str) -> None:
    """`results/NAME.json` and `.md`, and the JSON to stdout."""
    RESULTS.mkdir(exist_ok=True)
    data = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(data, encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    sys.stdout.write(data)


def heading(title: str, about: dict[str, Any]) -> str:
    """First lines of a result's text."""
    return (
        f"# {title}\n\n`{about['command']}` at commit {about['commit']}, {about['date']}. {about['machine']}, "
        f"{about['system']}, Python {about['python']}. Load average before the run: {about['load_before']}; work of "
        f"others on the machine makes times longer, so read them as upper bounds.\n\n"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
