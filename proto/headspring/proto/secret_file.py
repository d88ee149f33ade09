"""Secrets of an installation: random bytes in a file of their own, made once, readable by the owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from headspring.proto.errors import ConfigError


def read_or_make(file: Path, size: int) -> bytes:
    """The `size` bytes in `file`, which is made if it is missing.

    The file appears whole or not at all: a process that dies while making it leaves none behind. Of several
    processes that make it at once, all get what the first made.

    Raises:
        ConfigError: the file cannot be read or made, or holds another number of bytes.
    """
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        found = make_or_read(file, secrets.token_bytes(size))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    if len(found) != size:
        raise ConfigError(f"{file} holds {len(found)} bytes and should hold {size}; restore it from a backup")
    return found


def make_or_read(file: Path, content: bytes) -> bytes:
    """Writes `content` to a file unless it exists; what is in it then.

    Raises:
        ConfigError: it cannot be written or read.
    """
    try:
        _link(file, content)
    except FileExistsError:
        try:
            return file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(f"cannot make {file}: {error.strerror}") from error
    return content


def _link(file: Path, content: bytes) -> None:
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, file)  # unlike a rename, this never replaces a secret that somebody else just made
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
