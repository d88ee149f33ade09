"""JSON from outside: strict about encoding, numbers and depth."""

from __future__ import annotations

import json
from typing import Any

from headspring.proto.errors import ContractError, LimitExceeded


def parse_json(data: bytes, *, max_depth: int) -> Any:
    """The value of a JSON text.

    NaN and Infinity (which are not JSON), invalid UTF-8, half surrogates and numbers of thousands of
    digits are refused; of duplicate keys the last one counts, as most senders' libraries have it.

    Raises:
        LimitExceeded: arrays and objects are nested deeper than `max_depth`.
        ContractError: it is not JSON; the message says where.

    >>> parse_json(b'{"a": [1, 2]}', max_depth=3)
    {'a': [1, 2]}
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ContractError(f"body is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error
    except RecursionError as error:
        raise LimitExceeded(f"JSON is nested deeper than {max_depth} levels") from error
    except ValueError as error:  # JSONDecodeError, and Python's limit on digits of an integer
        raise ContractError(f"body is not JSON: {error}") from error
    _check_depth(value, max_depth)
    if b"\\ud" in data or b"\\uD" in data:
        _check_surrogates(value)
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words, for messages.

    >>> kind_of([]), kind_of({"a": 1}), kind_of(None)
    ('an array', "an object of 'a'", 'null')
    """
    if isinstance(value, dict):
        names = ", ".join(repr(name[:40]) for name in list(value)[:5])
        return f"an object of {names}" if names else "an empty object"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, list):
        return "an array"
    return "a text" if isinstance(value, str) else "a number"


def _refuse_constant(name: str) -> float:
    raise ContractError(f"body is not JSON: it holds {name}")


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise LimitExceeded(f"JSON is nested deeper than {max_depth} levels")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ContractError("body is not JSON text: it escapes half of a surrogate pair") from error
