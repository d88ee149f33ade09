"""Every backend of the document store keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.knowledge.documents.sqlite import SqliteDocumentStore
from headspring.knowledge.testing import DocumentStoreContract
from headspring.knowledge.testing.documents import OpenDocuments


class TestSqlite(DocumentStoreContract):
    @pytest.fixture
    def open_documents(self, tmp_path: Path) -> OpenDocuments:
        return lambda: SqliteDocumentStore(tmp_path / "documents.db")
