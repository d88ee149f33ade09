"""Every room has a README, and what it names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ingestion", "streaming", "analytics", "action", "knowledge", "gateway", "models", "proto", "tests")
_QUOTED = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)\)")
_PATH = re.compile(r"^[\w.-]+(/[\w.-]+)*/?$")
_SUFFIXES = (".py", ".md", ".proto", ".sh", ".yaml", ".yml", ".toml", ".json", ".sql", ".html", ".css", ".js")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def _readmes() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "*README.md"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).exists()]


def _named_files(readme: Path) -> set[str]:
    """Paths that a README names: links, and code spans that look like files of this repository."""
    text = readme.read_text(encoding="utf-8")
    spans = {span for span in _QUOTED.findall(text) if _PATH.match(span)}
    files = {span for span in spans if span.endswith(_SUFFIXES)}
    return files | {link for link in _LINK.findall(text) if "://" not in link}


def _exists(name: str, readme: Path) -> bool:
    """Beside the README, in the repository's root, or inside the room's package."""
    room = readme.parent
    bases = [room, ROOT, *(room / "headspring").glob("*")]
    if any((base / name).exists() for base in bases):
        return True
    # A bare file name, or the end of a path, within the room.
    return any(path.as_posix().endswith("/" + name) for path in room.rglob(Path(name).name))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_readme_that_says_something(room: str) -> None:
    readme = ROOT / room / "README.md"
    assert readme.is_file()
    assert len(readme.read_text(encoding="utf-8").split()) > 30


@pytest.mark.parametrize("readme", _readmes(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_readme_names_exist(readme: Path) -> None:
    missing = sorted(name for name in _named_files(readme) if not _exists(name, readme))
    assert missing == []


@pytest.mark.parametrize("readme", _readmes(), ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_that_a_readme_names_exist(readme: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = readme.read_text(encoding="utf-8")
    spans = [*_QUOTED.findall(text), *re.findall(r"^ *\$? *(make .*)$", text, re.MULTILINE)]
    named = {target for span in spans for target in _MAKE.findall(span)}
    assert named - targets == set()
