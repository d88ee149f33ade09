"""Between the event loop and threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def unhurried(done: Future[T]) -> T:
    """The result of a thread's work. Who gives up waiting leaves the work alone, and what became of it untold."""
    waiting = asyncio.wrap_future(done)
    waiting.add_done_callback(_seen)
    return await asyncio.shield(waiting)


def _seen(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
