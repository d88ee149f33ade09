"""What people type into a search box, as words, and as an FTS5 query that cannot fail to parse."""

from __future__ import annotations

_MAX_WORDS = 32


def search_words(text: str) -> list[str]:
    """The words to look for, all of them. One with separators inside (`payment-service`) stands for its parts in a row.

    >>> search_words('payment-service "timeout" -- OR')
    ['payment-service', 'timeout', 'OR']
    """
    words = [word.replace('"', "").replace("\0", "") for word in text.split()[:_MAX_WORDS]]
    return [word for word in words if any(char.isalnum() for char in word)]


def match_expression(text: str) -> str:
    """All words, each quoted, so that no character of it is syntax; "" where there is no word.

    >>> match_expression('payment-service "timeout" OR')
    '"payment-service" "timeout" "OR"'
    >>> match_expression(' -- ')
    ''
    """
    return " ".join(f'"{word}"' for word in search_words(text))
