"""The topology in Neo4j keeps the contract of its port, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from neo4j import GraphDatabase
from tests.servers.neo4j import Neo4j, neo4j

from headspring.knowledge.testing import TopologyContract
from headspring.knowledge.testing.topology import OpenTopology
from headspring.knowledge.topology.neo4j_store import Neo4jTopology

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4j]:
    with neo4j(tmp_path_factory.mktemp("neo4j")) as started:
        yield started


class TestNeo4j(TopologyContract):
    @pytest.fixture
    def open_topology(self, server: Neo4j) -> OpenTopology:
        with GraphDatabase.driver(server.uri, auth=(server.user, server.password)) as driver:
            driver.execute_query("MATCH (n) DETACH DELETE n")
        return lambda: Neo4jTopology(
            server.uri, user=server.user, password=server.password, expiry_s=self.expiry_s, answer_s=180
        )
