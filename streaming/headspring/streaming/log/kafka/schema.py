"""Which release's messages may be read: the header `hs-schema` of every record names the version it was written in.

Protobuf readers skip fields they do not know, so adding a field does not change the number. It changes when a reader
that skips what is new would be wrong. A release of version N reads N-1 and N. While a cluster is upgraded, old and
new releases read the same topics, so it is done in two steps: first every process is replaced, still writing N-1
(`Schema(written=N-1)`); when none of the old ones is left, they are told to write N.
"""

from __future__ import annotations

from dataclasses import dataclass

from headspring.proto.errors import ConfigError

VERSION = 1
"""Of the messages in `proto/v1` as this release writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a log reads and writes.

    Raises:
        ConfigError: it would write what the release before it, or it itself, cannot read.
    """

    version: int = VERSION
    """N: the newest version that is understood."""
    written: int = VERSION
    """N, or N-1 while processes of the release before are still reading."""

    def __post_init__(self) -> None:
        if self.written not in (self.version, self.version - 1):
            raise ConfigError(
                f"kafka.schema_written is {self.written}; this release writes {self.version - 1} (while the one before "
                f"still runs) or {self.version}"
            )

    def unreadable(self, found: int) -> str:
        """Why a record of version `found` must not be decoded; "" when it may be."""
        if found > self.version:
            return f"schema {found} is newer than {self.version}, the newest this release reads: upgrade this process"
        if found < self.version - 1:
            return f"schema {found} is older than {self.version - 1}, the oldest this release reads"
        return ""
