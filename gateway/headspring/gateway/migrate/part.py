"""What a part of a migration is, and how far it got.

A part copies everything it stands for in pages. Copying a page again changes nothing at the target, so a migration
that was killed goes on with the last page it had noted. The proof is taken from both sides afterwards, by reading.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headspring.proto.errors import ConfigError

Progress = Callable[[str, int], None]
"""Name of the part, items copied so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What one side holds of a part."""

    count: int
    digest: str
    """SHA-256 over all items in an order of their own, lower-case hex."""


class Part(Protocol):
    """See the module."""

    @property
    def name(self) -> str: ...

    async def copy(self, after: str, note: Callable[[str, int], None]) -> None:
        """Copies what follows the mark `after` ("" from the start).

        Args:
            note: Called when a page is durable at the target: the mark to go on after, and how many items it had.
        """
        ...

    async def source(self) -> Content: ...

    async def target(self) -> Content:
        """Of what was migrated: what the target had of its own before is left out where that can be told."""
        ...


class Digest:
    """Order-free digest: the sum of the items' hashes, so that both sides may be read in any order.

    >>> one, two = Digest(), Digest()
    >>> one.add(b"a"), one.add(b"b"), two.add(b"b"), two.add(b"a")
    (None, None, None, None)
    >>> one.content() == two.content()
    True
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0

    def add(self, item: bytes) -> None:
        self._count += 1
        self._sum += int.from_bytes(hashlib.sha256(item).digest(), "little")

    def add_all(self, items: Iterable[bytes]) -> None:
        for item in items:
            self.add(item)

    def content(self) -> Content:
        total = hashlib.sha256((self._sum % 2**512).to_bytes(64, "little")).hexdigest()
        return Content(count=self._count, digest=total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far a part is."""

    after: str = ""
    items: int = 0
    done: bool = False


class Journal:
    """Marks of all parts in a file of the data folder, whole or not at all after a crash."""

    def __init__(self, file: Path, *, target: str) -> None:
        """
        Args:
            target: What identifies where it goes; a journal of another target is refused.

        Raises:
            ConfigError: the journal cannot be read, or is of another target.
        """
        self._file = file
        self._target = target
        self._marks: dict[str, Mark] = {}
        if not file.exists():
            return
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            self._marks = {name: Mark(**mark) for name, mark in kept["parts"].items()}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{file} is no journal of a migration: {error}; remove it to start over") from error
        if kept["target"] != target:
            raise ConfigError(
                f"{file} is of a migration to {kept['target']}, wanted {target}; finish that one, or remove the file "
                "to start over"
            )

    def mark(self, part: str) -> Mark:
        return self._marks.get(part, Mark())

    def note(self, part: str, mark: Mark) -> None:
        """Durable on return."""
        self._marks[part] = mark
        parts = {name: {"after": one.after, "items": one.items, "done": one.done} for name, one in self._marks.items()}
        fresh = self._file.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"target": self._target, "parts": parts}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
