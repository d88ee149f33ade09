"""Secrets of an installation appear whole or not at all, stay the same, and are nobody else's to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headspring.proto.errors import ConfigError
from headspring.proto.secret_file import make, read_or_make


def test_a_secret_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    file = tmp_path / "key"
    first = read_or_make(file, 16)
    assert (len(first), read_or_make(file, 16)) == (16, first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 17])
def test_a_secret_that_was_cut_off_is_refused_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"holds {len(content)} bytes and should hold 16"):
        read_or_make(file, 16)
    assert file.read_bytes() == content


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "key"
    make(file, b"one")
    with pytest.raises(ConfigError, match="File exists"):
        make(file, b"two")
    assert file.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["key"]
