"""The contract of the audit log."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from headspring.action.audit.chain import AuditLog, Verdict
from headspring.proto.errors import Rejected

OpenAudit = Callable[[], AuditLog]
Tamper = Callable[[str], None]
ENTRIES = 12


def filled(log: AuditLog, count: int = ENTRIES) -> AuditLog:
    for number in range(count):
        log.append(f"user{number % 3}", "run.approved", f"run-{number}", {"n": str(number)}, number, f"t{number % 2}")
    return log


class AuditLogContract:
    """Subclass it; give it `open_audit` (the same record each time) and `tamper` (a statement on its database)."""

    @pytest.fixture
    def open_audit(self) -> OpenAudit:
        raise NotImplementedError("the binding gives a fixture open_audit")

    @pytest.fixture
    def tamper(self) -> Tamper:
        raise NotImplementedError("the binding gives a fixture tamper")

    @pytest.fixture
    def log(self, open_audit: OpenAudit) -> AuditLog:
        return open_audit()

    def test_an_untouched_log_is_whole_before_and_after_a_restart(self, log: AuditLog, open_audit: OpenAudit) -> None:
        assert log.verify() == Verdict(ok=True, checked=0)
        assert filled(log).verify() == Verdict(ok=True, checked=ENTRIES)
        log.close()
        again = open_audit()
        entry = again.append("a", "b", "c", {"é": "ü\u0000"}, 1)
        assert entry.number == ENTRIES + 1
        assert again.verify() == Verdict(ok=True, checked=ENTRIES + 1)
        assert again.entries("default")[0] == [entry]

    def test_pages_are_newest_first_and_of_one_tenant(self, log: AuditLog) -> None:
        filled(log)
        first, cursor = log.entries("t1", 4, "")
        second, end = log.entries("t1", 4, cursor)
        assert [entry.number for entry in first + second] == [12, 10, 8, 6, 4, 2]
        assert end == ""
        assert first[0].detail == {"n": "11"}
        assert log.entries("t2") == ([], "")
        with pytest.raises(Rejected):
            log.entries("t1", 4, "1; DROP")

    def test_threads_that_append_together_make_one_chain(self, log: AuditLog) -> None:
        threads = [
            threading.Thread(target=lambda: [log.append("a", "b", "c", {}, 1) for _ in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.verify() == Verdict(ok=True, checked=40)

    def test_a_detail_above_the_limit_is_refused_and_nothing_is_written(self, log: AuditLog) -> None:
        with pytest.raises(Rejected, match="bytes"):
            log.append("a", "b", "c", {"x": "y" * 70_000}, 1)
        assert log.verify() == Verdict(ok=True, checked=0)

    @pytest.mark.parametrize(
        ("statement", "first_bad", "refused"),
        [
            ("UPDATE audit SET actor = 'eve' WHERE number = 5", 5, False),
            ("UPDATE audit SET time_ns = 99 WHERE number = 12", 12, False),
            ("UPDATE audit SET tenant = 't0' WHERE number = 2", 2, False),
            ("DELETE FROM audit WHERE number = 7", 7, False),
            ("DELETE FROM audit WHERE number > 9", 9, True),
            ("UPDATE audit SET number = 99 WHERE number = 1", 1, True),
        ],
    )
    def test_tampering_is_found_and_nothing_is_added_to_another_end(
        self, log: AuditLog, open_audit: OpenAudit, tamper: Tamper, statement: str, first_bad: int, refused: bool
    ) -> None:
        filled(log)
        tamper(statement)
        for one in (log, open_audit()):
            verdict = one.verify()
            assert (verdict.ok, verdict.first_bad) == (False, first_bad)
            assert verdict.reason
        if refused:
            with pytest.raises(Rejected, match="signed head"):
                log.append("a", "b", "c", {}, 1)

    def test_one_forged_entry_after_the_last_is_found(self, log: AuditLog, tamper: Tamper) -> None:
        filled(log, 3)
        tamper(
            "INSERT INTO audit SELECT 4, tenant, time_ns, 'eve', action, subject, detail, hash, 'f' FROM audit "
            "WHERE number = 3"
        )
        assert not log.verify().ok
        with pytest.raises(Rejected, match="signed head"):
            log.append("a", "b", "c", {}, 1)
