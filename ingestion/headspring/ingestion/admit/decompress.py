"""Decompression that cannot be made to eat the memory.

The size is known to be within the limit before it is allocated: snappy declares it, gzip is inflated
in steps and stopped.
"""

from __future__ import annotations

import zlib

import cramjam

from headspring.ingestion.admit.limits import Limits
from headspring.proto.errors import ContractError, LimitExceeded

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's way of asking for a gzip header (zlib manual, inflateInit2)."""
_STEP_BYTES = 1024 * 1024


def decompress(data: bytes, encoding: str, limits: Limits) -> bytes:
    """The body in clear. `encoding` is a Content-Encoding: "", "identity", "gzip" or "snappy" (block format).

    Raises:
        LimitExceeded: the result would be larger than `max_body_bytes`, or its ratio above `max_ratio`.
        ContractError: the bytes are not of that encoding.
        UnsupportedEncoding: the encoding is another one.
    """
    if encoding in ("", "identity"):
        if len(data) > limits.max_body_bytes:
            raise LimitExceeded(f"body of {len(data)} bytes is over the limit of {limits.max_body_bytes} bytes")
        return data
    if encoding in ("gzip", "x-gzip"):
        return gunzip(data, limits)
    if encoding == "snappy":
        return unsnappy(data, limits)
    raise UnsupportedEncoding(f"Content-Encoding {encoding!r} is not supported; send gzip, snappy (block) or none")


class UnsupportedEncoding(ContractError):
    """The sender chose an encoding that is not spoken here (HTTP 415)."""


def gunzip(data: bytes, limits: Limits) -> bytes:
    """All members of a gzip stream. Errors as in `decompress`."""
    allowed = _allowed(len(data), limits)
    parts: list[bytes] = []
    size = 0
    rest = data
    while rest:
        inflater = zlib.decompressobj(_GZIP_WINDOW)
        while not inflater.eof:
            try:
                part = inflater.decompress(rest, min(_STEP_BYTES, allowed - size + 1))
            except zlib.error as error:
                raise ContractError(f"body is not gzip: {error}") from error
            size += len(part)
            if size > allowed:
                raise LimitExceeded(f"gzip body inflates to more than {allowed} bytes ({len(data)} bytes came)")
            if not part and not inflater.unconsumed_tail and not inflater.eof:
                raise ContractError(f"gzip body of {len(data)} bytes ends too early")
            parts.append(part)
            rest = inflater.unconsumed_tail
        rest = inflater.unused_data
    if not data:
        raise ContractError("body is not gzip: it is empty")
    return b"".join(parts)


def unsnappy(data: bytes, limits: Limits) -> bytes:
    """A snappy block; its declared length is checked before anything is allocated. Errors as in `decompress`."""
    try:
        declared = cramjam.snappy.decompress_raw_len(data)
        allowed = _allowed(len(data), limits)
        if declared > allowed:
            raise LimitExceeded(
                f"snappy body declares {declared} bytes, allowed are {allowed} ({len(data)} bytes came)"
            )
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise ContractError(f"body is not a snappy block: {error}") from error


def _allowed(compressed_bytes: int, limits: Limits) -> int:
    by_ratio = max(limits.ratio_free_bytes, int(compressed_bytes * limits.max_ratio))
    return min(limits.max_body_bytes, by_ratio)
