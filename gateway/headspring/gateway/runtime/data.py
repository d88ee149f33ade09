"""The data folder: the only place an installation writes to."""

from __future__ import annotations

import os
import shutil
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from headspring.proto.errors import ConfigError

_COMPILED = ("streaming", "ingestion", "analytics")
"""Rooms with compiled kernels."""


def prepare(folder: Path) -> Path:
    """The data folder, made if need be, readable by its owner alone; compiled kernels are kept in it too.

    Raises:
        ConfigError: it cannot be made or written.
    """
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the data folder {folder} cannot be written: {error.strerror}; choose one with --data"
        ) from error
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(_kernels(folder / "kernels"))
    return folder


def _kernels(folder: Path) -> Path:
    """Where kernels compiled from exactly this code are kept; those of other code are removed.

    Numba only looks at the file of a kernel itself: one that calls kernels of another file would stay as it was
    when that file changes with an upgrade.
    """
    code = blake2b(digest_size=8)
    for room in _COMPILED:
        spec = find_spec(f"headspring.{room}")
        for place in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(place).rglob("*.py")):
                about = file.stat()
                code.update(f"{file.relative_to(place)} {about.st_size} {about.st_mtime_ns}\n".encode())
    mine = folder / code.hexdigest()
    if not mine.exists() and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    return mine
