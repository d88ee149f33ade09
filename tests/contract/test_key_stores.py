"""Keys in a SQLite file keep the contract of their store."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.gateway.auth.keys import KeyStore
from headspring.gateway.auth.testing import KeyStoreContract, OpenKeys


class TestSqliteKeys(KeyStoreContract):
    @pytest.fixture
    def open_keys(self, tmp_path: Path) -> OpenKeys:
        return lambda clock: KeyStore(tmp_path, clock=clock)
