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

from headspring.ingestion.wire.jit import inlined, primitive

PADDING_BYTES = 8
"""What a buffer needs after its last byte, so that the last eight-byte load stays inside it."""


Keys = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
"""Secret words; a tuple, so that compiled code holds them in registers."""


def random_keys() -> Keys:
    """Words that nobody outside this process knows."""
    first, second, third, fourth = (np.uint64(secrets.randbits(64)) for _ in range(4))
    return first, second, third, fourth


@primitive
def load_u64(_context: Any, address: Any, index: Any) -> Any:
    """Eight bytes at `address + index` as a little-endian word, unaligned, unchecked.

    Buffers are passed as addresses (uint64), because compiled code counts references to arrays on every
    call, which costs more than reading a field. The caller holds the buffer."""

    def codegen(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.add(arguments[0], arguments[1])
        return builder.load(builder.inttoptr(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.uint64, types.int64), codegen


@primitive
def load_u8(_context: Any, address: Any, index: Any) -> Any:
    """The byte at `address + index`, unchecked."""

    def codegen(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.add(arguments[0], arguments[1])
        return builder.load(builder.inttoptr(place, ir.IntType(8).as_pointer()))

    return types.uint8(types.uint64, types.int64), codegen


@primitive
def fold(_context: Any, left: Any, right: Any) -> Any:
    """Upper xor lower half of the 128-bit product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(upper, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), codegen


@inlined
def hash_range(buffer: Any, start: int, stop: int, seed: Any, keys: Any) -> Any:
    """Hash of the bytes from `start` to `stop` continuing `seed`; never 0, so that 0 can mean "none"."""
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
