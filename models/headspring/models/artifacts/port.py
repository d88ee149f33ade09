"""The artifacts port: bytes by the digest of their content.

Contract (proved by `headspring.models.testing.ArtifactStoreContract` on every backend):

- `put` is idempotent and durable on return; the digest is the lower-case hex SHA-256 of the content.
- `get` returns exactly what was put: the digest is computed again on every read.
- Several processes may put and get at once; nobody ever sees half an artifact.
- An artifact that was damaged on its way or in its place is put right by putting the same content again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from headspring.proto.errors import NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")


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
            Unavailable: it cannot be read now.
        """
        ...

    def has(self, digest: str) -> bool:
        """Whether there is such an artifact; its content is not looked at.

        Raises:
            Unavailable: that cannot be told now.
        """
        ...

    def digests(self) -> Iterator[str]:
        """Digests of all artifacts, in their order.

        Raises:
            Unavailable: they cannot be listed now.
        """
        ...


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def checked_digest(text: str) -> str:
    """
    Raises:
        NotFound: it is no digest, so nothing has it. Also what keeps a path out of a name.
    """
    if not is_digest(text):
        raise NotFound(f"{text[:80]!r} is no SHA-256 digest in lower-case hex")
    return text
