"""`headspring`: the command line. Imports here stay light; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from headspring.gateway.cli import flink, remote
from headspring.gateway.cli.flags import secrets, with_settings
from headspring.gateway.cli.output import Format, show
from headspring.gateway.runtime import ROLES

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
@with_settings
def config(*, flags: dict[str, Any], file: Path | None, output: Output = Format.TABLE) -> None:
    """Every setting with its value and where the value came from: flag, environment, file or default."""
    from headspring.gateway.runtime.config import resolve

    rows = [
        {"setting": name, "value": found.shown, "source": found.source, "meaning": found.setting.help}
        for name, found in resolve(flags, file=file).resolved.items()
    ]
    show(rows, output)


@app.command(
    epilog=f"Example: headspring up --data ./data --port 8420\n\nBy environment or file only: {secrets('embedded')}"
)
@partial(with_settings, shape="embedded")
def up(*, flags: dict[str, Any], file: Path | None) -> None:
    """Runs the platform in this terminal, without servers, until Ctrl-C."""
    from headspring.gateway.runtime.config import resolve

    settings = resolve(flags, file=file)
    from headspring.gateway.runtime.data import prepare

    prepare(settings.data)  # before the first kernel is imported: compiled code goes into the data folder
    from headspring.gateway.runtime.serve import run

    run(settings, say=lambda line: print(line, flush=True))


@app.command(
    "run",
    epilog="Example: headspring run detect --config headspring.toml\n\n"
    f"By environment or file only: {secrets('distributed')}",
)
@partial(with_settings, shape="distributed")
def run_role(
    *, role: Annotated[str, typer.Argument(help=", ".join(ROLES))], flags: dict[str, Any], file: Path | None
) -> None:
    """Runs one role of the distributed shape, on Kafka and the stores, until SIGTERM."""
    from headspring.gateway.runtime.config import resolve
    from headspring.gateway.runtime.data import prepare
    from headspring.proto.errors import ConfigError

    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}; wanted one of {', '.join(ROLES)}")
    settings = resolve(flags, file=file)
    prepare(settings.data)  # before the first kernel is imported, as in `up`
    from headspring.gateway.runtime.roles import run

    run(role, settings, say=lambda line: print(line, flush=True))


@app.command(
    epilog="Example: headspring migrate ./data --config headspring.toml\n\n"
    f"By environment or file only: {secrets('distributed')}"
)
@partial(with_settings, shape="distributed")
def migrate(
    *,
    source: Annotated[Path, typer.Argument(metavar="DATA", help="data folder of an installation that is not running")],
    leave_open: Annotated[bool, typer.Option("--leave-open", help="move although incidents are open")] = False,
    flags: dict[str, Any],
    file: Path | None,
    output: Output = Format.TABLE,
) -> None:
    """Moves an embedded installation to the servers of a distributed one; may be killed and called again.

    Every part is counted and digested on both sides. Do it before the first role starts there.
    """
    import asyncio

    from headspring.gateway.migrate.command import migrate as run
    from headspring.gateway.runtime.config import resolve

    moved = asyncio.run(run(source, resolve(flags, file=file), leave_open=leave_open, say=_progress))
    show(
        [
            {"part": one.name, "source": one.source.count, "target": one.target.count, "equal": one.equal,
             "digest": one.target.digest[:16]}
            for one in moved
        ],
        output,
    )  # fmt: skip
    if not all(one.equal for one in moved):
        raise typer.Exit(1)


@app.command(epilog="Example: headspring demo --fault payment-delay --yes")
def demo(
    fault: Annotated[
        str,
        typer.Option(
            help="payment-delay, inventory-error, payment-crash, bad-deploy, database-slow, two-faults, or none"
        ),
    ] = "payment-delay",
    yes: Annotated[bool, typer.Option("--yes", help="approve the plan yourself, for unattended runs")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end")] = False,
    data: Annotated[Path | None, typer.Option(help="folder to write to; a temporary one without it")] = None,
    minutes: Annotated[float, typer.Option(help="with --fault none: how long the healthy shop is watched")] = 10.0,
    timeout_s: Annotated[float, typer.Option(help="seconds from the fault to the resolved incident")] = 300.0,
    stack: Annotated[bool, typer.Option("--stack", help="on the servers that `make stack` runs")] = False,
    stack_file: Annotated[Path, typer.Option(help="with --stack: where it is described")] = Path(".stack/stack.json"),
) -> None:
    """A shop of real processes, a fault, and the way to its repair, checked at every step."""
    from headspring.gateway.demo.command import main as run

    file = stack_file if stack else None
    raise typer.Exit(run(fault, yes, keep, data, timeout_s, minutes=minutes, stack_file=file))


backtest = typer.Typer(help="Runs detection, correlation and diagnosis over recorded cases.")
app.add_typer(backtest, name="backtest")
app.add_typer(flink.app, name="flink")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@backtest.command("detect", epilog="Example: headspring backtest detect nab.input.parquet scores.parquet")
def backtest_detect(source: Annotated[Path, typer.Argument()], output: Annotated[Path, typer.Argument()]) -> None:
    """Scores recorded series (parquet: series, timestamp, value), causally."""
    from headspring.analytics.detect.backtest import run

    run(source, output, progress=_progress)


@backtest.command("correlate", epilog="Example: headspring backtest correlate recorded/ assigned.jsonl")
def backtest_correlate(source: Annotated[Path, typer.Argument()], output: Annotated[Path, typer.Argument()]) -> None:
    """Groups recorded alerts (a folder with alerts.jsonl and topology.json) into incidents."""
    from headspring.analytics.correlate.backtest import run

    run(source, output, progress=lambda done: _progress(f"{done} alerts"))


@backtest.command("diagnose", epilog="Example: headspring backtest diagnose cases/ answers.json")
def backtest_diagnose(source: Annotated[Path, typer.Argument()], output: Annotated[Path, typer.Argument()]) -> None:
    """Ranks causes of recorded incidents (a folder of case folders)."""
    from headspring.analytics.diagnose.backtest import run

    run(source, output, progress=_progress)


@app.command(epilog="Example: headspring replay ./data --detection stricter.json")
def replay(
    data: Annotated[Path, typer.Argument(help="data folder of an installation that is not running, or a copy of one")],
    detection: Annotated[Path | None, typer.Option(help="detection settings to try, JSON")] = None,
    settle_s: Annotated[float, typer.Option(help="calm before an incident counts as resolved, seconds")] = 15.0,
    output: Output = Format.TABLE,
) -> None:
    """What incidents the recorded telemetry would give, with other settings if you like. Changes nothing."""
    import asyncio
    import json

    from headspring.analytics.detect.stage import DetectConfig
    from headspring.gateway.runtime.replay import replay as run
    from headspring.proto.codec import to_jsonable
    from headspring.proto.errors import ConfigError

    try:
        config = DetectConfig.from_json(json.loads(detection.read_text("utf-8"))) if detection else DetectConfig()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{detection} holds no detection settings: {error}") from error
    found = asyncio.run(run(data, detection=config, settle_s=settle_s, progress=_progress))
    if output is not Format.TABLE:
        show([to_jsonable(incident) for incident in found], output)
        return
    show([remote.row(to_jsonable(incident)) for incident in found], output)


@app.command("keys", epilog="Example: headspring keys --data ./data --create grafana --role viewer")
def api_keys(
    data: Annotated[Path | None, typer.Option(help="data folder of the installation")] = None,
    create: Annotated[str, typer.Option(help="name of a key to make; it is shown once")] = "",
    role: Annotated[str, typer.Option(help="ingest, viewer, operator or admin")] = "viewer",
    revoke: Annotated[str, typer.Option(help="name of a key to make useless")] = "",
    output: Output = Format.TABLE,
) -> None:
    """API keys of an installation on this machine: list, make, revoke."""
    from headspring.gateway.auth.keys import KeyStore, Role
    from headspring.gateway.runtime.config import resolve
    from headspring.gateway.runtime.data import prepare
    from headspring.proto.clock import SystemClock
    from headspring.proto.errors import ConfigError

    if role not in set(Role):
        raise ConfigError(f"role is {role!r}; wanted one of {', '.join(Role)}")
    keys = KeyStore(prepare(resolve({"data": data}).data), clock=SystemClock())
    if revoke:
        keys.revoke(revoke)
        print(f"{revoke} is revoked; a running platform refuses it within seconds", file=sys.stderr)
    elif create:
        show({"name": create, "role": role, "key": keys.create(create, Role(role))}, output)
    else:
        show([{"name": key.name, "role": key.role.value, "tenant": key.tenant} for key in keys.list()], output)


@app.command(epilog="Example: headspring lint runbooks/ restart-ours.yaml")
def lint(paths: Annotated[list[Path], typer.Argument(help="runbooks, or folders of them")]) -> None:
    """Checks runbooks: every problem as file:line:column, and exit code 1 if there is one."""
    from headspring.action.runbooks.load import lint_files

    problems = lint_files(paths)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)


app.command(epilog="Example: headspring incidents --state open -o json")(remote.incidents)
app.command(epilog="Example: headspring incident inc-0192f3")(remote.incident)
app.command(epilog="Example: headspring approve run-0192f3 --comment 'seen'")(remote.approve)
app.command(epilog="Example: headspring reject run-0192f3 --comment 'not now'")(remote.reject)
app.command(epilog="Example: headspring runbooks -o yaml")(remote.runbooks)
app.command(epilog="Example: headspring freeze")(remote.freeze)
app.command(epilog="Example: headspring thaw")(remote.thaw)


def main() -> None:
    """Entry point: errors raised on purpose become one line on stderr and exit code 1, never a stack trace."""
    from headspring.proto.errors import PlatformError

    try:
        app()
    except PlatformError as error:
        print(f"headspring: {error}", file=sys.stderr)
        raise SystemExit(1) from error
