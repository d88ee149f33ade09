"""The artifact store's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from headspring.models.artifacts.port import ArtifactStore
from headspring.proto.errors import LimitExceeded, NotFound


class ArtifactStoreContract:
    """Subclass it and give it an `artifacts` fixture: an empty store that takes `max_bytes`."""

    max_bytes = 40_000_000

    @pytest.fixture
    def artifacts(self) -> ArtifactStore:
        raise NotImplementedError("the binding gives a fixture artifacts")

    @pytest.mark.parametrize("content", [b"", b"model", bytes(range(256)) * 5000])
    def test_what_was_put_is_got_by_its_sha256(self, artifacts: ArtifactStore, content: bytes) -> None:
        digest = artifacts.put(content)
        assert digest == hashlib.sha256(content).hexdigest()
        assert artifacts.get(digest) == content
        assert artifacts.has(digest)

    def test_a_large_artifact_is_got_whole(self, artifacts: ArtifactStore) -> None:
        content = bytes(range(256)) * 150_000  # 38 MB: more than one part of an upload
        digest = artifacts.put(content)
        assert artifacts.put(content) == digest
        assert artifacts.get(digest) == content

    def test_more_than_the_store_takes_is_refused(self, artifacts: ArtifactStore) -> None:
        content = bytes(self.max_bytes + 1)
        with pytest.raises(LimitExceeded, match=f"{self.max_bytes + 1} bytes, at most {self.max_bytes}"):
            artifacts.put(content)
        assert list(artifacts.digests()) == []

    def test_all_artifacts_are_listed_in_order(self, artifacts: ArtifactStore) -> None:
        assert list(artifacts.digests()) == []
        digests = {artifacts.put(bytes([one])) for one in range(20)}
        assert list(artifacts.digests()) == sorted(digests)

    def test_many_may_put_and_get_at_once(self, artifacts: ArtifactStore) -> None:
        contents = [bytes([one]) * 70_000 for one in range(4)]

        def put_and_get(number: int) -> bool:
            content = contents[number % 4]
            return artifacts.get(artifacts.put(content)) == content

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(put_and_get, range(32)))
        assert len(list(artifacts.digests())) == 4

    def test_putting_again_changes_nothing(self, artifacts: ArtifactStore) -> None:
        assert artifacts.put(b"model") == artifacts.put(b"model")
        assert artifacts.get(artifacts.put(b"model")) == b"model"

    @pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", "A" * 64, "0" * 63])
    def test_what_is_not_there_is_not_found(self, artifacts: ArtifactStore, digest: str) -> None:
        assert not artifacts.has(digest)
        with pytest.raises(NotFound):
            artifacts.get(digest)
