"""What people type into a search box, as an FTS5 query that cannot fail to parse."""

from __future__ import annotations

_MAX_WORDS = 32


def match_expression(text: str) -> str:
    """All words, each quoted, so that no character of it is syntax; "" where there is no word.

    >>> match_expression('payment-service "timeout" OR')
    '"payment-service" "timeout" "OR"'
    >>> match_expression(' -- ')
    ''
    """
    words = [word.replace('"', "").replace("\0", "") for word in text.split()[:_MAX_WORDS]]
    return " ".join(f'"{word}"' for word in words if any(char.isalnum() for char in word))
