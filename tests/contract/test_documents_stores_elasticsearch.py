"""The document store on Elasticsearch keeps the contract of its port, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.elasticsearch import Elasticsearch, elasticsearch

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.knowledge.documents.elasticsearch.store import ElasticsearchDocumentStore
from headspring.knowledge.testing import DocumentStoreContract
from headspring.knowledge.testing.documents import OpenDocuments

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    with elasticsearch(tmp_path_factory.mktemp("elasticsearch")) as node:
        yield node


class TestElasticsearch(DocumentStoreContract):
    @pytest.fixture
    def open_documents(self, server: Elasticsearch) -> Iterator[OpenDocuments]:
        """One installation for all tests, emptied after each: making indices takes longer than using them."""
        settings = ElasticsearchSettings(urls=(server.url,), read_timeout_s=20.0)
        yield lambda: ElasticsearchDocumentStore(settings)
        store = ElasticsearchDocumentStore(settings)
        for tenant in ("t", "other"):
            store.delete_tenant(tenant)
        store.drop_logs_before(2**63 - 1)
        store.close()
