"""Size and time of the base install, and how soon `headspring --help` answers.

Run: `python tests/benchmarks/bench_install.py` from the repository root; under three minutes, needs a package index.
The wheel is built from the working tree and installed without extras into fresh environments: by uv with its cache
filled by an install before, and by pip without a cache, download included. Megabytes are 10^6 bytes, sizes of files
and not of disk blocks, without pip itself.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import ROOT, about, heading, write

LARGEST = 12
HELP_RUNS = 10
GOAL_MB, GOAL_S, GOAL_HELP_MS = 450, 30, 250
_NOT_OURS = frozenset({"pip", "setuptools"})


def timed(argv: Sequence[str | Path], **environment: str) -> float:
    """Seconds of a command.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    start = time.monotonic()
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=clean | environment, cwd=ROOT)
    spent = time.monotonic() - start
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))} failed: {result.stderr[-2000:]}")
    return spent


def site_packages(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))


def packages(environment: Path) -> dict[str, float]:
    """MB of the files that every installed distribution lists, largest first."""
    sizes: dict[str, float] = {}
    for distribution in distributions(path=[str(site_packages(environment))]):
        # A file of zero bytes in a RECORD may be missing; bytecode is listed by pip only.
        files = (Path(str(file.locate())) for file in distribution.files or ())
        size = sum(file.stat().st_size for file in files if file.is_file())
        sizes[re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()] = size / 1e6
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def help_ms(environment: Path) -> list[float]:
    """Milliseconds of `headspring --help`, from the start of its process to its end."""
    command = environment / "bin" / "headspring"
    return [timed([command, "--help"]) * 1000 for _ in range(HELP_RUNS)]


def by_uv(folder: Path, wheel: Path) -> dict[str, Any]:
    """Twice into new environments: the first fills the cache."""
    uv = Path(sys.executable).with_name("uv")
    tool = str(uv) if uv.exists() else shutil.which("uv")
    if tool is None:
        raise RuntimeError("no uv: `make setup` brings it")
    for name in ("first", "warm"):
        environment = folder / f"uv-{name}"
        timed([tool, "venv", "--quiet", "--python", sys.executable, environment])
        seconds = timed([tool, "pip", "install", "--quiet", "--python", environment / "bin" / "python", wheel])
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return _measured(environment, seconds) | {"tool": version}


def by_pip(folder: Path, wheel: Path) -> dict[str, Any]:
    """With what Python brings: its own pip, everything downloaded, bytecode compiled."""
    environment = folder / "pip"
    timed([sys.executable, "-m", "venv", environment])
    python = environment / "bin" / "python"
    seconds = timed([python, "-m", "pip", "install", "--quiet", "--no-cache-dir", wheel])
    version = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=True).stdout
    return _measured(environment, seconds) | {"tool": " ".join(version.split()[:2])}


def _measured(environment: Path, seconds: float) -> dict[str, Any]:
    sizes = {name: size for name, size in packages(environment).items() if name not in _NOT_OURS}
    whole = sum(file.stat().st_size for file in site_packages(environment).rglob("*") if file.is_file())
    pip = sum(packages(environment).get(name, 0.0) for name in _NOT_OURS)
    answers = help_ms(environment)
    return {
        "install_s": round(seconds, 1),
        "site_packages_mb": round(whole / 1e6 - pip, 1),
        "packages": len(sizes),
        "largest_mb": {name: round(size, 1) for name, size in list(sizes.items())[:LARGEST]},
        "help_ms": {"best": round(min(answers)), "median": round(statistics.median(answers)), "runs": HELP_RUNS},
    }


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        heading("The base install", result["about"])
        + f"Wheel of {result['wheel_mb']} MB, no extras. Goals: {GOAL_MB} MB, {GOAL_S} s, --help {GOAL_HELP_MS} ms.\n",
        "| how | seconds | MB in site-packages | packages | `headspring --help` ms: best, median of 10 |",
        "|---|---|---|---|---|",
    ]
    for how, words in (("uv", "cache filled"), ("pip", "no cache, downloads and compiles bytecode")):
        one = result[how]
        lines.append(
            f"| {one['tool']}, {words} | {one['install_s']} | {one['site_packages_mb']} | {one['packages']} | "
            f"{one['help_ms']['best']}, {one['help_ms']['median']} |"
        )
    lines += ["", "| largest packages, by uv | MB |", "|---|---|"]
    lines += [f"| {name} | {size} |" for name, size in result["uv"]["largest_mb"].items()]
    return "\n".join(lines)


def main() -> None:
    details = about("bench_install.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder])
        wheel = next(folder.glob("*.whl"))
        result = {
            "about": details,
            "wheel_mb": round(wheel.stat().st_size / 1e6, 2),
            "uv": by_uv(folder, wheel),
            "pip": by_pip(folder, wheel),
        }
    write("install", result, text(result))


if __name__ == "__main__":
    main()
