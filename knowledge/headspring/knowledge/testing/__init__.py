"""The contracts of this room's ports as test suites: every backend passes them.

Bind one in a test module::

    class TestDuckDb(SeriesStoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: DuckDbSeriesStore(tmp_path / "series.duckdb")

`open_store()` opens the backend; called again after `close`, it opens the same one with what it held.
"""

from headspring.knowledge.testing.coordination import CoordinationContract
from headspring.knowledge.testing.documents import DocumentStoreContract
from headspring.knowledge.testing.series import SeriesStoreContract
from headspring.knowledge.testing.topology import TopologyContract
from headspring.knowledge.testing.traces import TraceStoreContract

__all__ = [
    "CoordinationContract",
    "DocumentStoreContract",
    "SeriesStoreContract",
    "TopologyContract",
    "TraceStoreContract",
]
