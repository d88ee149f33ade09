"""The audit log shows what somebody did to it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from headspring.action.audit.chain import AuditLog, Verdict
from headspring.proto.errors import ConfigError, Rejected

ENTRIES = 12


def _open(folder: Path) -> AuditLog:
    return AuditLog(folder / "audit.db", folder / "audit.key", folder / "audit.head")


def _filled(folder: Path, count: int = ENTRIES) -> AuditLog:
    log = _open(folder)
    for number in range(count):
        log.append(f"user{number % 3}", "run.approved", f"run-{number}", {"n": str(number)}, number, f"t{number % 2}")
    return log


def _tampered(folder: Path, change: Callable[[sqlite3.Connection], object]) -> Verdict:
    with sqlite3.connect(folder / "audit.db") as db:
        change(db)
    db.close()
    log = _open(folder)
    try:
        return log.verify()
    finally:
        log.close()


def test_an_untouched_log_is_whole_before_and_after_a_restart(tmp_path: Path) -> None:
    log = _filled(tmp_path)
    assert log.verify() == Verdict(ok=True, checked=ENTRIES)
    log.close()
    log = _open(tmp_path)
    log.append("a", "b", "c", {}, 1)
    assert log.verify() == Verdict(ok=True, checked=ENTRIES + 1)
    assert (tmp_path / "audit.key").stat().st_mode & 0o077 == 0


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    assert _open(tmp_path).verify() == Verdict(ok=True, checked=0)


def test_pages_are_newest_first_and_of_one_tenant(tmp_path: Path) -> None:
    log = _filled(tmp_path)
    first, cursor = log.entries("t1", 4, "")
    second, end = log.entries("t1", 4, cursor)
    assert [entry.number for entry in first + second] == [12, 10, 8, 6, 4, 2]
    assert end == ""
    assert first[0].detail == {"n": "11"}
    with pytest.raises(Rejected):
        log.entries("t1", 4, "1; DROP")


def test_threads_that_append_together_make_one_chain(tmp_path: Path) -> None:
    log = _open(tmp_path)
    threads = [threading.Thread(target=lambda: [log.append("a", "b", "c", {}, 1) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify() == Verdict(ok=True, checked=40)


def test_a_thousand_random_tamperings_are_all_found(tmp_path: Path) -> None:
    _filled(tmp_path).close()
    source = sqlite3.connect(tmp_path / "audit.db")
    log = _open(tmp_path)
    rng = random.Random(7)
    other = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    rows = source.execute("SELECT * FROM audit ORDER BY number").fetchall()
    columns = [row[1] for row in source.execute("PRAGMA table_info(audit)")]
    # Durability is not what is tested here, and a thousand fsyncs would take long.
    other.execute("PRAGMA synchronous=OFF")
    head = (tmp_path / "audit.head").read_bytes()
    for attempt in range(1_000):
        kind = rng.randrange(5)
        other.execute("BEGIN")
        if kind == 0:
            column = rng.choice(columns[1:])
            value = rng.randrange(10**6, 10**7) if column == "time_ns" else f"x{rng.random()}"
            other.execute(f"UPDATE audit SET {column} = ? WHERE number = ?", (value, rng.randint(1, ENTRIES)))
        elif kind == 1:
            other.execute("DELETE FROM audit WHERE number = ?", (rng.randint(1, ENTRIES),))
        elif kind == 2:
            other.execute("DELETE FROM audit WHERE number > ?", (rng.randint(0, ENTRIES - 1),))
        elif kind == 3:
            one, two = rng.sample(range(1, ENTRIES + 1), 2)
            other.execute("UPDATE audit SET number = -1 WHERE number = ?", (one,))
            other.execute("UPDATE audit SET number = ? WHERE number = ?", (one, two))
            other.execute("UPDATE audit SET number = ? WHERE number = -1", (two,))
        else:
            damaged = bytearray(head)
            damaged[rng.randrange(len(damaged) - 1)] ^= 1 << rng.randrange(7)
            (tmp_path / "audit.head").write_bytes(bytes(damaged))
        other.execute("COMMIT")
        verdict = log.verify()
        assert not verdict.ok, f"tampering {attempt} of kind {kind} was not found"
        assert verdict.reason
        (tmp_path / "audit.head").write_bytes(head)
        other.execute("BEGIN")
        other.execute("DELETE FROM audit")
        other.executemany("INSERT INTO audit VALUES (?,?,?,?,?,?,?,?,?)", rows)
        other.execute("COMMIT")
    assert log.verify().ok
    other.close()
    source.close()


def test_the_first_bad_entry_is_named(tmp_path: Path) -> None:
    _filled(tmp_path).close()
    verdict = _tampered(tmp_path, lambda db: db.execute("UPDATE audit SET actor = 'eve' WHERE number = 5"))
    assert (verdict.ok, verdict.checked, verdict.first_bad) == (False, 4, 5)


def test_a_cut_tail_that_is_written_anew_is_found(tmp_path: Path) -> None:
    """Somebody without our key cuts three entries and lets an own log of the same form add three others."""
    _filled(tmp_path).close()
    forged = tmp_path / "forged"
    forged.mkdir()
    _filled(forged, ENTRIES - 3).close()
    log = _open(forged)
    for number in range(3):
        log.append("eve", "run.approved", f"run-{number}", {}, number)
    log.close()
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"audit.db{suffix}").unlink(missing_ok=True)
    shutil.copy(forged / "audit.db", tmp_path / "audit.db")
    log = _open(tmp_path)
    assert not log.verify().ok
    with pytest.raises(Rejected, match="signed head"):
        log.append("a", "b", "c", {}, 1)
    log.close()
    for name in ("audit.head", "audit.head.new"):
        if (forged / name).exists():
            shutil.copy(forged / name, tmp_path / name)
    assert _open(tmp_path).verify().reason == "the signature of the head is wrong"


def test_one_forged_entry_after_the_last_is_not_taken_for_a_crash(tmp_path: Path) -> None:
    _filled(tmp_path, 3).close()
    saved = {name: (tmp_path / name).read_bytes() for name in ("audit.head",)}
    log = _open(tmp_path)
    log.append("eve", "b", "c", {}, 1)
    log.close()
    (tmp_path / "audit.head").write_bytes(saved["audit.head"])
    log = _open(tmp_path)
    assert not log.verify().ok


def test_a_crash_between_commit_and_rename_loses_nothing(tmp_path: Path) -> None:
    log = _filled(tmp_path, 3)
    before = (tmp_path / "audit.head").read_bytes()
    log.append("a", "b", "c", {}, 1)
    log.close()
    (tmp_path / "audit.head").rename(tmp_path / "audit.head.new")
    (tmp_path / "audit.head").write_bytes(before)
    assert _open(tmp_path).verify() == Verdict(ok=True, checked=4)


def test_a_missing_head_or_key_is_found(tmp_path: Path) -> None:
    _filled(tmp_path).close()
    (tmp_path / "audit.head").unlink()
    assert _open(tmp_path).verify().reason == "the signed head is missing"
    (tmp_path / "audit.key").unlink()
    with pytest.raises(ConfigError, match=r"audit\.key is missing"):
        _open(tmp_path)


def test_a_detail_above_the_limit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = _open(tmp_path)
    with pytest.raises(Rejected, match="bytes"):
        log.append("a", "b", "c", {"x": "y" * 70_000}, 1)
    assert log.verify() == Verdict(ok=True, checked=0)
