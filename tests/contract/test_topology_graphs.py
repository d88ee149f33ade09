"""Every backend of the topology graph keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.knowledge.testing import TopologyContract
from headspring.knowledge.testing.topology import OpenTopology
from headspring.knowledge.topology.embedded import EmbeddedTopology


class TestEmbedded(TopologyContract):
    @pytest.fixture
    def open_topology(self, tmp_path: Path) -> OpenTopology:
        return lambda: EmbeddedTopology(tmp_path / "topology.db", expiry_s=self.expiry_s)
