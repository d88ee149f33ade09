"""Every command shows an example that works; every setting has a flag and is read by something."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headspring.gateway.cli.main import app
from headspring.gateway.runtime.config import SETTINGS, resolve, runbook_settings
from headspring.proto.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
RUN = CliRunner()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group, as it has several commands
EXAMPLE = re.compile(r"^Example: headspring (.+)$", re.MULTILINE)
LIBRARY = ROOT / "action" / "headspring" / "action" / "runbooks" / "library"


def example(command: str) -> list[str]:
    found = EXAMPLE.search(COMMANDS[command].epilog or "")
    assert found, f"`headspring {command} --help` shows no example"
    return shlex.split(found[1])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that examples name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headspring.toml").write_text("port = 8421\n")
    (tmp_path / "runbooks").mkdir()
    for name, place in (("restart-service", "runbooks"), ("relieve-memory", ".")):
        (tmp_path / place / "restart-ours.yaml").write_bytes((LIBRARY / f"{name}.yaml").read_bytes())
    return tmp_path


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"backtest"}))
def test_every_command_has_an_example_of_itself(command: str) -> None:
    assert example(command)[0] == command


@pytest.mark.parametrize("command", ["version", "config", "lint", "keys"])
def test_examples_that_need_no_platform_run(command: str, here: Path) -> None:
    found = RUN.invoke(app, example(command))
    assert found.exit_code == 0, found.output


def test_config_says_where_each_value_came_from(here: Path) -> None:
    found = RUN.invoke(app, ["config", "--file", "headspring.toml", "--otlp-port", "4319", "-o", "json"])
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(found.output)}
    assert rows["port"] == ("8421", "file headspring.toml")
    assert rows["otlp_port"] == ("4319", "flag")
    assert rows["grpc_port"] == ("4317", "default")
    assert set(rows) == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_but_a_secret_has_a_flag_that_says_what_it_is(setting: object) -> None:
    name, secret = setting.name, setting.secret  # type: ignore[attr-defined]
    shapes = {"embedded": "up", "distributed": "run"}
    for shape, command in shapes.items():
        own = setting.shape in ("", shape)  # type: ignore[attr-defined]
        flags = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert (f"--{name.replace('_', '-')}" in flags) is (own and not secret)
        if own and secret:
            assert f"HEADSPRING_{name.upper()}" in COMMANDS[command].epilog


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_read_by_something(setting: object) -> None:
    name = setting.name  # type: ignore[attr-defined]
    sources = (ROOT / "gateway" / "headspring").rglob("*.py")
    assert any(f"settings.{name}" in source.read_text(encoding="utf-8") for source in sources)


def test_lint_names_file_line_and_column_and_fails(here: Path) -> None:
    (here / "runbooks" / "bad.yaml").write_text("name: x\nrisk: tiny\n")
    found = RUN.invoke(app, ["lint", "runbooks"])
    assert found.exit_code == 1
    assert "runbooks/bad.yaml:2:1: Input should be 'low', 'medium' or 'high' (risk)" in found.output


def test_lint_tells_of_two_runbooks_with_one_name(here: Path) -> None:
    (here / "runbooks" / "again.yaml").write_bytes((LIBRARY / "restart-service.yaml").read_bytes())
    found = RUN.invoke(app, ["lint", "runbooks"])
    assert found.exit_code == 1
    assert "is taken by runbooks/again.yaml" in found.output


def test_runbook_settings_are_names_and_values() -> None:
    settings = resolve({"runbook_settings": "scale_out_replicas=4 zone=a=b", "ops_url": "http://ops"}, environ={})
    assert runbook_settings(settings) == {"ops_url": "http://ops", "scale_out_replicas": "4", "zone": "a=b"}
    with pytest.raises(ConfigError, match=r"from flag.*'4' is not NAME=VALUE"):
        runbook_settings(resolve({"runbook_settings": "4"}, environ={}))
