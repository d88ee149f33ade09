"""The embedded topology: files of the first version, and what a failed write leaves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from headspring.knowledge.topology.embedded import EmbeddedTopology
from headspring.knowledge.topology.graph import Edge, Node
from headspring.proto.clock import NS_PER_S
from headspring.proto.errors import BackendError

_NOW_NS = 1_800_000_000 * NS_PER_S
_FIRST_VERSION = """
CREATE TABLE edges (
    tenant TEXT NOT NULL, caller TEXT NOT NULL, callee TEXT NOT NULL, type TEXT NOT NULL, configured INTEGER NOT NULL,
    weight REAL NOT NULL, source TEXT NOT NULL, confidence REAL NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant, configured, caller, callee, type)
) WITHOUT ROWID;
CREATE TABLE nodes (
    tenant TEXT NOT NULL, entity TEXT NOT NULL, kind TEXT NOT NULL, configured INTEGER NOT NULL,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant, configured, entity)
) WITHOUT ROWID;
"""


def test_a_file_of_the_first_version_keeps_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "topology.db"
    with sqlite3.connect(path) as old:
        old.executescript(_FIRST_VERSION)
        old.executemany("INSERT INTO edges VALUES ('t', 'a', ?, 'sync', ?, 2.5, ?, 1.0, ?, ?)", [
            ("b", 0, "spans", _NOW_NS - 600 * NS_PER_S, _NOW_NS), ("c", 1, "config", _NOW_NS, _NOW_NS),
        ])  # fmt: skip
        old.execute("INSERT INTO nodes VALUES ('t', 'a', 'gateway', 0, ?, ?)", (_NOW_NS - 600 * NS_PER_S, _NOW_NS))
    old.close()
    for _ in range(2):
        graph = EmbeddedTopology(path)
        graph.observe("t", [Edge(caller="a", callee="b", last_seen_ns=_NOW_NS + 5000 * NS_PER_S)])
        found = graph.snapshot("t", at_ns=_NOW_NS - 300 * NS_PER_S)
        assert [(edge.callee, edge.source) for edge in found.edges] == [("b", ""), ("c", "config")]
        assert found.by_entity["a"] == Node(entity="a", kind="gateway", last_seen_ns=_NOW_NS)
        assert len(next(iter(graph.export("t").edges.values())).lives) == 2
        graph.close()


def test_what_could_not_be_written_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "topology.db"
    graph = EmbeddedTopology(path)
    graph.observe("t", [Edge(caller="a", callee="b", last_seen_ns=_NOW_NS)])
    with sqlite3.connect(path) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON edges BEGIN SELECT RAISE(ABORT, 'full'); END")
    other.close()
    with pytest.raises(BackendError, match="full"):
        graph.observe("t", [Edge(caller="a", callee="c", last_seen_ns=_NOW_NS)])
    assert graph.snapshot("t", at_ns=_NOW_NS).callees("a") == ("b",)
    graph.close()
