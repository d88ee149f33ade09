"""A keyed 64-bit hash of byte ranges, for compiled code.

wyhash's construction: eight bytes at a time, folded by a 64×64→128-bit multiplication with secret words
(github.com/wangyi-fudan/wyhash). The words are drawn anew by each process, so a sender can neither
compute nor store inputs that collide. It keys caches only; series ids are made by `admit.registry`.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from headspring.ingestion.wire.jit import compiled, primitive

KEY_WORDS = 4
PADDING_BYTES = 8
"""What a buffer needs after its last byte, so that the last eight-byte load stays inside it."""


def random_keys() -> NDArray[np.uint64]:
    """Secret words, shape (4,)."""
    return np.frombuffer(secrets.token_bytes(8 * KEY_WORDS), dtype=np.uint64).copy()


@primitive
def load_u64(_context: Any, array: Any, index: Any) -> Any:
    """Eight bytes at `index` of a uint8 array as a little-endian word, unaligned, unchecked."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(array, index), codegen


@primitive
def fold(_context: Any, left: Any, right: Any) -> Any:
    """Upper xor lower half of the 128-bit product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(upper, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), codegen


@compiled
def hash_range(buffer: Any, start: int, stop: int, seed: Any, keys: Any) -> Any:
    """Hash of `buffer[start:stop]` continuing `seed`; never 0, so that 0 can mean "none"."""
    state: Any = fold(seed ^ keys[0], np.uint64(stop - start) ^ keys[1])
    position = start
    while position + 8 <= stop:
        state = fold(load_u64(buffer, position) ^ keys[1], state ^ keys[2])
        position += 8
    if position < stop:
        rest = np.uint64(8 * (stop - position))
        word = load_u64(buffer, position) & ((np.uint64(1) << rest) - np.uint64(1))
        state = fold(word ^ keys[2], state ^ keys[3])
    state = fold(state ^ keys[3], keys[0])
    return state if state != np.uint64(0) else np.uint64(1)
