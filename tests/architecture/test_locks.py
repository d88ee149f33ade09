"""The base and every extra can be installed with hashes checked: `uv.lock` exports each as such a list."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = _PROJECT["optional-dependencies"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PINNED = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^ ;]+)( ; [^\\]+)?( --hash=sha256:[0-9a-f]{64})+")


def name_of(requirement: str) -> str:
    """The normalised name of a requirement."""
    found = _NAME.match(requirement)
    assert found, f"{requirement!r} names no package"
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@cache
def exported(extra: str = "") -> tuple[str, ...]:
    """Requirements of the base, or of the base and an extra, each in one line with its hashes."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    assert uv, "uv is missing: `make setup` brings it"
    argv = [
        uv, "export", "--offline", "--frozen", "--no-dev", "--no-emit-project", "--no-annotate", "--no-header",
        "--format", "requirements-txt", *(["--extra", extra] if extra else []),
    ]  # fmt: skip
    found = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "UV_PYTHON": sys.executable}
    )
    assert found.returncode == 0, found.stderr
    joined = re.sub(r"[ \t]*\\\n[ \t]*", " ", found.stdout)
    return tuple(line.strip() for line in joined.splitlines() if line.strip())


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_package_is_pinned_with_a_sha256(extra: str) -> None:
    assert exported(extra)
    assert [line for line in exported(extra) if not _PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_everything_that_pyproject_asks_for_is_exported(extra: str) -> None:
    wanted = {name_of(one) for one in _PROJECT["dependencies"] + EXTRAS.get(extra, [])}
    assert wanted - {name_of(line) for line in exported(extra)} == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_changes_no_version_of_the_base(extra: str) -> None:
    pins = {line.split(" ")[0] for line in exported()}
    assert pins - {line.split(" ")[0] for line in exported(extra)} == set()


def test_nothing_of_the_development_groups_is_exported() -> None:
    assert {name_of(line) for line in exported()} & {"pytest", "ruff", "mypy", "hatchling", "playwright"} == set()
