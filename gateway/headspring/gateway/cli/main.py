"""`headspring`: the command line. Imports here stay light; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headspring.gateway.cli.output import Format, show

app = typer.Typer(
    name="headspring",
    help="Open AIOps that people trust to act: the right cause and a safe, approved fix.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml")]


@app.command(epilog="Example: headspring version -o json")
def version(output: Output = Format.TABLE) -> None:
    """The version of this installation."""
    import platform
    from importlib.metadata import version as installed

    show({"headspring": installed("headspring"), "python": platform.python_version()}, output)


@app.command(epilog="Example: headspring config --file headspring.toml -o json")
def config(
    file: Annotated[Path | None, typer.Option(help="settings file, TOML")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Every setting with its value and where the value came from: flag, environment, file or default."""
    from headspring.gateway.runtime.config import resolve

    rows = [
        {"setting": name, "value": found.shown, "source": found.source, "meaning": found.setting.help}
        for name, found in resolve(file=file).resolved.items()
    ]
    show(rows, output)


def main() -> None:
    """Entry point: errors raised on purpose become one line on stderr and exit code 1, never a stack trace."""
    from headspring.proto.errors import PlatformError

    try:
        app()
    except PlatformError as error:
        print(f"headspring: {error}", file=sys.stderr)
        raise SystemExit(1) from error
