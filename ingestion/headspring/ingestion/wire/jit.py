"""How kernels are compiled: ahead of the first request, cached on disk, outside the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function as machine code, with its own signature for type checkers."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))


def inlined(function: F) -> F:
    """Like `compiled`, for small functions on the innermost path: their machine code goes into the caller's."""
    return cast("F", numba.njit(cache=True, nogil=True, forceinline=True)(function))


def primitive(function: Callable[..., Any]) -> Any:
    """An operation that compiled code may call, given as a function that emits LLVM instructions."""
    return intrinsic(function)
