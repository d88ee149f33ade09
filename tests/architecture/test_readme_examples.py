"""Every Python example of a README runs as it stands; its shell examples run in tests/real/test_readme_commands.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _examples() -> list[tuple[str, str]]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    names = [name for name in listing.split("\0") if name]
    return [(name, code) for name in names for code in _BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))]


EXAMPLES = _examples()


def test_the_rooms_with_a_library_of_their_own_show_how_to_use_it() -> None:
    shown = {name.partition("/")[0] for name, _ in EXAMPLES}
    assert {"proto", "streaming", "knowledge", "models", "action", "analytics"} <= shown


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_runs_in_an_empty_folder(name: str, code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
