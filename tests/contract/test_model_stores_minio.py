"""Artifacts in a bucket keep the contract of their port, on a real MinIO."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from tests.servers.minio import Minio, minio

from headspring.models.artifacts.minio_store import MinioArtifactStore
from headspring.models.testing import ArtifactStoreContract

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as started:
        yield started


class TestMinio(ArtifactStoreContract):
    @pytest.fixture
    def artifacts(self, server: Minio) -> Iterator[MinioArtifactStore]:
        store = MinioArtifactStore(
            server.url, user=server.user, password=server.password, bucket=f"b-{secrets.token_hex(8)}",
            max_bytes=self.max_bytes,
        )  # fmt: skip
        yield store
        store.close()
