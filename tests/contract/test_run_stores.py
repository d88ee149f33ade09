"""Runs and the audit log in SQLite files keep the contract of their stores."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from headspring.action.audit.chain import AuditLog
from headspring.action.store import RunStore
from headspring.action.testing import AuditLogContract, RunStoreContract
from headspring.action.testing.audit import OpenAudit, Tamper
from headspring.action.testing.runs import OpenStore


class TestSqliteRuns(RunStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: RunStore(tmp_path / "actions.db")


class TestSqliteAudit(AuditLogContract):
    @pytest.fixture
    def open_audit(self, tmp_path: Path) -> OpenAudit:
        return lambda: AuditLog(tmp_path / "audit.db", tmp_path / "audit.key", tmp_path / "audit.head")

    @pytest.fixture
    def tamper(self, tmp_path: Path) -> Tamper:
        def run(statement: str) -> None:
            with sqlite3.connect(tmp_path / "audit.db") as connection:
                connection.execute(statement)
            connection.close()

        return run
