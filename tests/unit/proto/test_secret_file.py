"""Secrets of an installation appear whole or not at all, stay the same, and are nobody else's to read."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headspring.proto.errors import ConfigError
from headspring.proto.secret_file import make_or_read, read_or_make


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
    assert make_or_read(file, b"one") == b"one"
    assert make_or_read(file, b"two") == b"one"
    assert file.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["key"]


def test_all_that_make_a_secret_at_once_get_the_same(tmp_path: Path) -> None:
    for number in range(20):
        file, ready = tmp_path / f"key-{number}", threading.Barrier(8)

        def ask(file: Path = file, ready: threading.Barrier = ready) -> bytes:
            ready.wait()
            return read_or_make(file, 16)

        with ThreadPoolExecutor(8) as pool:
            found = {future.result() for future in [pool.submit(ask) for _ in range(8)]}
        assert found == {file.read_bytes()}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot make .*nowhere/key"):
        read_or_make(tmp_path / "nowhere" / "key", 16)
