"""The data folder: the only place an installation writes to."""

from __future__ import annotations

import os
from pathlib import Path

from headspring.proto.errors import ConfigError


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
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "kernels"))
    return folder
