"""A disk that can be filled and given space again while the platform runs on it."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

SIZE = "64m"
"""Of the small disk: a start takes some 3 MB."""


class Disk(Protocol):
    """What a test does to a disk."""

    folder: Path
    says: str
    """In the message about it: what the operating system calls the trouble."""

    def fill(self, process_id: int) -> None:
        """From now on nothing grows."""
        ...

    def free(self, process_id: int) -> None:
        """There is space again."""
        ...


class SmallDisk:
    """A file system of its own, filled by a file of somebody else's (ENOSPC)."""

    says = "No space left on device"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, process_id: int) -> None:
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 65536)
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 512)

    def free(self, process_id: int) -> None:
        self._ballast.unlink()


class NoGrowth:
    """A limit on the size of the process's files (EFBIG), for who may not mount anything."""

    says = "File too large"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, process_id: int) -> None:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (1, self._limits[1]))

    def free(self, process_id: int) -> None:
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, self._limits)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A file system in memory; skips the test for who may not mount one."""
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(argv, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def no_growth(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    yield NoGrowth(folder)


DISKS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Disk]]] = {
    "a full file system": small_disk, "files that may not grow": no_growth,
}  # fmt: skip


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
