"""A thread that takes whatever has queued up and handles it at once: group commit.

While one group is being synced the next one gathers, so the number of syncs follows the disk, not the
callers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_MAX_GROUP = 4096
"""Items handled at once."""


class GroupThread(Generic[T]):
    """Hands queued items to `handle`, in order, many at a time. `handle` must not raise."""

    def __init__(self, name: str, handle: Callable[[Sequence[T]], None], *, linger_s: float = 0.0) -> None:
        """
        Args:
            name: The thread's name.
            handle: Called in the thread.
            linger_s: Longest wait for company, in seconds; only taken after a group of several, so that a
                lone caller never waits.
        """
        self._handle = handle
        self._linger_s = linger_s
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Any thread."""
        self._queue.put(item)

    def close(self) -> None:
        """Handles what is queued, then ends. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        busy = False
        while True:
            item = self._queue.get()
            if busy and self._linger_s > 0:
                time.sleep(self._linger_s)
            group: list[T] = []
            last = item is None
            if item is not None:
                group.append(item)
            while not last and len(group) < _MAX_GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                else:
                    group.append(item)
            busy = len(group) > 1
            if group:
                self._handle(group)
            if last:
                return
