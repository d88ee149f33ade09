"""The artifact store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import hashlib

import pytest

from headspring.models.artifacts.port import ArtifactStore
from headspring.proto.errors import NotFound


class ArtifactStoreContract:
    """Subclass it and give it an `artifacts` fixture."""

    @pytest.fixture
    def artifacts(self) -> ArtifactStore:
        raise NotImplementedError("the binding gives a fixture artifacts")

    @pytest.mark.parametrize("content", [b"", b"model", bytes(range(256)) * 5000])
    def test_what_was_put_is_got_by_its_sha256(self, artifacts: ArtifactStore, content: bytes) -> None:
        digest = artifacts.put(content)
        assert digest == hashlib.sha256(content).hexdigest()
        assert artifacts.get(digest) == content
        assert artifacts.has(digest)

    def test_putting_again_changes_nothing(self, artifacts: ArtifactStore) -> None:
        assert artifacts.put(b"model") == artifacts.put(b"model")
        assert artifacts.get(artifacts.put(b"model")) == b"model"

    @pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", "A" * 64, "0" * 63])
    def test_what_is_not_there_is_not_found(self, artifacts: ArtifactStore, digest: str) -> None:
        assert not artifacts.has(digest)
        with pytest.raises(NotFound):
            artifacts.get(digest)
