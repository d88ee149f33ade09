"""How kernels are compiled: ahead of the first request, cached on disk, outside the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function as machine code, with its own signature for type checkers."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))
