"""One flag for each setting, made from the table of settings, so that none can be forgotten."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from headspring.gateway.runtime.config import ENV_PREFIX, SETTINGS, Setting

File = Annotated[
    Path | None, typer.Option("--file", "--config", help="settings file, TOML; `headspring config` lists all settings")
]


def with_settings(command: Callable[..., None], *, shape: str = "") -> Callable[..., None]:
    """Gives a command that takes `flags` and `file` a flag for every setting that is no secret.

    Secrets have none on purpose: an argument can be read by everybody on the machine in the list of processes.

    Args:
        shape: Leaves settings of the other shape out; "" takes all.
    """
    given = [setting for setting in SETTINGS if not setting.secret and (not shape or setting.shape in ("", shape))]

    def run(*, file: Path | None = None, **options: Any) -> None:
        flags = {setting.name: options.pop(setting.name, None) for setting in given}
        command(flags=flags, file=file, **options)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(setting.name, kind, default=None, annotation=_annotation(setting)) for setting in given
    ]
    parameters += [
        parameter.replace(kind=kind)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name not in ("flags", "file")
    ]
    parameters.append(inspect.Parameter("file", kind, default=None, annotation=File))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions allow it, typeshed not
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _annotation(setting: Setting) -> Any:
    default = "" if setting.default in ("", None) else f" [default: {_shown(setting.default)}]"
    option = typer.Option(help=f"{setting.help}{default}", show_default=False, envvar=None)
    return Annotated[setting.type | None, option]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def secrets(shape: str) -> str:
    """Variables of a shape's settings that have no flag."""
    found = [setting for setting in SETTINGS if setting.secret and setting.shape in ("", shape)]
    return ", ".join(ENV_PREFIX + setting.name.upper() for setting in found)
