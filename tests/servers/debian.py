"""Server programs from Debian's archive, unpacked into a cache without root and without touching the system.

Own apt state below the cache, so that neither root's lists nor root's locks are needed. The cache is
`~/.cache/headspring/servers`, or what `HEADSPRING_SERVERS` names; a program is downloaded once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_NOT_NEEDED = ("adduser", "init-system-helpers", "debconf", "lsb-base", "ssl-cert", "tzdata", "sysvinit-utils")
_NOT_NEEDED_PREFIXES = ("fonts-", "libjs-")
_TIMEOUT_S = 300.0


def cache() -> Path:
    """The folder for downloaded servers, made when missing."""
    folder = Path(os.environ.get("HEADSPRING_SERVERS") or Path.home() / ".cache" / "headspring" / "servers")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def root(name: str, packages: Sequence[str]) -> Path:
    """The folder that holds `usr/bin/…` of these packages and of what they need that this machine lacks.

    Raises:
        RuntimeError: the packages cannot be had; says why.
    """
    home = cache() / name
    unpacked, stamp = home / "root", home / "ready"
    with locked(name):
        if stamp.exists() and stamp.read_text().split() == sorted(packages):
            return unpacked
        if shutil.which("apt-get") is None:
            raise RuntimeError(
                f"{name}: this machine has no apt-get; put the programs into {unpacked}/usr/bin yourself "
                f"and write {' '.join(sorted(packages))!r} into {stamp}"
            )
        shutil.rmtree(home, ignore_errors=True)
        downloads = home / "downloads"
        downloads.mkdir(parents=True)
        wanted = sorted({*packages, *_missing_dependencies(packages)})
        _apt("download", *wanted, cwd=downloads)
        for archive in sorted(downloads.glob("*.deb")):
            _run(["dpkg", "-x", str(archive), str(unpacked)], cwd=home)
        shutil.rmtree(downloads)
        stamp.write_text(" ".join(sorted(packages)))
    return unpacked


def library_path(unpacked: Path) -> str:
    """`LD_LIBRARY_PATH` under which the unpacked programs find their libraries."""
    places = [place for base in ("usr/lib", "lib") for place in sorted((unpacked / base).glob("*-linux-gnu"))]
    return ":".join([*map(str, places), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":")


def _missing_dependencies(packages: Sequence[str]) -> list[str]:
    """What apt would install beside `packages`, services' set-up helpers left out."""
    plan = _apt("-s", "--no-install-recommends", "install", *packages)
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    return [
        name
        for name in names
        if name not in _NOT_NEEDED and not name.startswith(_NOT_NEEDED_PREFIXES) and not name.endswith("-common")
    ]


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    state = cache() / "apt"
    lists, archives = state / "lists", state / "cache"
    options = [
        f"-oDir::State::lists={lists}", f"-oDir::Cache={archives}", "-oDebug::NoLocking=1",
        "-oAPT::Sandbox::User=", "-qq",
    ]  # fmt: skip
    if not lists.exists():
        (lists / "partial").mkdir(parents=True)
        (archives / "archives" / "partial").mkdir(parents=True)
        try:
            _run(["apt-get", *options, "update"], cwd=state)
        except RuntimeError:
            shutil.rmtree(state)
            raise
    try:
        return _run(["apt-get", *options, *arguments], cwd=cwd or state)
    except RuntimeError:
        # Lists grow old: a version they name may be gone from the archive. Next time they are fetched again.
        shutil.rmtree(state)
        raise


def _run(argv: Sequence[str], *, cwd: Path) -> str:
    result = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed with {result.returncode}: {result.stderr.strip()[-600:]}")
    return result.stdout


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One installation of a server at a time, over processes."""
    with (cache() / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
