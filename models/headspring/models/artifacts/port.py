"""The artifacts port: bytes by the digest of their content.

Contract (proved by `headspring.models.testing.ArtifactStoreContract` on every backend):

- `put` is idempotent and durable on return; the digest is the lower-case hex SHA-256 of the content.
- `get` returns exactly what was put: the digest is computed again on every read.
- Several processes may put and get at once; nobody ever sees half an artifact.
"""

from __future__ import annotations

from typing import Protocol


class ArtifactStore(Protocol):
    """See the module's contract. Calls block; run them in a thread from an event loop."""

    def put(self, content: bytes) -> str:
        """Keeps the content; returns its digest.

        Raises:
            LimitExceeded: larger than the store takes.
            Unavailable: it cannot be written now.
        """
        ...

    def get(self, digest: str) -> bytes:
        """
        Raises:
            NotFound: no such artifact, or the text is no digest.
            BackendError: the stored bytes do not have this digest any more; do not use them.
        """
        ...

    def has(self, digest: str) -> bool: ...
