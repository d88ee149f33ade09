"""How commands print: a table for people, JSON or YAML for programs. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

_CONTROL = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)], " ")
"""Control characters in telemetry must not reach a terminal: they could rewrite what a person reads."""


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show(data: Mapping[str, Any] | Sequence[Mapping[str, Any]], output: Format) -> None:
    """Prints one thing or a list of like things."""
    if output is Format.JSON:
        print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
    elif output is Format.YAML:
        from ruamel.yaml import YAML

        YAML(typ="safe", pure=True).dump(json.loads(json.dumps(data, default=str)), sys.stdout)
    else:
        _table(data)


def plain(value: Any) -> str:
    """Text that is safe to print in a terminal."""
    return str(value).translate(_CONTROL)


def _table(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [{"": key, " ": value} for key, value in data.items()] if isinstance(data, Mapping) else list(data)
    if not rows:
        print("nothing to show", file=sys.stderr)
        return
    table = Table(box=None, show_header=not isinstance(data, Mapping), header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(plain(value)) for value in row.values()])
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
