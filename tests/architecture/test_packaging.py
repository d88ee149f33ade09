"""The distribution: eight source roots that share one namespace, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = tuple(_PROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"])
_DATA_SUFFIXES = {".py", ".pyi", ".proto", ".typed", ".yaml", ".html", ".css", ".js", ".svg", ".json"}
"""What a wheel must carry when it lies inside a room's package."""


def _tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in listing.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel that hatchling builds from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return archive.namelist()


def test_there_are_eight_rooms_and_each_holds_its_own_package() -> None:
    assert len(ROOMS) == 8
    for room in ROOMS:
        assert (ROOT / room / "headspring" / room / "__init__.py").is_file()


def test_no_room_makes_the_namespace_its_own() -> None:
    assert [room for room in ROOMS if (ROOT / room / "headspring" / "__init__.py").exists()] == []


def test_no_package_lives_in_two_rooms() -> None:
    owners: dict[str, list[str]] = {}
    for room in ROOMS:
        for child in (ROOT / room / "headspring").iterdir():
            if child.name != "__pycache__":
                owners.setdefault(child.name, []).append(room)
    assert owners == {room: [room] for room in ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_the_wheel_holds_every_room_with_its_type_marker(wheel: list[str], room: str) -> None:
    assert f"headspring/{room}/__init__.py" in wheel
    assert f"headspring/{room}/py.typed" in wheel


def test_the_wheel_holds_every_file_of_the_packages(wheel: list[str]) -> None:
    wanted = {
        name.split("/", 1)[1]
        for name in _tracked()
        if name.split("/", 1)[0] in ROOMS and "/headspring/" in name and Path(name).suffix in _DATA_SUFFIXES
    }
    assert sorted(wanted - set(wheel)) == []


def test_the_wheel_holds_nothing_but_the_packages(wheel: list[str]) -> None:
    version = _PROJECT["project"]["version"]
    others = {name.split("/")[0] for name in wheel} - {"headspring", f"headspring-{version}.dist-info"}
    assert others == set()
    assert "headspring/__init__.py" not in wheel


def test_every_package_says_what_it_is() -> None:
    silent = [
        name
        for name in _tracked()
        if name.endswith("/__init__.py") and name.split("/")[0] in ROOMS and "_pb2" not in name
        and not (ROOT / name).read_text(encoding="utf-8").startswith('"""')
    ]  # fmt: skip
    assert silent == []


def test_no_other_installed_distribution_owns_our_names() -> None:
    intruders = {
        distribution.metadata["Name"]
        for distribution in distributions()
        if distribution.metadata["Name"] != "headspring"
        and any(file.parts[:1] == ("headspring",) for file in distribution.files or ())
    }
    assert intruders == set()


def test_the_command_that_the_distribution_installs_exists() -> None:
    target = _PROJECT["project"]["scripts"]["headspring"]
    module, _, function = target.partition(":")
    file = ROOT / module.split(".")[1] / (module.replace(".", "/") + ".py")
    assert file.is_file(), f"{target} has no module"
    assert f"def {function}(" in file.read_text(encoding="utf-8")
