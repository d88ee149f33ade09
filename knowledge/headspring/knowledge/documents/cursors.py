"""Opaque page cursors: the sort key of the last item listed, so a page starts right after it."""

from __future__ import annotations

import base64
import binascii

from headspring.proto.errors import QueryError

_MAX_CHARS = 512
START = (2**63 - 1, "\U0010ffff")
"""Sorts after everything in (time, id) order: where a newest-first list starts."""


def cursor_of(time_ns: int, key: str) -> str:
    """
    >>> position_of(cursor_of(12, "in-1"))
    (12, 'in-1')
    """
    return base64.urlsafe_b64encode(f"{time_ns}:{key}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> tuple[int, str]:
    """(time, id) of the item before the page; the start of the list for "".

    Raises:
        QueryError: the text is no cursor of ours.
    """
    if not cursor:
        return START
    try:
        if len(cursor) > _MAX_CHARS:
            raise ValueError("too long")
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        time_text, found, key = text.partition(":")
        if not found or abs(int(time_text)) >= 2**63:
            raise ValueError("not time:id")
        return int(time_text), key
    except (ValueError, binascii.Error, UnicodeDecodeError) as error:
        raise QueryError("the cursor is not one that this list gave; start again without it") from error
