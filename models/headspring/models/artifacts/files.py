"""Artifacts as files: `ab/abcdef…`, written beside their place and moved there when they are whole."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from headspring.models.artifacts.port import checked_digest, is_digest
from headspring.proto.errors import BackendError, LimitExceeded, NotFound, Unavailable

_MAX_BYTES = 512 * 1024 * 1024
"""An ONNX model served here has a few megabytes; this stops a runaway export, not a model."""


class FileArtifactStore:
    """`ArtifactStore` (see the port for the contract) in a folder."""

    def __init__(self, folder: Path, *, max_bytes: int = _MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        if len(content) > self._max_bytes:
            raise LimitExceeded(f"an artifact of {len(content)} bytes, at most {self._max_bytes} are taken")
        digest = hashlib.sha256(content).hexdigest()
        place = self._place(digest)
        try:
            if self._intact(place, digest):
                return digest
            place.parent.mkdir(exist_ok=True)
            part = place.with_name(f".{digest}.{secrets.token_hex(6)}")
            try:
                with part.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(place)
            finally:
                part.unlink(missing_ok=True)
            # The new name is durable only when its folder is, and the folder's when the one above is.
            _sync_folder(place.parent)
            _sync_folder(self._folder)
        except OSError as error:
            raise Unavailable(f"artifact {digest}: {error}; check free disk space") from error
        return digest

    def get(self, digest: str) -> bytes:
        place = self._place(digest)
        try:
            content = place.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no artifact {digest}") from error
        except OSError as error:
            raise Unavailable(f"artifact {digest}: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BackendError(f"artifact {digest} is damaged: its content has digest {found}; publish the model again")
        return content

    def has(self, digest: str) -> bool:
        return is_digest(digest) and self._place(digest).is_file()

    def digests(self) -> Iterator[str]:
        for place in sorted(self._folder.glob("??/*")):
            if is_digest(place.name):
                yield place.name

    def _place(self, digest: str) -> Path:
        return self._folder / digest[:2] / checked_digest(digest)

    @staticmethod
    def _intact(place: Path, digest: str) -> bool:
        """Whether the artifact is there whole; a damaged one is written again."""
        try:
            return hashlib.sha256(place.read_bytes()).hexdigest() == digest
        except FileNotFoundError:
            return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
