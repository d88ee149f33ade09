"""Nothing in the repository depends on, or tells about, the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Spelled in pieces so that this file does not find itself.
_MACHINE_PATHS = re.compile(r"(?<![\w.$}/])/(?:" + "|".join(("ro" + "ot", "ho" + "me/[a-z]", "Us" + "ers/[A-Za-z]", "wo" + "rk", "tm" + "p/[a-z]")) + r")(?:/|\b)")  # fmt: skip  # noqa: E501
_GENERATED = ("uv.lock",)
_MAX_BYTES = 2 * 1024 * 1024
_SECRETS = re.compile(
    r"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b|\bxox[bp]-[0-9]{6,}"
)


def _texts() -> list[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    texts = []
    for name in listing.split("\0"):
        path = ROOT / name
        if name and path.is_file() and name not in _GENERATED:
            data = path.read_bytes()
            if b"\0" not in data[:4096]:
                texts.append((name, data.decode("utf-8")))
    return texts


def test_no_file_holds_a_path_of_a_machine() -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if _MACHINE_PATHS.search(line)
    ]
    assert found == []


def test_no_file_holds_a_secret() -> None:
    assert [name for name, text in _texts() if _SECRETS.search(text)] == []


def test_no_file_is_large() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listing.split("\0") if name and (ROOT / name).is_file()}
    assert {name: size for name, size in sizes.items() if size > _MAX_BYTES} == {}


def test_tests_are_not_packages() -> None:
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
