"""Every backend of the artifact store and the model registry keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.models.artifacts.files import FileArtifactStore
from headspring.models.registry.sqlite import SqlModelRegistry
from headspring.models.testing import ArtifactStoreContract, ModelRegistryContract
from headspring.models.testing.registry import OpenRegistry
from headspring.proto.errors import BackendError, LimitExceeded


class TestFiles(ArtifactStoreContract):
    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> FileArtifactStore:
        return FileArtifactStore(tmp_path / "artifacts", max_bytes=self.max_bytes)

    def test_a_damaged_file_is_refused_and_can_be_put_again(self, artifacts: FileArtifactStore, tmp_path: Path) -> None:
        digest = artifacts.put(b"model")
        (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
        file.write_bytes(b"modem")
        with pytest.raises(BackendError, match="damaged"):
            artifacts.get(digest)
        artifacts.put(b"model")
        assert artifacts.get(digest) == b"model"

    def test_nothing_but_whole_artifacts_is_left_in_the_folder(
        self, artifacts: FileArtifactStore, tmp_path: Path
    ) -> None:
        digests = {artifacts.put(bytes([one])) for one in range(20)}
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == digests
        with pytest.raises(LimitExceeded):
            artifacts.put(bytes(self.max_bytes + 1))


class TestSqlite(ModelRegistryContract):
    @pytest.fixture
    def open_registry(self, tmp_path: Path) -> OpenRegistry:
        return lambda publish: SqlModelRegistry(tmp_path / "registry.db", publish=publish)
